"""Weights that lie on a grid are found to, and kept on it; others are not."""

from __future__ import annotations

import numpy as np
import pytest

from llm_moments.engines.grids import eight_bits, four_bits, on_grid

gguf = pytest.importorskip("gguf")


def _weights(rows: int = 24, columns: int = 128) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((rows, columns)) * 0.05).astype(np.float32)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q4_1", 4), ("Q5_0", 8), ("Q5_1", 8), ("Q8_0", 8)])
def test_a_quantised_file_is_kept_as_it_is(kind: str, bits: int) -> None:
    made = gguf.GGMLQuantizationType[kind]
    weights = gguf.quants.dequantize(gguf.quants.quantize(_weights(), made), made)
    found = on_grid(weights)
    assert found is not None
    assert found.bits == bits
    # a zero point in float16 is off by less than a hundredth of a step
    assert (
        np.abs(found.unpacked().reshape(found.levels.shape) - weights.reshape(found.levels.shape))
        <= 0.01 * np.abs(found.step)
    ).all()


def test_a_whole_zero_point_would_not_do() -> None:
    """What OpenVINO GenAI's own reader does to Q4_1, and why this one does not."""
    made = gguf.GGMLQuantizationType.Q4_1
    weights = gguf.quants.dequantize(gguf.quants.quantize(_weights(), made), made)
    found = on_grid(weights)
    assert found is not None
    assert found.zero is not None
    rounded = ((found.levels - np.rint(found.zero)) * found.step).reshape(weights.shape)
    assert np.linalg.norm(rounded - weights) > 0.05 * np.linalg.norm(weights)


def test_other_weights_lie_on_none() -> None:
    assert on_grid(_weights()) is None
    assert on_grid(_weights(columns=33)) is None
    made = gguf.GGMLQuantizationType.Q4_1
    mixed = gguf.quants.dequantize(gguf.quants.quantize(_weights(256), made), made)
    mixed[200, 5] += 1e-3  # one weight is enough, and not only among the first rows
    assert on_grid(mixed) is None


@pytest.mark.parametrize(("pack", "levels"), [(four_bits, 15), (eight_bits, 254)])
def test_rounding_is_off_by_half_a_step_at_most(pack, levels: int) -> None:
    weights = _weights()
    weights[3] = 0
    weights[4] = 0.25
    found = pack(weights)
    off = np.abs(found.unpacked() - weights).reshape(found.levels.shape)
    assert (off <= 0.52 * found.step + 1e-6).all()
    assert pack(_weights(columns=40)) is None


def test_blocks_of_one_value() -> None:
    weights = np.repeat(np.float32([[0.0], [0.5], [-0.25]]), 64, 1)
    found = on_grid(weights)
    assert found is not None
    np.testing.assert_allclose(found.unpacked(), weights, atol=1e-4)
