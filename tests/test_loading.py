"""Weights that a folder does not hold are never made up, whatever opens it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llm_moments as lm
from llm_moments.assembly.load import load
from llm_moments.base.errors import ModelError
from llm_moments.core import Example
from llm_moments.engines.base import available
from llm_moments.engines.generating import load_generating
from llm_moments.models.open import open_model
from llm_moments.train.distill import distill
from tests.fakes import LABELS, make_model, make_texts
from tests.fakes_seq import make_marian
from tests.tiny_lm import tiny_gguf, tiny_lm

Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def rewritten(folder: Path, change: Change) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def without(*parts: str) -> Change:
    return lambda tensors: {k: v for k, v in tensors.items() if not any(part in k for part in parts)}


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("part", ["classifier", "layer.1.attention.output.dense.weight"])
def test_a_classifier_without_some_weights_is_refused(part: str, engine: str, tmp_path: Path) -> None:
    if engine not in available():
        pytest.skip("not installed")
    pipe = load(rewritten(make_model(tmp_path / "m"), without(part)), plan={"forward.engine": engine})
    with pytest.raises(ModelError, match=f"lacks weights .*{part}"):
        pipe("good")


def test_transformers_own_table_is_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = rewritten(make_model(tmp_path / "m"), without("classifier"))
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        with pytest.raises(ModelError):
            load(folder)("good")
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records


def test_weights_of_another_shape_are_refused_and_named(tmp_path: Path) -> None:
    def wider(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return tensors | {"classifier.weight": np.zeros((5, 32), np.float32)}

    with pytest.raises(ModelError, match="other shapes"):
        load(rewritten(make_model(tmp_path / "m"), wider))("good")


@pytest.mark.parametrize("make", [tiny_lm, make_marian])
def test_a_model_that_makes_texts_needs_all_weights(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    load_generating(open_model(folder))
    with pytest.raises(ModelError, match=r"lacks weights .*layers\.1"):
        load_generating(open_model(rewritten(folder, without("layers.1.self_attn.q_proj"))))


def test_shared_weights_that_are_stored_once_are_no_fault(tmp_path: Path) -> None:
    folder = rewritten(tiny_lm(tmp_path / "m", "llama-tied"), without("lm_head"))
    load_generating(open_model(folder))
    load_generating(open_model(tiny_gguf(folder, tmp_path / "m.gguf")))


def test_a_gguf_file_without_some_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny_lm(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights .*up_proj"):
        load_generating(open_model(tiny_gguf(folder, tmp_path / "m.gguf")))


def _data() -> list[Example]:
    return [Example(text, LABELS[at % 2]) for at, text in enumerate(make_texts(16))]


def test_a_training_draws_a_new_head_and_nothing_else(tmp_path: Path) -> None:
    base = rewritten(make_model(tmp_path / "base"), without("classifier", "pooler"))
    settings = {"epochs": 1, "batch_size": 8}
    assert lm.train(base, _data(), tmp_path / "out", **settings).folder.is_dir()
    rewritten(base, without("layer.2."))
    with pytest.raises(ModelError, match=r"lacks weights .*layer\.2"):
        lm.train(base, _data(), tmp_path / "other", **settings)


def test_a_vocabulary_of_another_size_is_no_new_head(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    told = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(told | {"vocab_size": told["vocab_size"] + 7}))
    with pytest.raises(ModelError, match=r"other shapes .*word_embeddings"):
        lm.train(base, _data(), tmp_path / "out", epochs=1)


def test_a_teacher_needs_all_weights(tmp_path: Path) -> None:
    teacher = rewritten(make_model(tmp_path / "teacher"), without("classifier"))
    with pytest.raises(ModelError, match="lacks weights"):
        distill(teacher, _data(), tmp_path / "out", student="layers=1", epochs=1)
