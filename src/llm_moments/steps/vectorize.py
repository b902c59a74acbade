"""Text to a sparse row of word features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, whole
from llm_moments.models.vectorizer import Vectorizer


class Vectorize:
    """Writes `features`: for each input (numbers int64 [k], values float32 [k])."""

    name = "vectorize"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("features",)
    knobs: tuple[Knob, ...] = (
        Knob("words", 0, (16, 32, 64, 128, 256, 512), False, whole(0), "first words of a text that are looked at; 0: all"),
        Knob("ngrams", 0, (1, 2), False, whole(0, 5), "longest run of words that is looked at; 0: as the model was made"),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], vectorizer: Vectorizer):
        self.vectorizer = vectorizer
        self.words, self.ngrams = int(settings.get("words", 0)), int(settings.get("ngrams", 0))

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        numbers, values, counts = self.vectorizer.rows(batch["input"], self.words, self.ngrams)
        edges = [0, *np.cumsum(counts).tolist()]
        recorder.count(features=len(numbers))
        return batch.with_(features=list(_cut(numbers, values, edges)))


def _cut(numbers: np.ndarray, values: np.ndarray, edges: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start, end in zip(edges, edges[1:], strict=False):
        yield numbers[start:end], values[start:end]
