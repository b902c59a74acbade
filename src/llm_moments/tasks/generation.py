"""What all tasks share whose answers are texts that a model makes token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.core import Knob, one_of
from llm_moments.errors import DataError, PlanError
from llm_moments.steps.decode import FORWARD, Decode
from llm_moments.tasks.metrics import common_prefix, text_metric

BATCH = (
    Knob("order", "input", ("input", "length"), True, one_of("input", "length"), "input or length: which prompts are decoded together"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """text: what the model answered."""

    text: str


class Generation:
    """Outputs are an array of texts `[n]`; a score is given for each of them.

    metric_name: how an answer is held against its reference. Without references, an answer is held against the
    original's own: the share of its words from the beginning on that are the same.
    """

    name = "generation"
    default_metric = "chrF"
    engines_open = 2  # each holds all weights
    window = 32  # rows that are answered before the next are read: an answer takes seconds, not microseconds

    def __init__(self, metric: str | None = None):
        self.metric_name = metric or self.default_metric
        self._score = None if metric is None else text_metric(metric)  # a name that is unknown is told at once

    def metric(self, model: Any) -> str:
        return self.metric_name

    def has_margins(self, model: Any) -> bool:
        return False

    def margins(self, outputs: np.ndarray, model: Any) -> np.ndarray:
        raise PlanError(f"{model.name} makes texts: they do not say how sure they are, so no cascade can be made of it")

    def probabilities(self, outputs: np.ndarray, model: Any) -> np.ndarray:
        raise PlanError(f"{model.name} makes texts, which have no probabilities")

    def base_knobs(self) -> dict[str, Sequence[Knob]]:
        return {"forward": FORWARD, "decode": Decode.knobs, "batch": BATCH}

    # -- answers and scores

    def answers(self, outputs: np.ndarray, model: Any) -> list[Any]:
        return [TextAnswer(str(text)) for text in outputs]

    def references(self, raw: Iterable[Any], model: Any) -> list[Any]:
        return [self._reference(value, row) for row, value in enumerate(raw, 1)]

    @staticmethod
    def _reference(value: Any, row: int) -> str:
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            value = value[0]  # several right answers: the first one counts
        if not isinstance(value, str):
            raise DataError(f"row {row}: the reference {value!r:.60} is not a text")
        return value

    def scores(self, outputs: np.ndarray, references: Sequence[Any], model: Any) -> np.ndarray:
        self._score = self._score or text_metric(self.metric_name)
        return np.array([self._score(str(o), str(r)) for o, r in zip(outputs, references, strict=True)], np.float64)

    def agreement(self, outputs: np.ndarray, baseline: np.ndarray, model: Any) -> np.ndarray:
        return np.array([common_prefix(str(o), str(b)) for o, b in zip(outputs, baseline, strict=True)], np.float64)

    def divergence(self, outputs: np.ndarray, others: np.ndarray, model: Any) -> np.ndarray:
        """float64 [n]: share of the words that are not part of the beginning both texts have; 0 for the same texts."""
        return 1 - self.agreement(outputs, others, model)

    def as_references(self, outputs: np.ndarray, model: Any) -> list[Any]:
        return [str(text) for text in outputs]

    def argmax_equal(self, outputs: np.ndarray, others: np.ndarray, model: Any) -> np.ndarray:
        return np.asarray(outputs) == np.asarray(others)

    def close(self, outputs: np.ndarray, others: np.ndarray, model: Any, within: float) -> np.ndarray:
        """bool [n]: whether a change gave the same answer, as a lossless one must."""
        return self.argmax_equal(outputs, others, model)


def whole_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} is a text, not {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = value[error.start]
        raise DataError(f"{what} holds {broken!r}, half a character: it was not decoded rightly") from None
    return value
