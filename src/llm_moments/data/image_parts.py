"""An image as patches, any of which can be covered with the image's mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.core.parts import Part, Parts
from llm_moments.data.images import Image, decoded, image_of
from llm_moments.data.pixels import Geometry

ALONG = 8  # patches along the longer side


def image_parts(image: Image, channels: int) -> Parts:
    """channels: 1 or 3, as the model's images are decoded."""
    pixels = np.asarray(decoded(image, channels))
    high, wide = pixels.shape[:2]
    side = max(-(-max(high, wide) // ALONG), 1)
    boxes = [
        (x, y, min(x + side, wide), min(y + side, high)) for y in range(0, high, side) for x in range(0, wide, side)
    ]
    cover = np.round(pixels.reshape(high * wide, -1).mean(axis=0)).astype(np.uint8)
    parts = tuple(Part(f"row {y // side + 1}, column {x // side + 1}", ("image", x, y, r, b)) for x, y, r, b in boxes)

    def keep(kept: Sequence[bool]) -> Any:
        made = pixels.reshape(high, wide, -1).copy()
        for (left, top, right, bottom), on in zip(boxes, kept, strict=True):
            if not on:
                made[top:bottom, left:right] = cover
        return image_of(made if made.shape[2] > 1 else made[:, :, 0])

    return Parts("patches", parts, keep)


def edges(image: Image, channels: int, how: Geometry) -> list[Part]:
    """The stretches at the edges that do not reach a model whose images are made in that way."""
    high, wide = np.asarray(decoded(image, channels)).shape[:2]
    left, top, right, bottom = how.seen(wide, high)
    sides = {
        "left edge": (0, 0, left, high), "right edge": (right, 0, wide, high),
        "top edge": (left, 0, right, top), "bottom edge": (left, bottom, right, high),
    }  # fmt: skip
    return [Part(name, ("image", *box)) for name, box in sides.items() if box[2] > box[0] and box[3] > box[1]]
