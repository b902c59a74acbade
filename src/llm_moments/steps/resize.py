"""Pixels to the size that the model takes: both sides squashed to it, or the middle cropped out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.images import Keeper, pillow

SIZES = (
    8,
    12,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    56,
    64,
    80,
    96,
    112,
    128,
    144,
    160,
    176,
    192,
    208,
    224,
    256,
    288,
    320,
    384,
    448,
    512,
)
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in Pillow's own order of numbers
FITS = ("crop", "squash", "squash+crop")
LARGE = 1 << 22  # pixels: of what would become larger only the part that is kept is made


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
        self.height, self.width, self.channels = height, width, channels
        self.fit, self.crop = settings["fit"], float(settings["crop"])
        self.resample = RESAMPLE.index(settings["resample"])
        self.keeper: Keeper | None = None

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        made = np.empty((batch.size, self.height, self.width, self.channels), np.uint8)
        for row, (one, image) in enumerate(zip(batch["decoded"], batch["input"], strict=True)):
            known = self.keeper.kept(image) if self.keeper is not None else None
            made[row] = self.resized(one) if known is None else known
            if known is None and self.keeper is not None:
                self.keeper.keep(image, made[row])
        return batch.with_(pixels=made, decoded=None)

    def resized(self, one: Any) -> np.ndarray:
        """uint8 [height, width, channels] of a Pillow image or an array."""
        if isinstance(one, np.ndarray):
            if one.shape[:2] == (self.height, self.width) and (self.fit == "squash" or self.crop == 1):
                return one
            one = pillow().fromarray(one[:, :, 0] if self.channels == 1 else one)
        small = self.middle(one, *self.target(*one.size)) if self.fit != "squash" else self.squashed(one)
        return np.asarray(small).reshape(self.height, self.width, self.channels)

    def squashed(self, one: Any) -> Any:
        return one if one.size == (self.width, self.height) else one.resize((self.width, self.height), self.resample)

    def target(self, wide: int, high: int) -> tuple[int, int]:
        """Width and height of the image whose middle is kept. As transformers has it: of `crop` the shorter side is
        size / crop, the longer one as long as it comes to."""
        across, up = int(self.width / self.crop + 1e-6), int(self.height / self.crop + 1e-6)
        if self.fit == "squash+crop":
            return across, up
        edge, side = (up, high) if up * wide >= across * high else (across, wide)
        return max(int(edge * wide / side), self.width), max(int(edge * high / side), self.height)

    def middle(self, one: Any, across: int, up: int) -> Any:
        """The middle of the image at that size, which is never padded; a long and thin one is not made whole for it."""
        left, top = (across - self.width) // 2, (up - self.height) // 2
        if across * up > LARGE:
            wide, high = one.size[0] / across, one.size[1] / up
            box = (left * wide, top * high, (left + self.width) * wide, (top + self.height) * high)
            return one.resize((self.width, self.height), self.resample, box)
        small = one if (across, up) == one.size else one.resize((across, up), self.resample)
        return (
            small
            if (across, up) == (self.width, self.height)
            else small.crop((left, top, left + self.width, top + self.height))
        )
