"""Recording of encoder-decoders: each side by layer, and how far it is from the limit, against counts made by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.engines.generating import load_generating
from llm_moments.models.encoder_decoder_blocks import sides
from llm_moments.models.open import open_model
from llm_moments.record.encoder_decoder import halves
from llm_moments.record.record import observe
from llm_moments.record.session import Session
from tests import fakes_seq, fakes_speech

MAKERS: dict[str, Any] = {
    "whisper": fakes_speech.make_whisper, "marian": fakes_seq.make_marian, "t5": fakes_seq.make_t5,
    "m2m100": fakes_seq.make_m2m100,
}  # fmt: skip
PLANS: dict[str, dict[str, Any]] = {
    "m2m100": {"translate.source_lang": "en", "translate.target_lang": "de"}, "whisper": {"speech.language": "en"},
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("sides") / request.param)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "llm_moments.base.environment.peaks", lambda: {"fp32": 100.0, "bf16": 200.0, "int8": 400.0, "copy_gb": 10.0}
    )


def inputs(folder: Path) -> list[Any]:
    if folder.name == "whisper":
        return [{"array": fakes_speech.tone(s, 300 + 50 * s), "sampling_rate": 16_000} for s in (1, 2, 3)]
    return [source for source, _ in fakes_seq.toy_pairs(6, seed=4)]


def recorded(folder: Path, depth: int = 1, **changes: Any) -> Session:
    plan = {
        "decode.max_new_tokens": 6,
        "decode.beams": 1,
        "forward.streams": 2,
        **PLANS.get(folder.name, {}),
        **changes,
    }
    pipe = lm.load(folder, task=None if folder.name == "whisper" else "translation", plan=plan)
    return observe(pipe, inputs(folder), depth)


def test_each_side_is_found_with_its_embeddings_and_its_head(folder: Path) -> None:
    found = sides(load_generating(open_model(folder)))
    for side, blocks in found.items():
        assert [b.name for b in blocks if b.name.startswith("layer")] == ["layer 0", "layer 1"], side
        assert all(side in b.path for b in blocks if b.name.startswith("layer"))
        assert blocks[0].name == "embeddings"
    assert found["decoder"][-1].name == "head"
    inside = {id(m) for b in found["encoder"] if b.name.startswith("layer") for m in b.module.modules()}
    assert not inside & {id(b.module) for b in found["decoder"]}
    if folder.name == "whisper":
        assert found["encoder"][0].path.endswith("conv1")
        assert found["decoder"][-1].path == "proj_out"


def test_both_sides_are_opened_by_layer_and_add_up(folder: Path) -> None:
    step = recorded(folder, depth=2).root.find("decode")
    parts = {child.name: child for child in step.children}
    assert {"encoder", "prefill", "decode"} <= set(parts)
    for name in ("encoder", "prefill", "decode"):
        names = [child.name for child in parts[name].children]
        assert {"embeddings", "layer 0", "layer 1"} <= set(names), name
        assert sum(child.wall_s for child in parts[name].children) == pytest.approx(parts[name].wall_s, rel=0.05)
        layer = next(child for child in parts[name].children if child.name == "layer 0")
        assert [child.name for child in layer.children] == ["attention", "mlp"]
        assert layer.calls == parts[name].calls or name == "prefill"
        assert parts[name].limit is not None
        assert 0 < parts[name].limit.value < 1, name
    assert sum(child.wall_s for child in step.children) == pytest.approx(step.wall_s, rel=0.05)


def test_the_encoders_limit_is_counted_by_hand(tmp_path: Path) -> None:
    folder = fakes_speech.make_whisper(tmp_path / "whisper")
    encoder = recorded(folder, **{"forward.streams": 1}).root.find("encoder")
    # 32 wide, feed-forward 64, 1500 places; convolutions of 80 and of 32 channels, 3 frames wide, over 3000 and 1500.
    layer = 2 * (4 * 32 * 32 + 2 * 32 * 64) * 1500 + 4 * 32 * 1500**2
    before = 2 * 80 * 32 * 3 * 3000 + 2 * 32 * 32 * 3 * 1500
    assert encoder.counts["positions"] == 3 * 1500
    assert encoder.limit is not None
    assert encoder.limit.value == pytest.approx(3 * (2 * layer + before) / 100e9 / encoder.wall_s)
    one = next(child for child in encoder.children if child.name == "layer 1")
    assert one.limit is not None
    assert one.limit.value == pytest.approx(3 * layer / 100e9 / one.wall_s)


def test_a_decoders_weights_are_its_own_and_the_output_layers(tmp_path: Path) -> None:
    from ctranslate2.converters import TransformersConverter
    from safetensors import safe_open

    folder = fakes_speech.make_whisper(tmp_path / "whisper")
    TransformersConverter(str(folder), copy_files=["tokenizer.json"]).convert(str(tmp_path / "ct2"))
    known = halves(open_model(folder))
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    layers = sum(math.prod(s) for n, s in shapes.items() if "decoder.layers" in n and len(s) == 2)
    assert known is not None
    assert known.decoder == layers + math.prod(shapes["model.decoder.embed_tokens.weight"])
    assert known.cross == 2 * 2 * 32 * 32
    assert known == halves(open_model(tmp_path / "ct2"))


def test_ctranslate2_tells_its_encoders_limit_and_shows_no_layers(tmp_path: Path) -> None:
    folder = fakes_speech.make_whisper(tmp_path / "whisper")
    session = recorded(folder, **{"forward.engine": "ctranslate2", "forward.precision": "int8"})
    encoder, decode = session.root.find("encoder"), session.root.find("decode").find("decode")
    assert encoder.limit is not None
    assert encoder.limit.value is not None
    assert "int8 peak 400" in encoder.limit.note
    assert encoder.children == ()
    assert "no layers inside encoder, decode" in session.notes[0]
    assert decode.calls <= 2 * 7 + 7  # steps, not batches


def test_layers_of_a_decoder_can_be_left_out(folder: Path) -> None:
    plan = {"decode.max_new_tokens": 4, "decode.beams": 1, **PLANS.get(folder.name, {})}
    pipe = lm.load(folder, task=None if folder.name == "whisper" else "translation", plan=plan)
    assert len(pipe.with_(**{"forward.skip_layers": [1]}).outputs(inputs(folder))) == len(inputs(folder))
