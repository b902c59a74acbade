"""Sparse rows to batches: nothing is padded, so rows go together as they come or by their number of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Plan, Recorder, Step
from llm_moments.steps.batch import MakeBatches
from llm_moments.steps.forward import Forward
from llm_moments.steps.vectorize import Vectorize


class SparseBatches:
    """Writes `batches`, a list of (rows, arrays): numbers int64 and values float32 of all their features, and
    where each row's begin, int64 [rows]. With `reuse`, rows of the same features are computed once."""

    name = "batch"
    reads: tuple[str, ...] = ("features",)
    writes: tuple[str, ...] = ("batches", "same_as")
    knobs: tuple[Knob, ...] = tuple(k for k in MakeBatches.knobs if k.name in ("order", "size", "tokens", "reuse"))

    def __init__(self, settings: Mapping[str, Any]):
        known = {knob.name: knob.default for knob in self.knobs} | dict(settings)
        self.order, self.size, self.tokens, self.reuse = (known[n] for n in ("order", "size", "tokens", "reuse"))

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        features = batch["features"]
        rows, same_as = _unique(features) if self.reuse else (np.arange(batch.size), None)
        lengths = np.fromiter((len(features[r][0]) for r in rows), np.int64, len(rows))
        if self.order == "length":
            order = np.argsort(-lengths, kind="stable")
            rows, lengths = rows[order], lengths[order]
        made = [(rows[part], _joined([features[r] for r in rows[part]])) for part in self.parts(lengths)]
        recorder.count(batches=len(made), features=int(lengths.sum()), reused_rows=batch.size - len(rows))
        return batch.with_(batches=made, same_as=same_as)

    def parts(self, lengths: np.ndarray) -> Iterator[slice]:
        """Slices of consecutive rows: at most `size` of them, and at most `tokens` features if that is not 0."""
        start, held = 0, 0
        for row, length in enumerate(lengths.tolist()):
            if row > start and (row - start == self.size or (self.tokens and held + length > self.tokens)):
                yield slice(start, row)
                start, held = row, 0
            held += length
        if len(lengths):
            yield slice(start, len(lengths))


def _joined(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    counts = [len(numbers) for numbers, _ in rows]
    return {
        "numbers": np.concatenate([numbers for numbers, _ in rows]),
        "values": np.concatenate([values for _, values in rows]),
        "begins": np.cumsum([0, *counts[:-1]], dtype=np.int64),
    }


def _unique(features: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    first: dict[bytes, int] = {}
    keys = (numbers.tobytes() + values.tobytes() for numbers, values in features)
    same_as = np.fromiter((first.setdefault(key, at) for at, key in enumerate(keys)), np.int64, len(features))
    return np.fromiter(first.values(), np.int64, len(first)), same_as


def linear_steps(model: Any, plan: Plan, engines: Any) -> list[Step]:
    """The steps of a linear model. As the cheap stage before another model it has its own features: what that
    one's plan says of precut, tokenize and truncate is not about it."""
    return [
        Vectorize(plan.settings("vectorize"), model.vectorizer),
        SparseBatches(plan.settings("batch")),
        Forward(plan.settings("forward"), engines),
    ]
