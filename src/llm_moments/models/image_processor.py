"""transformers' own image processor of a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, EngineMissing, ModelError, MomentsError
from llm_moments.data.images import pillow
from llm_moments.models.model import _read_json

FILE, NESTED = "preprocessor_config.json", "processor_config.json"
MOST = 16_000_000  # pixels that an image may be made to: of a long and thin one by its shorter side


class Processor:
    """An AutoImageProcessor: a Pillow image in RGB -> the arrays of its row, by name."""

    def __init__(self, made: Any, name: str):
        self.object, self.name = made, name

    @property
    def kind(self) -> str:
        return type(self.object).__name__.removesuffix("Pil")

    def __call__(self, image: Any) -> dict[str, np.ndarray]:
        try:
            made = self.object(images=image, return_tensors="np")
        except Exception as error:
            size = getattr(self.object, "size", None)
            told = f" with the size {dict(size)}" if size else ""
            raise ModelError(f"{self.name}: its {self.kind} cannot prepare an image{told}: {error!s:.200}") from error
        return {str(name): np.asarray(array)[0] for name, array in made.items() if hasattr(array, "__len__")}

    def plain(self, answers: Sequence[Mapping[str, np.ndarray]]) -> bool:
        """Whether every image becomes pixels of one shape, [3, height, width]."""
        shapes = {a["pixel_values"].shape if set(a) == {"pixel_values"} else () for a in answers}
        return len(shapes) == 1 and len(min(shapes)) == 3 and min(shapes)[0] == 3

    def check(self, image: Any, name: str) -> None:
        """DataError for an image so long and thin that its shorter side would make it huge."""
        edge = getattr(getattr(self.object, "size", None), "shortest_edge", None)
        short, long = sorted(image.size)
        if edge and edge * edge * long / short > MOST:
            raise DataError(
                f"{name} has {image.size[0]} x {image.size[1]} pixels: with a shorter side of {edge}, as {self.kind} "
                f"wants it, it would have over {MOST:,}. Crop it before, or leave it out with --on-error skip"
            )


def load_processor(model: Any) -> Processor:
    """By the folder's preprocessor_config.json, with Pillow rather than torchvision; ModelError where that cannot be done."""
    try:
        from transformers import AutoImageProcessor
    except ImportError as error:
        raise EngineMissing("transformers", "images") from error
    from llm_moments.models.loading import untold

    pillow()  # or how to install it
    try:
        with untold():
            found = AutoImageProcessor.from_pretrained(
                model.path, backend="pil", image_processor_filename=FILE, local_files_only=True,
                trust_remote_code=model.trust_remote_code,
            )  # fmt: skip
    except MomentsError:
        raise
    except Exception as error:
        said = next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
        named = " or ".join(sorted(_named(model)))
        raise ModelError(f"{model.name}: its image processor {named} cannot be opened here: {said[:300]}") from error
    for name in ("image_mean", "image_std"):  # a grey model's own: it is asked with colours
        told = getattr(found, name, None)
        if isinstance(told, list | tuple) and len(told) == 1:
            setattr(found, name, tuple(told) * 3)
    return Processor(found, model.name)


def _named(model: Any) -> set[str]:
    """The classes that the folder's files name."""
    found: set[str] = set()
    for file in (model.path / FILE, model.path / NESTED):
        told = _read_json(file) if file.exists() else {}
        inner = told.get("image_processor")
        for said in (told, inner if isinstance(inner, dict) else {}):
            found |= {str(said[key]) for key in ("image_processor_type", "feature_extractor_type") if said.get(key)}
    return found
