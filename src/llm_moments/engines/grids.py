"""Weights that lie on a grid: few levels in each block of a row, as quantised files have them.

A GGUF file that was dequantised to float32 still holds, in every block of 32, at most 16 (Q4) or 256 (Q8) equally
spaced values. They can be found again from the values alone and kept in as few bits without losing anything, as long
as the zero point may be a fraction: Q4_1's block minimum is no whole number of steps (rounding it to one, as
OpenVINO GenAI's own GGUF reader does, moves every weight by up to half a step).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 0.02  # of a step: further off, a value is not on the grid
BLOCK = 32


@dataclass(frozen=True)
class Packed:
    """weights = (levels - zero) * step. levels: uint8 or int8 [rows, blocks, block]; step, zero: float32
    [rows, blocks, 1], step exact in float16. bits: 4 or 8. zero None: levels are signed and zero is 0."""

    levels: np.ndarray
    step: np.ndarray
    zero: np.ndarray | None
    bits: int

    def unpacked(self) -> np.ndarray:
        """float32 [rows, columns], with the zero point as float16 keeps it."""
        zero = 0 if self.zero is None else self.zero.astype(np.float16).astype(np.float32)
        values = (self.levels.astype(np.float32) - zero) * self.step
        return values.reshape(len(self.levels), -1)


def on_grid(weights: np.ndarray, block: int = BLOCK) -> Packed | None:
    """The grid these weights lie on, or None if they do not. weights: float32 [rows, columns]."""
    blocks = _blocks(weights, block)
    if blocks is None:
        return None
    for find in (_eight_signed, _four_signed, _from_lowest):  # as Q8_0, Q4_0, and Q4_1 or Q5_1 have them
        if find(blocks[:64]) is not None and (found := find(blocks)) is not None:
            return found
    return None


def _eight_signed(blocks: np.ndarray) -> Packed | None:
    step = _kept(np.abs(blocks).max(-1, keepdims=True) / 127)
    levels = blocks / step
    return Packed(np.rint(levels).astype(np.int8), step, None, 8) if _whole(levels) else None


def _four_signed(blocks: np.ndarray) -> Packed | None:
    """The value that is farthest from zero is level -8, whichever sign that gives the step."""
    far = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    step = _kept(np.abs(far) / 8) * np.where(far > 0, np.float32(-1), np.float32(1))
    levels = blocks / step
    fits = _whole(levels) and levels.min() > -8.5 and levels.max() < 7.5
    return Packed(np.rint(levels).astype(np.int8), step, None, 4) if fits else None


def _from_lowest(blocks: np.ndarray) -> Packed | None:
    step = _steps(blocks)
    low = blocks.min(-1, keepdims=True)
    levels = (blocks - low) / step
    if not _whole(levels) or levels.max() > 63.5:  # with more levels, float16 is too coarse for the zero point
        return None
    return Packed(np.rint(levels).astype(np.uint8), step, -low / step, 4 if levels.max() < 15.5 else 8)


def four_bits(weights: np.ndarray, block: int = BLOCK) -> Packed | None:
    """Rounded to 16 levels between each block's least and greatest value. None if columns do not divide."""
    blocks = _blocks(weights, block)
    if blocks is None:
        return None
    low = blocks.min(-1, keepdims=True)
    step = _kept((blocks.max(-1, keepdims=True) - low) / 15)
    return Packed(np.clip(np.rint((blocks - low) / step), 0, 15).astype(np.uint8), step, -low / step, 4)


def eight_bits(weights: np.ndarray, block: int = BLOCK) -> Packed | None:
    """Rounded to 255 levels on both sides of zero. None if columns do not divide into blocks."""
    blocks = _blocks(weights, block)
    if blocks is None:
        return None
    step = _kept(np.abs(blocks).max(-1, keepdims=True) / 127)
    return Packed(np.clip(np.rint(blocks / step), -127, 127).astype(np.int8), step, None, 8)


def _blocks(weights: np.ndarray, block: int) -> np.ndarray | None:
    rows, columns = weights.shape
    return None if columns % block else np.asarray(weights, np.float32).reshape(rows, -1, block)


def _steps(blocks: np.ndarray) -> np.ndarray:
    """The smallest distance of two different values in each block, made exact over the block's whole range."""
    ordered = np.sort(blocks, -1)
    gaps = np.diff(ordered, axis=-1)
    reach = np.abs(ordered[..., [0, -1]]).max(-1, keepdims=True)
    gaps[gaps <= reach * 1e-4] = np.inf  # the same value, as float32 rounded it
    least = gaps.min(-1, keepdims=True)
    width = ordered[..., -1:] - ordered[..., :1]
    flat = ~np.isfinite(least)
    steps = np.rint(width / np.where(flat, 1, least))
    return _kept(np.where(flat, reach, width / np.maximum(steps, 1)))


def _kept(step: np.ndarray) -> np.ndarray:
    """As float16 keeps it; 1 for a block of zeros or of steps too small for that."""
    kept = step.astype(np.float16).astype(np.float32)
    return np.where((kept > 0) & np.isfinite(kept), kept, np.float32(1))


def _whole(values: np.ndarray) -> bool:
    return bool(np.abs(values - np.rint(values)).max() <= NEAR)
