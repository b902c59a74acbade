"""A Whisper of many languages: which is spoken, what is asked for, times of phrases; both engines, and faster-whisper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.assembly.artefact import save
from llm_moments.base.errors import EngineError, PlanError
from tests.fakes_speech import make_multilingual, tone, write

SHORT = {"decode.max_new_tokens": 16, "decode.beams": 1, "fallback.temperatures": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_multilingual(tmp_path_factory.mktemp("many") / "model")


@pytest.fixture(scope="module")
def pipes(folder: Path) -> dict[str, Any]:
    from ctranslate2.converters import TransformersConverter

    out = folder.parent / "ct2"
    TransformersConverter(str(folder), copy_files=["tokenizer.json"]).convert(str(out))
    return {"transformers": lm.load(folder, plan=SHORT), "ctranslate2": lm.load(out, plan=SHORT)}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    room = tmp_path_factory.mktemp("sounds")
    return [str(write(room / f"{p}.wav", tone(2 + at, p))) for at, p in enumerate((150, 300, 700, 1500, 3000))]


def test_the_language_is_the_likeliest_first_token(pipes: dict[str, Any], sounds: list[str]) -> None:
    import soundfile
    import torch

    from llm_moments.steps.features import LogMel

    pipe = pipes["transformers"]
    engine, known = pipe.steps[0].engine, pipe.steps[0].tokens.languages
    for file, answer in zip(sounds, pipe.run(sounds), strict=True):
        heard = torch.from_numpy(LogMel()(soundfile.read(file, dtype="float32")[0]))[None]
        with torch.no_grad():
            logits = engine.module(input_features=heard, decoder_input_ids=torch.tensor([[50258]])).logits[0, 0]
        assert answer.language == max(known, key=lambda code: float(logits[known[code]]))
        assert answer.text == pipe.with_(**{"speech.language": answer.language})(file).text


def test_ctranslate2_finds_the_same_language_or_says_what_to_do(pipes: dict[str, Any], sounds: list[str]) -> None:
    """It takes some vocabularies for those of English only, and refuses to look."""
    wanted = [answer.language for answer in pipes["transformers"].run(sounds)]
    try:
        assert [answer.language for answer in pipes["ctranslate2"].run(sounds)] == wanted
    except EngineError as error:
        assert "speech.language" in str(error)
        assert not pipes["ctranslate2"].steps[0].engine.model.is_multilingual


def test_what_is_asked_for_is_in_the_prompt(pipes: dict[str, Any], sounds: list[str]) -> None:
    tokens = pipes["ctranslate2"].steps[0].tokens
    assert tokens.prompt("de", "transcribe", False) == (50258, 50261, 50359, 50363)
    assert tokens.prompt("fr", "translate", True) == (50258, 50265, 50358)
    assert len(tokens.languages) == 99
    for name in pipes:
        with pytest.raises(PlanError, match="does not know the language 'xx'"):
            pipes[name].with_(**{"speech.language": "xx"})(sounds[0])


def test_both_engines_write_the_same_times(pipes: dict[str, Any], sounds: list[str]) -> None:
    changes = {"speech.timestamps": True, "speech.language": "en", "decode.max_new_tokens": 40}
    found = {name: [a.segments for a in pipe.with_(**changes).run(sounds)] for name, pipe in pipes.items()}
    assert found["transformers"] == found["ctranslate2"]
    assert any(len(segments) > 1 or segments[0]["start"] > 0 for segments in found["ctranslate2"] if segments)


@pytest.mark.parametrize("timestamps", [False, True])
def test_words_have_times_the_same_in_both_engines(pipes: dict[str, Any], sounds: list[str], timestamps: bool) -> None:
    changes = {"speech.words": True, "speech.language": "en", "speech.timestamps": timestamps}
    found = {name: [a.segments for a in pipe.with_(**changes).run(sounds[:3])] for name, pipe in pipes.items()}
    for ours, theirs in zip(found["transformers"], found["ctranslate2"], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert [w["word"] for w in one["words"]] == [w["word"] for w in other["words"]]
            assert "".join(w["word"] for w in one["words"]) == one["text"].replace(" ", "")
            times = [t for w in one["words"] for t in (w["start"], w["end"])]
            assert times == sorted(times)
            assert times[0] >= 0
            assert times[-1] <= 6.01
            if not timestamps:  # near ties of random attention may go either way
                apart = [abs(a["start"] - b["start"]) for a, b in zip(one["words"], other["words"], strict=True)]
                assert sorted(apart)[len(apart) // 2] <= 0.1


def test_words_of_chunks_that_overlap_are_refused(pipes: dict[str, Any], sounds: list[str]) -> None:
    with pytest.raises(PlanError, match=r"take chunk\.overlap or speech\.words back"):
        pipes["ctranslate2"].with_(**{"speech.words": True, "chunk.overlap": 2.0})(sounds[0])


def test_tokens_become_words_at_spaces_and_at_every_character_where_there_are_none() -> None:
    import numpy as np

    from llm_moments.steps.words import words_of

    pieces = [" Hel", "lo", ",", " wor", "ld", "."]
    decode = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731
    starts = np.arange(7) / 10
    assert words_of(range(6), starts, decode, "en") == [(0.0, 0.3, "Hello,"), (0.3, 0.6, "world.")]
    raw = "你好。".encode()
    split = lambda ids: raw[ids[0] : ids[-1] + 1].decode(errors="replace")  # noqa: E731
    told = words_of(range(len(raw)), np.arange(len(raw) + 1) / 10, split, "zh")
    assert [word for _, _, word in told] == ["你", "好。"]
    assert told[0][:2] == (0.0, 0.3)


def test_an_artefact_brings_the_converted_model(folder: Path, sounds: list[str], tmp_path: Path) -> None:
    """What CTranslate2 runs lies in the artefact: neither torch's weights nor a conversion are needed to load it."""
    plan = {**SHORT, "speech.language": "en", "forward.engine": "ctranslate2", "forward.precision": "int8"}
    pipe = lm.load(folder, plan=plan)
    pipe.engines.cache = tmp_path / "cache"
    said = [a.text for a in pipe.run(sounds[:2])]
    save(pipe, tmp_path / "slim", slim=True)
    assert not list((tmp_path / "slim").rglob("*.safetensors"))
    again = lm.load(tmp_path / "slim")
    again.engines.cache = tmp_path / "nowhere"
    assert [a.text for a in again.run(sounds[:2])] == said
    assert not (tmp_path / "nowhere").exists()
    manifest = json.loads((tmp_path / "slim" / "MANIFEST.json").read_text())
    assert any(name.endswith("model.bin") for name in manifest["files"])


def test_a_sound_is_encoded_once_though_its_language_is_found_out_first(
    pipes: dict[str, Any], sounds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes["ctranslate2"]
    engine, encoded = pipe.engines.get(pipe.plan.settings("forward")), []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name == "encode":
                encoded.append(1)
            return getattr(model, name)

    model = engine.model
    monkeypatch.setattr(engine, "model", Counting())
    # This fake is too small for CTranslate2 to take it for a model of many languages.
    monkeypatch.setattr(engine, "_detected", lambda rows, tokens: [[("<|de|>", 1.0)]] * len(np.asarray(rows)))
    found = pipe.outputs(sounds)
    assert len(encoded) == len(sounds)
    assert not engine.heard
    monkeypatch.setattr(engine, "_kept", lambda *_: None)
    assert pipe.outputs(sounds)["text"].tolist() == found["text"].tolist()
    assert len(encoded) == 3 * len(sounds)
