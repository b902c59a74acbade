"""Any score of an example: what paired scores prove about the mean drop.

Right/wrong scores go to `answers`. All others are bounded by Gaffke's method (2005; found again by
Learned-Miller and Thomas, arXiv 1905.06208): to the n differences one more is added, the largest that
could be, and the weights of the n + 1 are drawn evenly from the simplex, as in the Bayesian bootstrap
(Rubin 1981). The quantile of that weighted mean is the bound. For 0/1 values it is the exact
Clopper-Pearson limit, for many small differences Student's interval, for no differences at all 3/n of
the largest one. That it holds for every distribution and every n is conjectured, not proved; nobody has
found an exception, and our simulations of skewed and sparse scores find none either, while Student's t
certifies falsely up to 60% of the time and the studentised bootstrap up to 14%.

The weighted mean's distribution is a sum of exponentials, which is integrated, not sampled: the same
scores in any order, and any seed, give the same bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_moments.stats.answers import flip_pvalue, paired_flip_bound
from llm_moments.stats.bound import Bound, crossing, error_of, paired

METHOD = "Bayesian bootstrap with the largest drop added (Gaffke)"
UNSEEN = 20.0  # of an unknown range, how much more than the largest of k differences is expected: 20/k
Range = tuple[float, float]


def drop_bound(
    baseline_scores: Any,
    candidate_scores: Any,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    bounds: Range | None = None,
) -> Bound:
    """Bounds for the drop mean(baseline - candidate) of paired scores [n], in the unit of the scores.

    `bounds` are the least and the highest score there can be, also on examples not seen; an end may be
    infinite, as R² has none below. If not given: (0, 1) for scores that all lie there; else, and where an
    end is infinite, their observed range, widened where few examples differ. A loss with rare and huge
    outliers is not covered by that; `assumed` says what was taken. `seed` is taken because intervals
    elsewhere draw; nothing is drawn here. ValueError names the score that is not finite or not within bounds.
    """
    before, after = paired(baseline_scores, candidate_scores)
    if right_or_wrong(before, after, bounds):
        return paired_flip_bound(*flips(before, after), len(before), confidence=confidence)
    alpha, drops = error_of(confidence), before - after
    largest, known = largest_drop(before, after, bounds)
    high, low = _highest(drops, largest, alpha), -_highest(-drops, largest, alpha)
    return Bound(float(drops.mean()), low, high, confidence, METHOD, len(drops), None if known else largest)


def drop_pvalue(
    baseline_scores: Any,
    candidate_scores: Any,
    margin: float,
    *,
    bounds: Range | None = None,
) -> float:
    """p-value of H0: true drop >= margin: < alpha exactly when `high` at confidence 1 - alpha is < margin."""
    before, after = paired(baseline_scores, candidate_scores)
    if right_or_wrong(before, after, bounds):
        return flip_pvalue(*flips(before, after), len(before), margin)
    largest, _ = largest_drop(before, after, bounds)
    drops, times = np.unique(np.append(before - after, largest), return_counts=True)
    return weighted_mean_exceeds(drops, times, margin)


def equivalent(
    baseline_scores: Any,
    candidate_scores: Any,
    margin: float,
    *,
    confidence: float = 0.95,
    bounds: Range | None = None,
) -> bool:
    """Whether mean scores differ by less than margin either way: two one-sided tests (Schuirmann 1987)."""
    bound = drop_bound(baseline_scores, candidate_scores, confidence=confidence, bounds=bounds)
    return -margin < bound.low and bound.high < margin


def flips(baseline_scores: Any, candidate_scores: Any) -> tuple[int, int]:
    """(harmful, beneficial): how many of the paired scores [n] became lower, and how many higher."""
    before, after = paired(baseline_scores, candidate_scores)
    return int((after < before).sum()), int((after > before).sum())


def right_or_wrong(before: np.ndarray, after: np.ndarray, bounds: Range | None) -> bool:
    if bounds is not None and tuple(bounds) != (0, 1):
        return False
    return bool((((before == 0) | (before == 1)) & ((after == 0) | (after == 1))).all())


def largest_drop(before: np.ndarray, after: np.ndarray, bounds: Range | None) -> tuple[float, bool]:
    """The most that one example, seen or not, could lose, and whether that is known."""
    scores = np.concatenate([before, after])
    low, high = bounds or (0.0, 1.0)
    outside = np.flatnonzero((scores < low) | (scores > high))
    if bounds is not None and len(outside):
        i = int(outside[0])
        side = "candidate" if i >= len(before) else "baseline"
        raise ValueError(f"the {side} score of example {i % len(before)} is {scores[i]}, not within {bounds}")
    if not len(outside) and np.isfinite(high - low):
        return float(high - low), True
    drops = np.abs(before - after)
    seen = int((drops > 0).sum())
    if not seen and np.ptp(scores) == 0:
        return float(max(abs(scores[0]), 1.0)), False
    return float(max(np.ptp(scores), drops.max() * (1 + UNSEEN / max(seen, 1)))), False


def _highest(drops: np.ndarray, largest: float, alpha: float) -> float:
    """The smallest drop that is rejected at alpha, if no example can lose more than `largest`."""
    values, times = np.unique(np.append(drops, largest), return_counts=True)
    n, mean = len(drops), float(drops.mean())
    if values[0] == values[-1]:
        return largest
    scale = 1.7 * float(np.sqrt(((drops - mean) ** 2).sum() + (largest - mean) ** 2)) / (n + 1)
    guess = (n * mean + largest) / (n + 1) + scale
    return crossing(lambda drop: weighted_mean_exceeds(values, times, drop), alpha, guess, scale, largest)


def weighted_mean_exceeds(values: np.ndarray, times: np.ndarray, level: float) -> float:
    """P(sum of w_i x_i >= level), w even on the simplex; x are `values` (rising), each so many `times`.

    That is P(S >= 0) for S = sum of E_i (x_i - level), E_i standard exponentials: a Laplace integral
    along a line through the saddle point, which loses no digits (Daniels, Ann. Math. Stat. 25:631, 1954).
    """
    gaps = values - level
    least = 1e-12 * float(np.abs(gaps).max())  # nearer to an end than rounding
    if gaps[-1] <= least or gaps[0] >= -least:
        return float(gaps[0] >= -least)
    gaps = gaps / float(np.abs(gaps).max())
    if (times * gaps).sum() > 0:
        return 1 - _tail(-gaps, times)
    return _tail(gaps, times)


def _tail(gaps: np.ndarray, times: np.ndarray) -> float:
    """P(sum of E_i gaps_i >= 0) where the mean of the sum is not above 0. gaps: [k], of both signs."""
    end = 1 / float(gaps.max())  # the moment generating function is finite up to here
    line = max(_saddle(gaps, times, end), min(0.3, end / 2))
    width = 1 / np.sqrt((times * (gaps / (1 - line * gaps)) ** 2).sum())
    points = 64 if len(gaps) <= 20_000 else 32  # an error below 2e-6, or 5e-5
    step = 5 / points
    u = (np.arange(points) + 0.5) * step
    s = line + 1j * width * np.sinh(u)  # even steps near the saddle, wide ones along slow tails
    values = np.exp(_log_mgf(gaps, times, s)) / s * np.cosh(u)
    return float(np.clip(values.real.sum() * step * width / np.pi, 0.0, 1.0))


def _saddle(gaps: np.ndarray, times: np.ndarray, end: float) -> float:
    """Where the cumulant function is least, by bisection in [0, end)."""
    low, high = 0.0, end
    for _ in range(30):
        middle = (low + high) / 2
        rising = float((times * gaps / (1 - middle * gaps)).sum()) > 0
        low, high = (low, middle) if rising else (middle, high)
    return low


def _log_mgf(gaps: np.ndarray, times: np.ndarray, s: np.ndarray) -> np.ndarray:
    """-sum of times * log(1 - s * gaps) for complex s [points], up to multiples of 2 pi i."""
    often = times > 1
    total = -(times[often] @ np.log(1 - gaps[often, None] * s))
    single = gaps[~often]
    for start in range(0, len(single), 2048):
        factors = 1 - single[start : start + 2048, None] * s
        # Logarithms are dear: one for the product of 8, which cannot overflow.
        total = total - np.log(np.multiply.reduceat(factors, np.arange(0, len(factors), 8))).sum(axis=0)
    return np.asarray(total)
