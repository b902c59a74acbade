"""transformers' own image processor as a step, for a model whose images own steps would make otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder
from llm_moments.errors import DataError, EngineMissing, ModelError, MomentsError
from llm_moments.images import Image, pillow
from llm_moments.model import _read_json
from llm_moments.steps.batch_images import unique

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
    from llm_moments.engines.loading import untold
    from llm_moments.tasks.preprocessing import FILE

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
    from llm_moments.tasks.preprocessing import FILE, NESTED

    found: set[str] = set()
    for file in (model.path / FILE, model.path / NESTED):
        told = _read_json(file) if file.exists() else {}
        inner = told.get("image_processor")
        for said in (told, inner if isinstance(inner, dict) else {}):
            found |= {str(said[key]) for key in ("image_processor_type", "feature_extractor_type") if said.get(key)}
    return found


class Process:
    """Writes `prepared`: for each image a dict of arrays, as the processor makes them. In the place of `Resize`.

    only: the height and width that a graph is made for; DataError for an image of which the processor makes another.
    """

    name = "resize"
    reads: tuple[str, ...] = ("decoded", "input")
    writes: tuple[str, ...] = ("prepared",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, processor: Processor, only: Sequence[int] = ()):
        self.processor, self.only = processor, tuple(only)

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        made = [self.made(one, image) for one, image in zip(batch["decoded"], batch["input"], strict=True)]
        return batch.with_(prepared=made, decoded=None)

    def made(self, one: Any, image: Image) -> dict[str, np.ndarray]:
        whole = pillow().fromarray(one) if isinstance(one, np.ndarray) else one
        self.processor.check(whole, image.name)
        made = self.processor(whole)
        if self.only and (shape := made["pixel_values"].shape[-2:]) != self.only:
            raise DataError(
                f"{image.name}: {self.processor.kind} makes it {shape[1]} x {shape[0]} pixels, and a graph is made for "
                f"{self.only[1]} x {self.only[0]}. Use the engine torch"
            )
        return made


class BatchPrepared:
    """Writes `batches` of rows whose arrays have the same shapes, and `same_as`, as `BatchImages` does."""

    name = "batch"
    reads: tuple[str, ...] = ("prepared",)
    writes: tuple[str, ...] = ("batches", "same_as")
    knobs: tuple[Knob, ...] = ()

    def __init__(self, settings: Mapping[str, Any]):
        self.size, self.reuse = int(settings.get("size", 32)), bool(settings.get("reuse", False))

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        rows: list[dict[str, np.ndarray]] = batch["prepared"]
        kept, same_as = unique([_bytes(row) for row in rows]) if self.reuse else (np.arange(batch.size), None)
        alike: dict[Any, list[int]] = {}
        for row in kept.tolist():
            alike.setdefault(tuple(sorted((name, a.shape) for name, a in rows[row].items())), []).append(row)
        parts = [some[at : at + self.size] for some in alike.values() for at in range(0, len(some), self.size)]
        made = [
            (np.array(part), {n: np.stack([_plain(rows[r][n]) for r in part]) for n in rows[part[0]]}) for part in parts
        ]
        recorder.count(batches=len(made), reused_rows=batch.size - len(kept))
        return batch.with_(batches=made, same_as=same_as, prepared=None)


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64, copy=False)


def _bytes(row: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(f"{name}{array.shape}".encode() + array.tobytes() for name, array in sorted(row.items()))
