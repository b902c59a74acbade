"""What a model wants its images to be like: what its folder says of size, crop, order of channels, mean and spread.

A transformers folder names a class of image processor, and every class has ways of its own. So the folder's own processor is
asked, with a few images of odd shapes; own steps are taken where they make the same pixels, and where they do not the
processor itself is the step (`Preprocessing.processor`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import ModelError
from llm_moments.data.pixels import RESAMPLE, Geometry
from llm_moments.models.image_processor import FILE, NESTED, Processor, load_processor

CNN = "moments-cnn"
ODD = ((53, 37), (37, 61), (40, 40))  # width, height of the images that a processor is asked with
LEVELS = 1.05  # of 0 to 255: how far apart two pixels may be and still count as the same


@dataclass(frozen=True)
class Preprocessing:
    """height, width: of what the model is given. fit: squash both sides to it, or crop the middle out of an
    image whose shorter side is edge / crop, or (squash+crop) out of one that both sides of are squashed to that. A
    pixel p of 0 to 255 becomes (p * rescale - mean) / std; order: which channel of RGB each channel is.

    processor: transformers' own, where no such steps make the same. even: it makes pixels of this height and width
    of every image.
    """

    height: int
    width: int
    channels: int
    fit: str  # squash, crop or squash+crop
    crop: float  # share of the shorter side that is kept
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float = 1 / 255
    offset: float = 0.0
    order: tuple[int, ...] = ()
    processor: Processor | None = None
    even: bool = True

    @property
    def size(self) -> int:
        return self.height


def preprocessing(model: Any) -> Preprocessing:
    """Of a checked model folder, read once; ModelError where the folder does not say what its images are like."""
    if "_preprocessing" not in model.__dict__:
        model.__dict__["_preprocessing"] = _read(model)
    found: Preprocessing = model.__dict__["_preprocessing"]
    return found


def _read(model: Any) -> Preprocessing:
    config, said = model.config, any((model.path / name).exists() for name in (FILE, NESTED))
    try:
        if said:
            return _of_processor(load_processor(model), int(config.get("num_channels", 3)), model.name)
        if "pretrained_cfg" in config:
            return _of_timm(config["pretrained_cfg"])
        if config.get("model_type") == CNN:
            return _of_cnn(config)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{model.name}: what it says of its images cannot be understood: {error!r:.120}") from error
    raise ModelError(
        f"{model.name} does not say how large its images are, and how they are scaled: it has no {FILE}. Copy it "
        "there from where the model comes from: AutoImageProcessor.from_pretrained(…).save_pretrained(…)"
    )


def _of_timm(config: dict[str, Any]) -> Preprocessing:
    channels, height, width = config["input_size"]
    crop, mode = float(config.get("crop_pct", 0.875)), str(config.get("crop_mode") or "center")
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode!r} is not known; known are center, squash")
    return Preprocessing(
        int(height), int(width), int(channels), "crop" if mode == "center" else "squash+crop", crop,
        str(config.get("interpolation", "bicubic")), tuple(map(float, config["mean"])), tuple(map(float, config["std"])),
    )  # fmt: skip


def _of_cnn(config: dict[str, Any]) -> Preprocessing:
    size, channels = config["image_size"], int(config.get("num_channels", 3))
    height, width = size if isinstance(size, list | tuple) else (size, size)
    half = (0.5,) * channels
    return Preprocessing(int(height), int(width), channels, "squash", 1.0, "bilinear", half, half)


# ------------------------------------------------------------------------- a processor, by its answers


def _of_processor(processor: Processor, channels: int, name: str) -> Preprocessing:
    images = [_odd(*size) for size in ODD]
    answers = [processor(image) for image in images]
    wanted = _by_hand(processor, images, answers) if processor.plain(answers) else None
    if wanted is not None:
        few = min(channels, len(wanted.mean))
        return replace(
            wanted,
            channels=channels,
            mean=wanted.mean[:few],
            std=wanted.std[:few],
            order=wanted.order if channels == 3 else (),
        )
    if channels != 3:
        raise ModelError(
            f"{name}: {processor.kind} takes images in colour, and its config.json says {channels} channels"
        )
    made = answers[-1].get("pixel_values", np.zeros((3, 1, 1)))
    height, width = made.shape[-2:] if made.ndim == 3 else (1, 1)
    none = (0.0,) * 3
    return Preprocessing(
        int(height), int(width), 3, "squash", 1.0, "bilinear", none, (1.0,) * 3, processor=processor,
        even=processor.plain(answers),
    )  # fmt: skip


def _by_hand(processor: Processor, images: list[Any], answers: list[dict[str, np.ndarray]]) -> Preprocessing | None:
    """The choices of the own steps that make these answers of these images; None if there are none."""
    black, mixed, white = (_middle(processor, level) for level in ((0, 0, 0), (0, 128, 255), (255, 255, 255)))
    slope = (white - black) / 255
    if len(slope) != 3 or not np.isfinite(slope).all() or (slope == 0).any():
        return None
    levels = (mixed - black) / slope
    order = tuple(int(np.abs(np.array([0, 128, 255]) - level).argmin()) for level in levels)
    std = 1 / (255 * slope)
    height, width = answers[0]["pixel_values"].shape[-2:]
    base = Preprocessing(
        height, width, 3, "squash", 1.0, _filter(processor), tuple(map(float, -black * std)), tuple(map(float, std)),
        order=() if order == (0, 1, 2) else order,
    )  # fmt: skip
    found = (replace(base, fit=fit, crop=crop) for fit, crop in _geometries(processor.object, height))
    return next((one for one in found if _same(one, images, answers)), None)


def _middle(processor: Processor, colour: tuple[int, int, int]) -> np.ndarray:
    from llm_moments.data.images import pillow

    made = processor(pillow().new("RGB", (40, 40), colour))["pixel_values"]
    return np.asarray(made[:, made.shape[1] // 2, made.shape[2] // 2], np.float64)


def _filter(processor: Processor) -> str:
    told = getattr(processor.object, "resample", None)
    return RESAMPLE[int(told)] if told is not None else "bilinear"


def _geometries(said: Any, height: int) -> Iterator[tuple[str, float]]:
    """Ways in which the known classes resize and crop, by what this one says of sizes."""
    size = getattr(said, "size", None)
    sides = [getattr(size, name, None) for name in ("shortest_edge", "height")]
    edge, squashed = (int(n) if n else 0 for n in sides)
    share = float(getattr(said, "crop_pct", None) or 1)
    yield "squash", 1.0
    for larger in {edge, int(edge / share), int(256 / 224 * edge), int(squashed / share) if share < 1 else 0}:
        if larger >= height:
            yield "crop", height / larger
    if squashed > height:
        yield "squash+crop", height / squashed


def _same(wanted: Preprocessing, images: list[Any], answers: list[dict[str, np.ndarray]]) -> bool:
    to = Geometry(wanted.fit, wanted.crop, wanted.resample, wanted.height, wanted.width, 3)
    scale, shift = affine(wanted)
    for image, answer in zip(images, answers, strict=True):
        pixels = to.resized(image)[:, :, list(wanted.order) or [0, 1, 2]].transpose(2, 0, 1)
        expected = answer["pixel_values"]
        apart = np.abs(pixels * scale[:, None, None] + shift[:, None, None] - expected)
        if (apart > LEVELS * np.abs(scale)[:, None, None]).any():
            return False
    return True


def affine(wanted: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """float64 [channels] each: p * scale + shift is what a pixel p of 0 to 255 becomes."""
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    return wanted.rescale / std, (wanted.offset - mean) / std


def _odd(width: int, height: int) -> Any:
    """An image without two like places: slopes, and noise in blocks."""
    from llm_moments.data.images import pillow

    y, x = np.mgrid[0:height, 0:width]
    slopes = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    noise = np.random.default_rng(width).integers(-60, 60, ((height + 3) // 4, (width + 3) // 4, 3))
    blocks = noise.repeat(4, 0).repeat(4, 1)[:height, :width]
    return pillow().fromarray(np.clip(slopes + blocks, 0, 255).astype(np.uint8))


# --------------------------------------------------------------------------------- for other folders


def write(wanted: Preprocessing, folder: Path) -> None:
    """As transformers' image processors read it."""
    if wanted.processor is not None:
        wanted.processor.object.save_pretrained(folder)
        return
    size: dict[str, Any] = {"height": wanted.height, "width": wanted.width}
    told: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size, "do_rescale": True,
        "rescale_factor": wanted.rescale, "do_normalize": True, "image_mean": list(wanted.mean),
        "image_std": list(wanted.std), "resample": RESAMPLE.index(wanted.resample),
    }  # fmt: skip
    if wanted.offset:
        told["image_mean"] = [mean - wanted.offset for mean in wanted.mean]
    edge = int(wanted.height / wanted.crop + 1e-6)
    if wanted.fit == "crop":
        told |= {
            "image_processor_type": "MobileNetV2ImageProcessor",
            "size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": size,
        }  # fmt: skip
    elif wanted.fit == "squash+crop":
        larger = {"height": edge, "width": int(wanted.width / wanted.crop + 1e-6)}
        told |= {
            "image_processor_type": "DeiTImageProcessor",
            "size": larger,
            "do_center_crop": True,
            "crop_size": size,
        }
    if wanted.order:
        told |= _flipped(wanted)
    (folder / FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")


def _flipped(wanted: Preprocessing) -> dict[str, Any]:
    """The only class that turns RGB round scales, and does no more."""
    scale, shift = affine(wanted)
    if wanted.order != (2, 1, 0) or np.ptp(scale) > 1e-9 or np.abs(shift).max() > 1e-9:
        raise ModelError("no image processor of transformers has both another order of channels and a mean of its own")
    return {
        "image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True,
        "rescale_factor": float(scale[0]), "do_center_crop": wanted.fit != "squash",
    }  # fmt: skip
