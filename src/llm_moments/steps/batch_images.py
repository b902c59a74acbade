"""Pixels to the arrays that the model is given: normalised, channels first, some rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, one_of, whole


class BatchImages:
    """Writes `batches`, a list of (rows, {"pixel_values": float32 [rows, channels, height, width]}).

    With `reuse`, images of identical pixels are computed once; `same_as[i]` is the row whose output row i takes.
    """

    name = "batch"
    reads: tuple[str, ...] = ("pixels",)
    writes: tuple[str, ...] = ("batches", "same_as")
    knobs: tuple[Knob, ...] = (
        Knob("size", 32, (8, 16, 32, 64, 128, 256), True, whole(1), "images of a batch, >= 1"),
        Knob("reuse", False, (False, True), True, one_of(False, True), "true or false: exact duplicates are computed once"),
        Knob("window", 1024, (256, 1024), True, whole(1, 1_000_000), "most images that are decoded before any is computed"),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], scale: np.ndarray, shift: np.ndarray, order: tuple[int, ...] = ()):
        """scale, shift: float [channels of the model], p * scale + shift; grey pixels are given to each of its
        channels. order: which channel of RGB each of them is, where it is another one."""
        self.size, self.reuse = int(settings.get("size", 32)), bool(settings.get("reuse", False))
        self.scale = scale.astype(np.float32)[None, :, None, None]
        self.shift = shift.astype(np.float32)[None, :, None, None]
        self.order = list(order)

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        pixels = batch["pixels"]
        rows, same_as = unique(pixels) if self.reuse else (np.arange(batch.size), None)
        parts = [rows[at : at + self.size] for at in range(0, len(rows), self.size)]
        made = [(part, {"pixel_values": self.normalised(pixels[part])}) for part in parts]
        recorder.count(batches=len(made), reused_rows=batch.size - len(rows))
        return batch.with_(batches=made, same_as=same_as, pixels=None)

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        if self.order and pixels.shape[3] == len(self.order):
            pixels = pixels[:, :, :, self.order]
        first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        made = np.multiply(first, self.scale, dtype=np.float32)
        made += self.shift
        return made


def unique(pixels: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct image, and for every row which of those it is."""
    first: dict[bytes, int] = {}
    rows: list[int] = []
    same_as = np.empty(len(pixels), np.int64)
    for row, one in enumerate(pixels):
        at = first.setdefault(one if isinstance(one, bytes) else one.tobytes(), row)
        if at == row:
            rows.append(row)
        same_as[row] = at
    return np.array(rows, np.int64), same_as
