"""What a model wants its images to be like: what its folder says of size, crop, mean and spread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_moments.errors import ModelError
from llm_moments.model import _read_json
from llm_moments.steps.resize import RESAMPLE

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Preprocessing:
    """height, width: of what the model is given. fit: squash both sides to it, or crop the middle out of an
    image whose shorter side is edge / crop. A pixel p of 0 to 255 becomes (p * rescale - mean) / std."""

    height: int
    width: int
    channels: int
    fit: str  # squash or crop
    crop: float  # share of the shorter side that is kept
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float = 1 / 255
    offset: float = 0.0

    @property
    def size(self) -> int:
        return self.height


def preprocessing(model: Any) -> Preprocessing:
    """Of a checked model folder, read once; ModelError where the folder does not say how large its images are."""
    if "_preprocessing" not in model.__dict__:
        model.__dict__["_preprocessing"] = _read(model)
    found: Preprocessing = model.__dict__["_preprocessing"]
    return found


def _read(model: Any) -> Preprocessing:
    config = model.config
    try:
        file = model.path / FILE
        if "pretrained_cfg" in config and not file.exists():
            return _of_timm(config["pretrained_cfg"])
        return _of_transformers(_read_json(file) if file.exists() else {}, config, model.name)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{model.name}: what it says of its images cannot be understood: {error!r:.120}") from error


def _of_timm(config: dict[str, Any]) -> Preprocessing:
    channels, height, width = config["input_size"]
    crop = float(config.get("crop_pct", 0.875))
    return Preprocessing(
        int(height), int(width), int(channels), "crop", crop, str(config.get("interpolation", "bicubic")),
        tuple(map(float, config["mean"])), tuple(map(float, config["std"])),
    )  # fmt: skip


def _of_transformers(said: dict[str, Any], config: dict[str, Any], name: str) -> Preprocessing:
    channels = int(config.get("num_channels", 3))
    size = said.get("size", config.get("image_size"))
    if size is None:
        raise ModelError(
            f"{name} does not say how large its images are: it has no {FILE} with a size, and no image_size in config.json"
        )
    fit, crop, edge = "squash", 1.0, None
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        height, width = (edge, edge) if edge else (size["height"], size["width"])
    else:
        height, width = size if isinstance(size, list | tuple) else (size, size)
    if said.get("do_center_crop") and (inner := said.get("crop_size")):
        inner = inner if isinstance(inner, dict) else {"height": inner, "width": inner}
        fit, crop = "crop", int(inner["height"]) / int(height)
        height, width = inner["height"], inner["width"]
    elif edge is not None and ("crop_pct" in said or _is_convnext(said)):
        crop = float(said.get("crop_pct") or 224 / 256) if int(edge) < 384 else 1.0
        fit = "crop" if int(edge) < 384 else "squash"
    elif edge is not None:
        fit = "crop"
    normalised = said.get("do_normalize", True)
    mean = said.get("image_mean", [0.5] * channels) if normalised else [0.0] * channels
    std = said.get("image_std", [0.5] * channels) if normalised else [1.0] * channels
    rescale = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    return Preprocessing(
        int(height), int(width), channels, fit, float(crop), RESAMPLE[int(said.get("resample", 2))],
        _each(mean, channels), _each(std, channels), rescale, -1.0 if said.get("rescale_offset") else 0.0,
    )  # fmt: skip


def _is_convnext(said: dict[str, Any]) -> bool:
    return "ConvNext" in str(said.get("image_processor_type", ""))


def _each(values: Any, channels: int) -> tuple[float, ...]:
    """One number a channel; a grey model may be told those of three."""
    found = [float(v) for v in (values if isinstance(values, list | tuple) else [values])]
    return tuple(found[:channels]) if len(found) >= channels else tuple(found[:1] * channels)


def write(wanted: Preprocessing, folder: Path) -> None:
    """As transformers' image processors read it."""
    size: dict[str, Any] = {"height": wanted.height, "width": wanted.width}
    told: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size, "do_rescale": True,
        "rescale_factor": wanted.rescale, "do_normalize": True, "image_mean": list(wanted.mean),
        "image_std": list(wanted.std), "resample": RESAMPLE.index(wanted.resample),
    }  # fmt: skip
    if wanted.offset:
        told["rescale_offset"] = True
    if wanted.fit == "crop":
        edge = int(wanted.height / wanted.crop + 1e-6)
        told |= {
            "image_processor_type": "MobileNetV2ImageProcessor",
            "size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": size,
        }  # fmt: skip
    (folder / FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")
