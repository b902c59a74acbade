"""Rounding within training: against a naive reference, its gradient, and what it brings to an int8 graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError
from llm_moments.engines.base import put_on
from llm_moments.models.model import NOTES
from llm_moments.train.distill import distill
from llm_moments.train.students.quantized import rounded_input, rounded_weight, rounding
from tests.fakes import make_model, make_texts


def naive_weight(weight: np.ndarray) -> np.ndarray:
    step = np.abs(weight).max(1, keepdims=True) / 127
    return np.clip(np.round(weight / step), -127, 127) * step


def naive_input(x: np.ndarray) -> np.ndarray:
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = (high - low) / 255
    zero = np.round(-low / step)
    return (np.clip(np.round(x / step) + zero, 0, 255) - zero) * step


def test_the_rounded_product_is_the_naive_one_in_training_and_the_plain_one_in_eval() -> None:
    torch.manual_seed(0)
    x, linear = torch.randn(4, 7, 12), torch.nn.Linear(12, 5)
    plain = linear(x)
    made = rounding(torch.nn.Sequential(linear))
    w, b = (p.detach().numpy().astype(np.float64) for p in linear.parameters())
    wanted = naive_input(x.numpy().astype(np.float64)) @ naive_weight(w).T + b
    np.testing.assert_allclose(made.train()(x).detach().numpy(), wanted, atol=1e-4)
    assert torch.equal(made.eval()(x), plain)
    assert list(made.state_dict()) == ["0.weight", "0.bias"]


def test_other_products_are_rounded_alike() -> None:
    torch.manual_seed(1)
    turned, conv = Conv1D(5, 12), torch.nn.Conv2d(3, 4, 3)
    x, image = torch.randn(4, 7, 12), torch.rand(2, 3, 8, 8)
    w = turned.weight.detach().numpy().T
    wanted = naive_input(x.numpy()) @ naive_weight(w).T
    np.testing.assert_allclose(rounding(turned).train()(x).detach().numpy(), wanted, atol=1e-4)
    kernel = naive_weight(conv.weight.detach().numpy().reshape(4, -1)).reshape(4, 3, 3, 3)
    by_hand = torch.nn.functional.conv2d(
        torch.tensor(naive_input(image.numpy()), dtype=torch.float32),
        torch.tensor(kernel, dtype=torch.float32),
        conv.bias,
    )
    torch.testing.assert_close(rounding(conv).train()(image), by_hand, atol=1e-4, rtol=1e-4)


def test_nothing_but_zeros_stays_zero() -> None:
    assert torch.equal(rounded_input(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.equal(rounded_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_the_gradient_passes_as_if_nothing_were_rounded() -> None:
    torch.manual_seed(2)
    weight = torch.randn(5, 12, requires_grad=True)
    x = torch.randn(4, 12, requires_grad=True)
    (rounded_input(x) * 3).sum().backward()
    rounded_weight(weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 3.0))
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_student_that_learnt_to_be_rounded_is_a_float_folder_that_says_so(tmp_path: Path) -> None:
    teacher = make_model(tmp_path / "t")
    done = distill(teacher, make_texts(24), tmp_path / "s", student="as-is", quantize="int8", epochs=1, max_length=16)
    small = load(done.folder)
    assert small.model.notes["quantize"] == "int8"
    assert (done.folder / NOTES).exists()
    assert small.outputs(["a good film"])["logits"].shape == (1, 3)
    with pytest.raises(InputError, match="int4"):
        distill(teacher, make_texts(4), tmp_path / "x", student="as-is", quantize="int4")


def _with_outliers(model: Path, folder: Path) -> Path:
    """The same answers in float: one channel of each layer's values is large, and what reads it is small."""
    from llm_moments.engines.torch_eager import load_module

    pipe = load(model)
    module = load_module(pipe.model)
    with torch.no_grad():
        for layer in module.bert.encoder.layer:
            for channel in (0, 9):
                layer.attention.self.value.weight[channel] *= 400
                layer.attention.self.value.bias[channel] *= 400
                layer.attention.output.dense.weight[:, channel] /= 400
    module.save_pretrained(folder)
    pipe.model.tokenizer.save_pretrained(folder)
    return folder


def test_an_int8_graph_loses_less_of_a_student_that_learnt_to_bear_it(trained_model: Path, tmp_path: Path) -> None:
    teacher = _with_outliers(trained_model, tmp_path / "t")
    texts, judged = make_texts(400, seed=5), make_texts(200, seed=6)
    base = load(teacher)
    told = base.outputs(judged)
    np.testing.assert_allclose(told, load(trained_model).outputs(judged), atol=1e-3)
    options = {"student": "as-is", "epochs": 4, "max_length": 48, "learning_rate": 3e-4}
    plain = distill(teacher, texts, tmp_path / "plain", **options)
    made = distill(teacher, texts, tmp_path / "int8", quantize="int8", **options)
    lost = {}
    for folder in (teacher, plain.folder, made.folder):
        pipe = load(folder)
        pipe.engines.calibration = pipe.with_(**{"batch.size": 1}).arrays(texts[:60])
        outputs = pipe.with_(**put_on("onnxruntime", "int8"), **{"forward.calibration": "given"}).outputs(judged)
        lost[folder.name] = float(base.task.divergence(told, outputs).mean())
    assert lost["int8"] < 0.5 * min(lost["t"], lost["plain"]), lost
