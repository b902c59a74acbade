"""An estimate with its one-sided bounds, and the checks that every test of pairs makes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Bound:
    """An estimate from n pairs.

    Each bound holds alone: P(truth < high) >= confidence and P(truth > low) >= confidence. Both at
    once hold with 2 * confidence - 1. assumed: the most that one example could lose, where that is an
    assumption and no fact (scores without a range).
    """

    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    n: int
    assumed: float | None = None


def paired(baseline: Any, candidate: Any, what: str = "score") -> tuple[np.ndarray, np.ndarray]:
    """Two float64 arrays [n]; ValueError if the lengths differ or a value is not finite (its index)."""
    before, after = np.asarray(baseline, float), np.asarray(candidate, float)
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(f"paired {what}s are two arrays [n], n >= 1, not {before.shape} and {after.shape}")
    for name, values in (("baseline", before), ("candidate", after)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"the {name} {what} of example {bad[0]} is {values[bad[0]]}, not a number")
    return before, after


def error_of(confidence: float) -> float:
    """1 - confidence; ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return 1 - confidence


def crossing(
    pvalue: Callable[[float], float],
    alpha: float,
    guess: float,
    scale: float,
    high: float,
) -> float:
    """The smallest value that is rejected at alpha, at most 1e-5 `scale` too large; never above `high`.

    For a falling p-value. The root lies within a few times `scale` of `guess`, about a standard error or
    two; on the probit scale the curve is nearly straight, so a handful of evaluations suffice (Brent).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    @cache
    def excess(x: float) -> float:
        return float(ndtri(min(max(pvalue(x), 1e-300), 1 - 1e-15)) - ndtri(alpha))

    here = min(guess, high)
    stride = 0.7 * excess(here)
    there = min(here + scale * (max(stride, 0.05) if stride > 0 else min(stride, -0.05)), high)
    while (excess(here) > 0) == (excess(there) > 0) and here != there:
        here, there = there, min(there + 2 * (there - here), high)
    left, right = min(here, there), max(here, there)
    if left == right:
        return right
    return float(min(brentq(excess, left, right, xtol=4e-6 * scale) + 4e-6 * scale, right))
