"""A forward pass that rounds as an int8 graph does, so that the weights learn to answer well in it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from llm_moments.base.errors import EngineError
from llm_moments.models.nets.pruned import heads_of

LEAST = 1e-8  # a step of a range that holds nothing but zeros


def rounding(module: Any) -> Any:
    """The same module, whose matrix products and convolutions round their weights and inputs while it is trained.

    The gradient passes as if nothing had been rounded (straight-through: Bengio et al. 2013, arXiv:1308.3432; within
    training: Jacob et al. 2018, arXiv:1712.05877). In eval mode nothing is rounded, and
    the weights that are saved are float: an engine rounds them when its graph is built.
    """
    for part in module.modules():
        kind = _KINDS.get(type(part))
        if kind is not None:
            part.__class__ = kind  # weights, names and hooks stay what they are
    for matrix in _into_attention(module):
        matrix.register_forward_hook(_rounded_output)
    return module


def _into_attention(module: Any) -> list[Any]:
    """The matrices of queries, keys and values: what they give goes into products, too, where that is known."""
    try:
        return [matrix for unit in heads_of(module) for matrix, _ in unit.inputs]
    except (EngineError, AttributeError):  # no layers, no attention, no configuration
        return []


def _rounded_output(matrix: Any, args: Any, output: Any) -> Any:
    return rounded_input(output) if matrix.training else output


def rounded_weight(weight: Any, outputs: int = 0) -> Any:
    """int8 with a step of its own for each output (which dimension that is), symmetric: levels -127 to 127."""
    weight = weight.float()
    others = [dim for dim in range(weight.ndim) if dim != outputs]
    step = (weight.detach().abs().amax(others) / 127).clamp_min(LEAST)
    zero = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, step, zero, outputs, -127, 127)


def rounded_input(x: Any) -> Any:
    """uint8 with one step for all, from the smallest to the largest number, as ONNX Runtime calibrates; 0 is a level.

    NNCF's range (the mean over examples of their extremes) is narrower, with finer steps: weights that bear this
    one bear that one. By the batch, not by a memory, so that a training that is gone on with goes the same way.
    """
    x = x.float()
    low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
    step = ((high - low) / 255).clamp_min(LEAST)
    zero = (-low / step).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, step, zero, 0, 255)


class RoundedLinear(torch.nn.Linear):
    def forward(self, x: Any) -> Any:
        if not self.training:
            return super().forward(x)
        return functional.linear(rounded_input(x), rounded_weight(self.weight), self.bias)


class RoundedConv2d(torch.nn.Conv2d):
    def forward(self, x: Any) -> Any:
        if not self.training:
            return super().forward(x)
        return self._conv_forward(rounded_input(x), rounded_weight(self.weight), self.bias)


class RoundedConv1D(Conv1D):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        if not self.training:
            return super().forward(x)
        return functional.linear(rounded_input(x), rounded_weight(self.weight, 1).T, self.bias)


_KINDS: dict[Any, Any] = {torch.nn.Linear: RoundedLinear, torch.nn.Conv2d: RoundedConv2d, Conv1D: RoundedConv1D}
