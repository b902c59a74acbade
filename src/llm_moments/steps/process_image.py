"""transformers' own image processor as a step, for a model whose images own steps would make otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError
from llm_moments.core import Batch, Knob, Recorder
from llm_moments.data.images import Image, pillow
from llm_moments.models.image_processor import Processor
from llm_moments.steps.batch_images import unique


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
