"""Pixels to the size that the model takes: both sides squashed to it, or the middle cropped out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.data.images import Keeper
from llm_moments.data.pixels import FITS, RESAMPLE, Geometry

SIZES = (
    8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112,
    128, 144, 160, 176, 192, 208, 224, 256, 288, 320, 384, 448, 512,
)  # fmt: skip


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.1 <= value <= 1


class Resize:
    """Writes `pixels`: uint8 [rows, height, width, channels]."""

    name = "resize"
    reads: tuple[str, ...] = ("decoded", "input")
    writes: tuple[str, ...] = ("pixels",)
    knobs: tuple[Knob, ...] = (
        Knob("size", 224, SIZES, False, whole(1, 4096), "height in pixels of what the model is given"),
        Knob("fit", "crop", ("crop", "squash"), False, one_of(*FITS), "crop: the middle; squash: everything, out of shape; squash+crop: the middle of that"),
        Knob("crop", 1.0, (1.0, 0.95, 0.9, 0.875), False, _share, "share of the shorter side that crop keeps, 0.1 to 1", {"fit": "squash"}),
        Knob("resample", "bilinear", ("bilinear", "bicubic", "box", "nearest"), False, one_of(*RESAMPLE), f"one of {', '.join(RESAMPLE)}"),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], height: int, width: int, channels: int):
        self.to = Geometry(settings["fit"], float(settings["crop"]), settings["resample"], height, width, channels)
        self.keeper: Keeper | None = None

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        made = np.empty((batch.size, self.to.height, self.to.width, self.to.channels), np.uint8)
        for row, (one, image) in enumerate(zip(batch["decoded"], batch["input"], strict=True)):
            known = self.keeper.kept(image) if self.keeper is not None else None
            made[row] = self.to.resized(one) if known is None else known
            if known is None and self.keeper is not None:
                self.keeper.keep(image, made[row])
        return batch.with_(pixels=made, decoded=None)
