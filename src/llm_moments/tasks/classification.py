"""What classifying texts and classifying images share: outputs `logits` [n, classes], their answers and scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.errors import DataError, PlanError
from llm_moments.core import Knob, Outputs, Task
from llm_moments.core.parts import Support
from llm_moments.core.usage import told
from llm_moments.data import labels as meaning
from llm_moments.data.labels import MULTI, REGRESSION, SINGLE

METRICS = {SINGLE: "accuracy", MULTI: "F1 of each example", REGRESSION: "R²"}


def _margin(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


CASCADE = (
    Knob("threshold", 0.0, (), False, _margin, "the dear plan is asked below this margin, >= 0"),
    Knob("cheap", {}, (), False, lambda v: isinstance(v, dict), "changes that make the cheap plan, such as {'truncate.max_length' = 16}"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """label: the answer (a list of labels for multi-label, the value for regression); score: how
    probable it is (None for regression); scores: the probability of every label. cut_tokens: of the input that the model
    never saw, no part of the answer; None where that is not known, or the input is no text."""

    label: Any
    score: float | None
    scores: dict[str, float]
    cut_tokens: int | None = field(default=None, compare=False)


class Classification(Task):
    """Single label, multi-label, regression, as the model's `problem_type` says. Subclasses add the inputs."""

    classifies = True

    def metric(self) -> str:
        return METRICS[self.model.problem_type]

    def has_margins(self) -> bool:
        return self.model.problem_type != REGRESSION

    # -- answers

    def answers(self, outputs: Outputs) -> list[Answer]:
        labels, cut = self.model.labels, told(outputs, "cut_tokens")
        if self.model.problem_type == REGRESSION:
            rows = outputs["logits"]
            every = [dict(zip(labels, map(float, row), strict=True)) for row in rows]
            return [Answer(float(row[0]), None, some, n) for row, some, n in zip(rows, every, cut, strict=True)]
        probabilities = self.probabilities(outputs)
        best = probabilities.argmax(axis=1)
        answers = []
        for row, winner, unseen in zip(probabilities.tolist(), best.tolist(), cut, strict=True):
            chosen: Any = labels[winner]
            if self.model.problem_type == MULTI:
                chosen = [label for label, p in zip(labels, row, strict=True) if p >= 0.5]
            answers.append(Answer(chosen, row[winner], dict(zip(labels, row, strict=True)), unseen))
        return answers

    def probabilities(self, outputs: Outputs) -> np.ndarray:
        """float64 [n, classes]: softmax, or sigmoid for multi-label; outputs themselves for regression."""
        logits = outputs["logits"].astype(np.float64)
        if self.model.problem_type == REGRESSION:
            return logits
        if self.model.problem_type == MULTI:
            return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def margins(self, outputs: Outputs) -> np.ndarray:
        """Distance of the two best logits; of the least sure logit from 0 for multi-label.

        A number has none: nothing in a regression's output says how sure it is.
        """
        if self.model.problem_type == REGRESSION:
            raise PlanError(
                f"{self.model.name} is a regression: its answers have no margin, so no cascade can be made of it"
            )
        logits = outputs["logits"]
        if self.model.problem_type == MULTI:
            return np.abs(logits).min(axis=1)
        if logits.shape[1] == 1:
            return np.full(len(logits), np.inf)  # the only answer there is
        best = np.partition(logits, -2, axis=1)
        return best[:, -1] - best[:, -2]

    # -- what an answer rests on

    def support(self, pipe: Any, values: Sequence[Any], answer: Outputs) -> Support:
        """The log-odds of the answer against the next one (of several labels: of the least sure one, of a number: how little
        it moves): unlike a probability they do not stand still where the model is sure."""
        outputs = pipe.outputs(values)
        same = self.argmax_equal(outputs, answer[np.zeros(len(outputs), np.int64)])
        logits, told = outputs["logits"].astype(np.float64), answer["logits"].astype(np.float64)[0]
        if self.model.problem_type == REGRESSION:
            return Support(-np.abs(logits[:, 0] - told[0]), same)
        if self.model.problem_type == MULTI:
            return Support((logits * np.where(told > 0, 1, -1)).min(axis=1), same)
        best = int(told.argmax())
        others = np.delete(logits, best, axis=1)
        return Support(logits[:, best] - (others.max(axis=1) if others.size else 0.0), same)

    def told(self, outputs: Outputs) -> tuple[str, float | None]:
        answer = self.answers(outputs)[0]
        if isinstance(answer.label, list):
            return ", ".join(map(str, answer.label)), answer.score
        return f"{answer.label:.4g}" if isinstance(answer.label, float) else str(answer.label), answer.score

    # -- references and scores

    def has_label(self, value: Any) -> bool | None:
        return meaning.labelled(value, self.model.problem_type)

    def reader(self, column: Iterable[Any]) -> meaning.Reading:
        return meaning.reading(self.model.problem_type, self.model.labels, column)

    def references(self, raw: Iterable[Any]) -> list[Any]:
        column, found = list(raw), []
        read = self.reader(column)
        for row, value in enumerate(column, 1):
            try:
                found.append(read(value))
            except DataError as error:
                raise DataError(f"row {row}: {error}") from None
        return found

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        logits = outputs["logits"]
        if self.model.problem_type == SINGLE:
            return (logits.argmax(axis=1) == np.asarray(references)).astype(np.float64)
        if self.model.problem_type == MULTI:
            return np.array([_f1(row, ref) for row, ref in zip(logits > 0, references, strict=True)])
        truth = np.asarray(references, np.float64)
        spread = float(truth.var()) or 1.0  # the mean of these scores is R² of the set
        return 1 - (logits[:, 0].astype(np.float64) - truth) ** 2 / spread

    def bounds(self) -> tuple[float, float]:
        return (-np.inf, 1.0) if self.model.problem_type == REGRESSION else (0.0, 1.0)

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        return self.scores(outputs, self.as_references(baseline))

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n]: how far apart two models' outputs are, example by example.

        Jensen-Shannon divergence of the probabilities in nats (mean over the labels where there may be several);
        for numbers the squared difference, as a share of the variance of the first outputs.
        """
        if self.model.problem_type == REGRESSION:
            logits = outputs["logits"]
            spread = float(logits.var()) or 1.0
            return np.asarray(((logits - others["logits"]).astype(np.float64) ** 2).mean(axis=1) / spread)
        p, q = (self.probabilities(o) for o in (outputs, others))
        if self.model.problem_type == MULTI:
            pairs = [stats.divergence(np.c_[a, 1 - a], np.c_[b, 1 - b]) for a, b in zip(p.T, q.T, strict=True)]
            return np.asarray(np.mean(pairs, axis=0))
        return stats.divergence(p, q)

    def as_references(self, outputs: Outputs) -> list[Any]:
        logits = outputs["logits"]
        if self.model.problem_type == SINGLE:
            return list(logits.argmax(axis=1))
        if self.model.problem_type == MULTI:
            return [frozenset(np.flatnonzero(row > 0).tolist()) for row in logits]
        return logits[:, 0].tolist()

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        """bool [n]: the same answer, and no probability further off than that."""
        apart = np.abs(self.probabilities(outputs) - self.probabilities(others)).max(axis=1)
        return (apart <= within) & self.argmax_equal(outputs, others)

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """bool [n]: whether the answers are the same (within 1e-2 of the spread for regression)."""
        ours, theirs = outputs["logits"], others["logits"]
        if self.model.problem_type == SINGLE:
            return ours.argmax(axis=1) == theirs.argmax(axis=1)
        if self.model.problem_type == MULTI:
            return ((ours > 0) == (theirs > 0)).all(axis=1)
        return np.abs(ours - theirs)[:, 0] <= 1e-2 * (float(theirs.std()) or 1.0)


def _f1(predicted: np.ndarray, reference: frozenset[int]) -> float:
    """F1 of one example's labels; 1 when both sets are empty."""
    chosen = set(np.flatnonzero(predicted).tolist())
    return 1.0 if not chosen and not reference else 2 * len(chosen & reference) / (len(chosen) + len(reference))
