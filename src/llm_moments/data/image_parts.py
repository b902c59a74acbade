"""An image as patches, any of which can be covered with the image's mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.core.parts import Part, Parts
from llm_moments.data.images import Image, decoded, image_of

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
