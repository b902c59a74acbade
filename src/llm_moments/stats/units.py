"""Scores of rows that hang together: each unit (equal rows, a group) counts once, with the mean of its rows.

What is bounded is the mean over units, as if each were drawn by chance with all of its rows. A mean over rows would
be a ratio (both the rows and the drop of a unit are drawn), for which no bound is known that holds at every n.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_moments.stats.answers import paired_flip_bound
from llm_moments.stats.bound import Bound, paired
from llm_moments.stats.scores import Range, drop_bound, largest_drop, right_or_wrong


def unit_means(values: Any, units: Any) -> np.ndarray:
    """float64 [units]: the mean of the values [n] of each unit; units: [n], the same for rows of one unit."""
    _, which = np.unique(np.asarray(units), return_inverse=True)
    return np.asarray(np.bincount(which, np.asarray(values, float)) / np.bincount(which))


def unit_drops(baseline_scores: Any, candidate_scores: Any, units: Any) -> np.ndarray:
    """float64 [units]: by how much the mean of each unit drops; whole numbers stay whole."""
    before, after = paired(baseline_scores, candidate_scores)
    return unit_means(before - after, units)


def unit_drop_bound(
    baseline_scores: Any, candidate_scores: Any, units: Any, *, confidence: float = 0.95, bounds: Range | None = None,
) -> Bound:  # fmt: skip
    """Bounds for the mean over units of the drop of scores [n]. Bound.n counts units.

    Flips are exact where every unit flips as a whole or not at all; else its mean is a score like any other.
    """
    before, after = paired(baseline_scores, candidate_scores)
    drops = unit_drops(before, after, units)
    if right_or_wrong(before, after, bounds) and np.isin(drops, (-1.0, 0.0, 1.0)).all():
        return paired_flip_bound(int((drops > 0).sum()), int((drops < 0).sum()), len(drops), confidence=confidence)
    largest_drop(before, after, bounds)  # names the row whose score cannot be
    one, two = unit_means(before, units), unit_means(after, units)
    if bounds is not None:  # a mean of equal numbers may be a rounding beyond them
        one, two = np.clip(one, *bounds), np.clip(two, *bounds)
    return drop_bound(one, two, confidence=confidence, bounds=bounds)
