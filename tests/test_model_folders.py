"""Model folders that are damaged or hostile: what is loaded is what lies there, and what is kept of it is that, too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_moments.assembly.artefact import save
from llm_moments.assembly.load import load
from llm_moments.base.errors import ModelError, MomentsError, WriteError
from llm_moments.engines import export, foreign
from llm_moments.engines.base import Engines, available
from llm_moments.engines.sharing import shared
from llm_moments.models.model import INDEX
from llm_moments.models.open import open_model
from tests.fakes import make_model
from tests.image_fakes import make_image_model
from tests.tiny_lm import tiny_lm

ENGINE = next((name for name in ("onnxruntime", "openvino") if name in available()), None)


def indexed(folder: Path, place: str) -> Path:
    """The folder with its weights named by an index; the file itself is left to the test."""
    names = load_file(folder / "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, place)}))
    return folder


@pytest.mark.parametrize("how", ["..", "absolute", "link", "folder of links", "lacking"])
def test_weights_from_outside_are_refused(how: str, tmp_path: Path) -> None:
    evil = make_model(tmp_path / "evil", seed=1) / "model.safetensors"
    folder = make_model(tmp_path / "m")
    place = {"..": "../evil/model.safetensors", "absolute": str(evil), "folder of links": "in/model.safetensors"}.get(
        how, "a.safetensors"
    )
    indexed(folder, place)
    (folder / "model.safetensors").unlink()
    if how == "link":
        (folder / place).symlink_to(evil)
    if how == "folder of links":
        (folder / "in").symlink_to(evil.parent)
    with pytest.raises(ModelError, match="no file in this folder"):
        load(folder)


def test_shards_in_the_folder_and_in_the_hub_cache_are_loaded(tmp_path: Path) -> None:
    expected = load(make_model(tmp_path / "m")).outputs(["good film"])
    shot = tmp_path / "hub" / "snapshots" / "rev"
    shutil.copytree(tmp_path / "m", shot)
    (tmp_path / "hub" / "blobs").mkdir()
    indexed(shot, "part/a.safetensors")
    (shot / "part").mkdir()
    (shot / "model.safetensors").rename(tmp_path / "hub" / "blobs" / "abc")
    (shot / "part" / "a.safetensors").symlink_to("../../../blobs/abc")
    pipe = load(shot)
    np.testing.assert_array_equal(pipe.outputs(["good film"]), expected)
    save(pipe, tmp_path / "artefact")
    np.testing.assert_array_equal(load(tmp_path / "artefact").outputs(["good film"]), expected)


def test_an_adapter_would_bring_the_weights_of_another_folder(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "evil")}))
    with pytest.raises(ModelError, match="adapter"):
        load(folder)


def test_a_digest_covers_all_that_is_loaded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    seen = {open_model(folder).digest}
    for name, text in {
        "tokenizer_config.json": json.dumps(json.loads((folder / "tokenizer_config.json").read_text()) | {"truncation_side": "left"}),
        "tokenizer.json": (folder / "tokenizer.json").read_text() + " ", "preprocessor_config.json": "{}",
        "generation_config.json": "{}", "chat_template.jinja": "{{ 1 }}", INDEX: json.dumps({"weight_map": {"a": "model.safetensors"}}),
        "config.json": json.dumps(json.loads((folder / "config.json").read_text()) | {"new": 1}),
    }.items():  # fmt: skip
        (folder / name).write_text(text)
        seen.add(open_model(folder).digest)
    assert len(seen) == 8
    (folder / "README.md").write_text("words")
    assert open_model(folder).digest in seen


def test_an_artefact_that_claims_to_be_another_model_does_not_write_into_its_cache(tmp_path: Path) -> None:
    """An old artefact has another digest than is computed now: it is still opened, and known by its own word."""
    save(load(make_model(tmp_path / "m")), tmp_path / "artefact")
    manifest = tmp_path / "artefact" / "MANIFEST.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"model_digest": "0" * 32}))
    pipe, genuine = load(tmp_path / "artefact"), load(tmp_path / "m")
    assert pipe.model.digest == "0" * 32
    assert pipe.engines.store({"engine": "openvino"}) == genuine.engines.store({"engine": "openvino"})
    assert "0" * 16 not in str(pipe.engines.store({"engine": "openvino"}))


@pytest.mark.skipif(ENGINE is None, reason="no graph engine is installed")
def test_a_graph_that_was_cut_is_built_again(tmp_path: Path) -> None:
    model = open_model(make_model(tmp_path / "m"))
    settings, fields = (
        {"engine": ENGINE},
        {
            "input_ids": np.array([[2, 7, 3]]),
            "attention_mask": np.ones((1, 3), int),
            "token_type_ids": np.zeros((1, 3), int),
        },
    )
    first = Engines(model, cache=tmp_path / "cache")
    expected = first.get(settings).forward(fields)["logits"]
    first.close()
    store = first.store(settings)
    large = max(store.iterdir(), key=lambda file: file.stat().st_size)
    large.write_bytes(large.read_bytes()[: large.stat().st_size // 2])
    found = Engines(model, cache=tmp_path / "cache").get(settings).forward(fields)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_full_disk_is_not_the_models_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path) -> list[str]:
        raise RuntimeError("Could not save the graph")

    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with pytest.raises(WriteError, match="disk is full"), foreign.failing_as("OpenVINO cannot take this model"):
        export.build(tmp_path / "store", make)
    monkeypatch.undo()
    with (
        pytest.raises(MomentsError, match="cannot take this model"),
        foreign.failing_as("OpenVINO cannot take this model"),
    ):
        export.build(tmp_path / "store", make)


def edited(folder: Path, file: str, **fields: Any) -> Path:
    told = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(told | fields))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("whole") / "m")


ODD: list[Any] = [5, [1], [[]], {"a": 1}, "x", [], True, -7, 1.5, {}]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("config.json", name) for name in ("architectures", "model_type", "id2label", "num_labels", "problem_type",
        "pad_token_id", "vocab_size", "max_position_embeddings", "num_hidden_layers", "pretrained_cfg", "text_config")
    ] + [("tokenizer_config.json", name) for name in ("model_max_length", "padding_side", "truncation_side", "chat_template")]
    + [("moments.json", name) for name in ("task", "max_length")],
)  # fmt: skip
def test_wrong_types_are_an_error_that_can_be_read(
    file: str, name: str, value: Any, whole: Path, tmp_path: Path
) -> None:
    folder = edited(Path(shutil.copytree(whole, tmp_path / "m")), file, **{name: value})
    try:
        load(folder)
    except MomentsError as error:
        assert error.exit_code == 2


@pytest.mark.parametrize(
    "name", ["num_hidden_layers", "num_labels", "vocab_size", "hidden_size", "max_position_embeddings"]
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_made(name: str, whole: Path, tmp_path: Path) -> None:
    folder = edited(Path(shutil.copytree(whole, tmp_path / "m")), "config.json", **{name: 10**9})
    with pytest.raises(ModelError, match=name):
        load(folder)


def test_too_many_layers_in_a_list(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="depths"):
        load(edited(make_image_model(tmp_path / "m", "resnet"), "config.json", depths=[2, 10**6]))


def test_a_config_that_was_changed_is_read_again_in_one_process(tmp_path: Path) -> None:
    folder = tiny_lm(tmp_path / "m")
    first = shared(open_model(folder))
    edited(folder, "config.json", rms_norm_eps=0.5)
    assert shared(open_model(folder)).config.rms_norm_eps == 0.5
    assert first.config.rms_norm_eps != 0.5
    text = make_model(tmp_path / "t")
    before = load(text)("good").label
    labels = json.loads((text / "config.json").read_text())["id2label"]
    edited(text, "config.json", id2label={k: f"new {v}" for k, v in labels.items()})
    assert load(text)("good").label == f"new {before}"


def test_files_beside_the_weights_are_not_weights(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    digest = open_model(folder).digest
    save_file({"a": np.zeros(3, np.float32)}, folder / "other.safetensors")
    assert open_model(folder).digest == digest
