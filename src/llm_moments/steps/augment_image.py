"""Changes of images that leave their class as it is, and mixtures of images with mixed targets.

Images are `[n, height, width, channels]` (or a list of `[height, width, channels]` of unlike sizes), uint8 from
0 to 255 or floats from 0 to 1. Nothing is changed in place; type and shape stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.steps.augment import IMAGE, wanted


def augment(images: Any, rng: np.random.Generator, spec: Mapping[str, float]) -> Any:
    """The images after the changes of `spec` (see `steps.augment.IMAGE`; mixup and cutmix are `mix`'s)."""
    if not isinstance(images, np.ndarray):
        return [augment(image[None], rng, spec)[0] for image in images]
    for change, amount in wanted(spec, IMAGE):
        images = change(images, rng, amount)
    return images


def mix(
    images: np.ndarray, targets: np.ndarray, rng: np.random.Generator, spec: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Images and soft targets (float32 `[n, classes]`) after mixup or cutmix; one of them at random if both are
    asked for. targets: as the result, or whole numbers of classes made such rows by `one_hot`."""
    ways = list(wanted(spec, IMAGE, mixes=True))
    if not ways or len(images) < 2:
        return images, targets
    way, amount = ways[int(rng.integers(len(ways)))]
    mixed: tuple[np.ndarray, np.ndarray] = way(images, targets, rng, amount)
    return mixed


def one_hot(classes: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[np.asarray(classes)]


def flip(images: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    chosen = rng.random(len(images)) < share
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def crop(images: np.ndarray, rng: np.random.Generator, pad: float) -> np.ndarray:
    """Black round the image, then a part of the image's own size from anywhere (He et al. 2016, arXiv:1512.03385)."""
    wide, (n, height, width, _) = int(pad), images.shape
    padded = np.pad(images, ((0, 0), (wide, wide), (wide, wide), (0, 0)))
    top, left = rng.integers(0, 2 * wide + 1, (2, n))
    rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def colour(images: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Brightness, contrast and, where there are three channels, saturation, each by a factor 1 ± most."""
    full = 255.0 if images.dtype == np.uint8 else 1.0
    factors = rng.uniform(1 - most, 1 + most, (3, len(images), 1, 1, 1)).astype(np.float32)
    values = images.astype(np.float32) * factors[0]
    middle = values.mean(axis=(1, 2, 3), keepdims=True)
    values = middle + factors[1] * (values - middle)
    if images.shape[-1] == 3:
        grey = values @ np.array([[0.299], [0.587], [0.114]], np.float32)  # ITU-R BT.601
        values = grey + factors[2] * (values - grey)
    return _as(np.clip(values, 0, full), images.dtype)


def mixup(
    images: np.ndarray, targets: np.ndarray, rng: np.random.Generator, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each image and its target mixed with another's (Zhang et al. 2018, arXiv:1710.09412)."""
    share, others = rng.beta(alpha, alpha), rng.permutation(len(images))
    mixed = share * images.astype(np.float32) + (1 - share) * images[others].astype(np.float32)
    return _as(mixed, images.dtype), _blend(targets, others, share)


def cutmix(
    images: np.ndarray, targets: np.ndarray, rng: np.random.Generator, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of each image is another's, targets by the area (Yun et al. 2019, arXiv:1905.04899)."""
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    (height, width), others = images.shape[1:3], rng.permutation(len(images))
    spans = []
    for length in (height, width):
        middle, half = rng.integers(length), side * length / 2
        spans.append(slice(int(np.clip(middle - half, 0, length)), int(np.clip(middle + half, 0, length))))
    made = images.copy()
    made[:, spans[0], spans[1]] = images[others][:, spans[0], spans[1]]
    put = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start)
    return made, _blend(targets, others, 1 - put / (height * width))


def _blend(targets: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    targets = np.asarray(targets, np.float32)
    return (share * targets + (1 - share) * targets[others]).astype(np.float32)


def _as(values: np.ndarray, kind: Any) -> np.ndarray:
    return (np.rint(values) if kind == np.uint8 else values).astype(kind)
