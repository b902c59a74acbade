"""A candidate that answers slowly, held against the certification split in thirds: as few answers as the proof takes.

Each candidate of a fixed sequence may have looks of its own that spend the whole error between them: what must not go
wrong is the first candidate that is no better than the budget, however it is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.core import Outputs
from llm_moments.core.outputs import concat
from llm_moments.evaluate.evaluation import Evaluation, assumption
from llm_moments.improve.certify import CONFIDENCE, Look
from llm_moments.stats.sequential import Looks, boundaries

FUTILE = 0.05  # the chance to pass below which no more is answered
Answer = Callable[[list[int]], Outputs]
Base = Callable[[list[int], int], Outputs]


@dataclass(frozen=True)
class Sequential:
    """The test's result, and what it took. rows: those that were answered, in the order of `outputs`; at: looks taken;
    why: passed, futile or failed (all rows are seen)."""

    look: Look
    rows: list[int]
    outputs: Outputs
    at: int
    why: str


def sequential_look(
    part: Evaluation, baseline: Base, answer: Answer | None, key: str, max_drop: float, *, looks: int = 3,
    told: Callable[[int, int], Any] = lambda seen, of: None,
) -> Sequential:  # fmt: skip
    """The test of `drop < max_drop`. baseline, answer: the baseline's and the candidate's outputs for rows of the part,
    each asked once for each row (the baseline also gets the number of the look; answer is None where the plan is the one that
    the baseline's outputs come from); told: rows that are answered, before each look, of how many."""
    plan = boundaries(part.independent, max_drop, looks=looks, confidence=CONFIDENCE)
    rows: list[int] = []
    made: list[Outputs] = []
    base: list[Outputs] = []
    for at, more in enumerate(portions(part, plan.n)):
        rows, base = rows + more, [*base, baseline(more, at)]
        made.append(base[-1] if answer is None else answer(more))
        told(len(rows), len(part))
        outputs, seen, first = concat(made), part.take(rows), concat(base)
        before, after = seen.scores(first, first), seen.scores(outputs, first)
        passed = _passes(seen, plan, at, before, after)
        last = at + 1 == len(plan.n)
        if passed or last or _hope(seen, plan, at, before, after) < FUTILE:
            break
    high = _highest(seen, plan, at, before, after, passed)
    found = _look(seen, before, after, key, max_drop, passed, high)
    return Sequential(found, rows, outputs, at + 1, "passed" if passed else "failed" if last else "futile")


def portions(part: Evaluation, ends: tuple[int, ...]) -> list[list[int]]:
    """The rows of each look: whole units, in an order by chance that the rows' own order does not sway (data may be
    sorted by label), the same at every call."""
    units = np.arange(len(part)) if part.units is None else part.units
    known, which = np.unique(units, return_inverse=True)
    place = np.argsort(np.random.default_rng(0).permutation(len(known)))[which]
    starts = (0, *ends[:-1])
    return [np.flatnonzero((place >= a) & (place < b)).tolist() for a, b in zip(starts, ends, strict=True)]


def _passes(part: Evaluation, plan: Looks, at: int, before: np.ndarray, after: np.ndarray) -> bool:
    if _flips(part, before, after):
        return plan.passes(*part.flips(before, after), at)
    return part.drop(before, after, confidence=1 - plan.errors[at]).high < plan.max_drop


def _highest(part: Evaluation, plan: Looks, at: int, before: np.ndarray, after: np.ndarray, passed: bool) -> float:
    """An upper bound of the drop that holds at every look together; on the side of the budget that the test is on."""
    high = part.drop(before, after, confidence=1 - plan.errors[at]).high
    return min(high, float(np.nextafter(plan.max_drop, 0))) if passed else max(high, plan.max_drop)


def _flips(part: Evaluation, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether every unit is right or wrong as a whole, as scores and as units."""
    if (told := part.pipe.task.bounds()) is not None and tuple(told) != (0, 1):
        return False
    whole = np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all()
    return bool(whole and np.isin(part.drops(before, after), (-1.0, 0.0, 1.0)).all())


def _hope(part: Evaluation, plan: Looks, at: int, before: np.ndarray, after: np.ndarray) -> float:
    """The chance to pass the last look, if the rest is like what was seen."""
    from scipy.special import ndtr, ndtri

    if _flips(part, before, after):
        return plan.hope(*part.flips(before, after), at)
    drops, seen, n = part.drops(before, after), plan.n[at], plan.n[-1]
    spread = float(drops.std()) + 1e-12
    room = plan.max_drop - float(drops.mean()) + float(ndtri(plan.errors[-1])) * spread / n**0.5
    # Of what is still to come nothing is known but the mean, which is itself uncertain.
    return float(ndtr(room / (spread * (1 / seen - 1 / n) ** 0.5 * (1 + 1 / seen**0.5))))


def _look(
    part: Evaluation, before: np.ndarray, after: np.ndarray, key: str, max_drop: float, passed: bool, high: float
) -> Look:
    bound: stats.Bound = part.drop(before, after)
    return Look(
        key, passed, bound.estimate, high, float(after.mean()), float(before.mean()), *part.flips(before, after),
        part.needs(before, after, max_drop, CONFIDENCE), assumption(bound),
    )  # fmt: skip
