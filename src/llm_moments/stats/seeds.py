"""Two ways of training, each run with the same few seeds: what they prove about the drop, seeds and examples both at work.

Scores of one evaluation set tell how the mean would differ on other examples; runs with other seeds, how it would
differ with other heads, orders and dropout. Each side of the bound takes both in quadrature: the exact bound for the
examples (`drop_bound` of scores averaged over the seeds), and Student's t for the seeds. With two or three seeds the
latter would be hopeless for each pair alone; the spread between seeds is therefore pooled over all pairs of a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.stats.bound import Bound, error_of
from llm_moments.stats.scores import drop_bound

METHOD = "paired by seed and example; t over seeds (pooled), in quadrature with the bound over examples"


def pooled_seed_variance(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, int]:
    """Variance between seeds of the mean drop, and its degrees of freedom. pairs: of arrays [seeds, n]."""
    squares, degrees = 0.0, 0
    for before, after in pairs:
        drops = np.asarray(before, float).mean(1) - np.asarray(after, float).mean(1)
        squares += float(((drops - drops.mean()) ** 2).sum())
        degrees += len(drops) - 1
    return (squares / degrees if degrees else 0.0), degrees


def seeded_drop_bound(
    baseline_scores: Any, candidate_scores: Any, *, variance: float, degrees: int, confidence: float = 0.95,
) -> Bound:  # fmt: skip
    """Bounds for the drop of mean(baseline - candidate), scores [seeds, n]; variance and degrees: of the seeds.

    ValueError without a degree of freedom: one seed tells nothing about seeds.
    """
    from scipy.special import stdtrit

    before, after = np.asarray(baseline_scores, float), np.asarray(candidate_scores, float)
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(f"scores are two arrays [seeds, n], not {before.shape} and {after.shape}")
    if degrees < 1:
        raise ValueError("one seed tells nothing about how far seeds are apart; run two or more")
    examples = drop_bound(before.mean(0), after.mean(0), confidence=confidence)
    seeds = float(stdtrit(degrees, 1 - error_of(confidence))) * (variance / len(before)) ** 0.5
    low = examples.estimate - float(np.hypot(examples.estimate - examples.low, seeds))
    high = examples.estimate + float(np.hypot(examples.high - examples.estimate, seeds))
    return Bound(examples.estimate, low, high, confidence, METHOD, before.shape[1])


def mean_bound(values: Any, confidence: float = 0.95) -> Bound:
    """One-sided t bounds of a mean over seeds: values [seeds], two or more of them."""
    from scipy.special import stdtrit

    known = np.asarray(values, float)
    if known.ndim != 1 or len(known) < 2:
        raise ValueError(f"a mean over seeds takes two or more values, not {known.shape}")
    half = float(stdtrit(len(known) - 1, 1 - error_of(confidence)) * known.std(ddof=1) / len(known) ** 0.5)
    mean = float(known.mean())
    return Bound(mean, mean - half, mean + half, confidence, "Student's t over seeds", len(known))
