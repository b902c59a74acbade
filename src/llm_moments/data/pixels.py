"""An image to the height and width that a model takes: squashed to it, or the middle cropped out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.data.images import pillow

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in Pillow's own order of numbers
FITS = ("crop", "squash", "squash+crop")
LARGE = 1 << 22  # pixels: of what would become larger only the part that is kept is made


@dataclass(frozen=True)
class Geometry:
    """fit: one of FITS; crop: share of the shorter side that is kept; resample: one of RESAMPLE."""

    fit: str
    crop: float
    resample: str
    height: int
    width: int
    channels: int

    @property
    def filter(self) -> int:
        return RESAMPLE.index(self.resample)

    def resized(self, one: Any) -> np.ndarray:
        """uint8 [height, width, channels] of a Pillow image or an array."""
        if isinstance(one, np.ndarray):
            if one.shape[:2] == (self.height, self.width) and (self.fit == "squash" or self.crop == 1):
                return one
            one = pillow().fromarray(one[:, :, 0] if self.channels == 1 else one)
        small = self.middle(one, *self.target(*one.size)) if self.fit != "squash" else self.squashed(one)
        return np.asarray(small).reshape(self.height, self.width, self.channels)

    def squashed(self, one: Any) -> Any:
        return one if one.size == (self.width, self.height) else one.resize((self.width, self.height), self.filter)

    def seen(self, wide: int, high: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what reaches the model of an image of that size, in its own pixels, rounded outwards."""
        if self.fit == "squash":
            return 0, 0, wide, high
        across, up = self.target(wide, high)
        left, top = (across - self.width) // 2, (up - self.height) // 2
        return (
            int(left * wide / across), int(top * high / up),
            min(int(np.ceil((left + self.width) * wide / across)), wide),
            min(int(np.ceil((top + self.height) * high / up)), high),
        )  # fmt: skip

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
            return one.resize((self.width, self.height), self.filter, box)
        small = one if (across, up) == one.size else one.resize((across, up), self.filter)
        return (
            small
            if (across, up) == (self.width, self.height)
            else small.crop((left, top, left + self.width, top + self.height))
        )
