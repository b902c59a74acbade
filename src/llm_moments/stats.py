"""Paired tests, intervals and sample sizes: pure functions of arrays. Every bound is one-sided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

RARE = 30  # fewer differing examples than this, and a bootstrap of scores is not to be trusted alone
LARGE = 5000  # from here on the score method is used as it is; its exact size was checked below
DOUBT = 0.001  # what Berger and Boos' confidence set for the nuisance rate costs


@dataclass(frozen=True)
class Bound:
    """estimate, and bounds that each hold with `confidence` on their own side."""

    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    n: int


# ------------------------------------------------------------------------------- right and wrong


def score_z(harmful: Any, beneficial: Any, n: int, drop: float) -> Any:
    """Tango's score statistic of H0: rate(harmful) - rate(beneficial) = drop (Stat. Med. 1998, 17:891)."""
    h, b = np.asarray(harmful, float), np.asarray(beneficial, float)
    linear = -h - b + (2 * n - h + b) * drop
    constant = -b * drop * (1 - drop)
    rate = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
    spread = np.sqrt(np.maximum(n * (2 * rate + drop * (1 - drop)), 1e-300))
    return (h - b - n * drop) / spread


@lru_cache(maxsize=65536)
def flip_pvalue(harmful: int, beneficial: int, n: int, drop: float) -> float:
    """p-value of H0: true drop >= `drop` (0 < drop < 1), given right->wrong and wrong->right counts.

    Exact and unconditional: the probability of a score statistic as small as this one, at the worst
    rate of beneficial flips within its 99.9% confidence set (Berger and Boos, JASA 1994, 89:1012).
    Beyond `LARGE` examples rare flips are taken as Poisson counts, frequent ones as normal.
    """
    from scipy import stats as sp

    if not 0 <= harmful + beneficial <= n:
        raise ValueError(f"{harmful} harmful and {beneficial} beneficial flips among {n} examples")
    if drop <= 0:
        return 1.0
    if n > LARGE:
        if harmful + beneficial > 400:
            return float(sp.norm.cdf(score_z(harmful, beneficial, n, drop)))
        return flip_pvalue(harmful, beneficial, LARGE, min(drop * n / LARGE, 0.999)) if drop * n < LARGE else 0.0
    low = float(sp.beta.ppf(DOUBT / 2, beneficial, n - beneficial + 1)) if beneficial else 0.0
    high = float(sp.beta.ppf(1 - DOUBT / 2, beneficial + 1, n - beneficial)) if beneficial < n else 1.0
    rates = np.linspace(low, max(min(high, (1 - drop) / 2 + drop), low), 33)
    rates = rates[rates <= 1 - drop]
    observed = float(score_z(harmful, beneficial, n, drop))
    margin = 7 * np.sqrt(n * rates.max() + 1) + 7 if len(rates) else 0
    first, last = max(int(n * low - margin), 0), min(int(n * rates.max() + margin), n)
    b = np.arange(first, last + 1)
    most = _most_harmful(b, n, drop, observed)
    worst = 0.0
    for rate in rates:
        weights = sp.binom.pmf(b, n, rate)
        given = sp.binom.cdf(most, n - b, min((rate + drop) / max(1 - rate, 1e-12), 1.0))
        worst = max(worst, float((weights * np.where(most < 0, 0.0, given)).sum()))
    return min(worst + DOUBT, 1.0)


def _most_harmful(b: np.ndarray, n: int, drop: float, observed: float) -> np.ndarray:
    """For each count of beneficial flips the most harmful ones whose statistic is <= observed, or -1."""
    low, high = np.full(len(b), -1), n - b
    while (low < high).any():
        middle = (low + high + 1) // 2
        small = score_z(np.maximum(middle, 0), b, n, drop) <= observed + 1e-9
        low, high = np.where(small, middle, low), np.where(small, high, middle - 1)
    return low


@lru_cache(maxsize=16384)
def paired_flip_bound(harmful: int, beneficial: int, n: int, *, confidence: float = 0.95) -> Bound:
    """Bounds for the drop of a right/wrong score, from the flips between two pipelines."""
    if n < 1:
        raise ValueError("no examples")
    high = _flip_high(harmful, beneficial, n, 1 - confidence)
    low = -_flip_high(beneficial, harmful, n, 1 - confidence)
    return Bound((harmful - beneficial) / n, low, high, confidence, "exact unconditional score test", n)


def _flip_high(harmful: int, beneficial: int, n: int, alpha: float) -> float:
    """The smallest drop that is rejected at `alpha`, by bisection; 1 if none is."""
    estimate = (harmful - beneficial) / n
    if estimate < 0 and flip_pvalue(harmful, beneficial, n, 1e-12) <= alpha:
        # A certain gain: the symmetric score interval is enough here, for no budget is negative.
        return min(estimate + 1.96 * float(np.sqrt(harmful + beneficial)) / n, 0.0)
    low, high = max(estimate, 0.0), 1.0
    for _ in range(60):
        middle = (low + high) / 2 if high < 4 * max(low, 1e-9) else max((low * high) ** 0.5, 1e-9, low * 1.5)
        if high - low < 1e-4 * high or high - low < 1e-7:
            break
        if flip_pvalue(harmful, beneficial, n, min(middle, 1 - 1e-9)) <= alpha:
            high = middle
        else:
            low = middle
    return high


# ------------------------------------------------------------------------------------- scores


def flips(baseline_scores: Any, candidate_scores: Any) -> tuple[int, int]:
    """How many examples score lower, and how many higher."""
    before, after = _pair(baseline_scores, candidate_scores)
    return int((after < before).sum()), int((after > before).sum())


def drop_bound(baseline_scores: Any, candidate_scores: Any, *, confidence: float = 0.95, seed: int = 0) -> Bound:
    """Bounds for mean(baseline - candidate), paired scores [n].

    Right/wrong scores: exact. Others: studentised bootstrap (Efron and Tibshirani 1993, ch. 12), and
    where few examples differ not less than what as many flips of the largest size would give.
    """
    before, after = _pair(baseline_scores, candidate_scores)
    diffs, n = before - after, len(before)
    harmful, beneficial = int((diffs > 0).sum()), int((diffs < 0).sum())
    if set(np.unique(diffs)) <= {-1.0, 0.0, 1.0}:
        return paired_flip_bound(harmful, beneficial, n, confidence=confidence)
    low, high = _bootstrap_t(diffs, confidence, seed)
    if harmful + beneficial < RARE:
        size = max(float(np.abs(diffs).max()), float(np.ptp(np.concatenate([before, after]))))
        rare = paired_flip_bound(harmful, beneficial, n, confidence=confidence)
        low, high = min(low, rare.low * size), max(high, rare.high * size)
    return Bound(float(diffs.mean()), low, high, confidence, "studentised bootstrap", n)


def drop_pvalue(baseline_scores: Any, candidate_scores: Any, margin: float) -> float:
    """p-value of H0: true drop >= margin."""
    before, after = _pair(baseline_scores, candidate_scores)
    diffs = before - after
    if set(np.unique(diffs)) <= {-1.0, 0.0, 1.0}:
        return flip_pvalue(int((diffs > 0).sum()), int((diffs < 0).sum()), len(diffs), margin)
    levels = 1 - np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.025, 0.01, 0.005, 0.001])
    held = [1 - c for c in levels if drop_bound(before, after, confidence=float(c)).high < margin]
    return float(min(held, default=1.0))


def equivalent(baseline_scores: Any, candidate_scores: Any, margin: float, *, confidence: float = 0.95) -> bool:
    """Two one-sided tests (Schuirmann 1987): the scores differ by less than margin either way."""
    bound = drop_bound(baseline_scores, candidate_scores, confidence=confidence)
    return bound.high < margin and bound.low > -margin


def _bootstrap_t(diffs: np.ndarray, confidence: float, seed: int, draws: int = 4000) -> tuple[float, float]:
    n, mean = len(diffs), float(diffs.mean())
    error = float(diffs.std(ddof=1)) / n**0.5 if n > 1 else float("inf")
    if not np.isfinite(error) or error == 0:
        return (-float("inf"), float("inf")) if n < 2 else (mean, mean)
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(-(-draws * n // 2_000_000)):
        rows = rng.integers(0, n, (max(min(draws, 2_000_000 // n), 1), n))
        drawn = diffs[rows]
        errors = drawn.std(axis=1, ddof=1) / n**0.5
        ratios.append((drawn.mean(axis=1) - mean) / np.maximum(errors, error * 1e-3))
    t = np.concatenate(ratios)
    return mean - float(np.quantile(t, confidence)) * error, mean - float(np.quantile(t, 1 - confidence)) * error


def _pair(baseline: Any, candidate: Any) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.asarray(baseline, float), np.asarray(candidate, float)
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(f"paired scores are two arrays [n], not {before.shape} and {after.shape}")
    for scores in (before, after):
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ValueError(f"the score of example {bad[0]} is {scores[bad[0]]}")
    return before, after


# -------------------------------------------------------------------------------------- times


def ratio_interval(baseline: Any, candidate: Any, *, confidence: float = 0.95, seed: int = 0) -> Bound:
    """Speed-up baseline / candidate of paired times: the geometric mean of the ratios.

    The wider of Student's t on log ratios and their bootstrap: with 3 to 20 pairs the percentile
    bootstrap alone is too narrow (Efron and Tibshirani 1993, ch. 13).
    """
    from scipy import stats as sp

    logs = np.log(np.asarray(baseline, float)) - np.log(np.asarray(candidate, float))
    n, mean = len(logs), float(logs.mean())
    if n < 2:
        return Bound(float(np.exp(mean)), float(np.exp(mean)), float(np.exp(mean)), 0.0, "single measurement", n)
    half = float(sp.t.ppf(confidence, n - 1)) * float(logs.std(ddof=1)) / n**0.5
    drawn = np.random.default_rng(seed).choice(logs, (4000, n)).mean(axis=1)
    low = min(mean - half, float(np.quantile(drawn, 1 - confidence)))
    high = max(mean + half, float(np.quantile(drawn, confidence)))
    return Bound(float(np.exp(mean)), float(np.exp(low)), float(np.exp(high)), confidence, "paired log ratios", n)


# ------------------------------------------------------------------------------------ planning


def holm(pvalues: Sequence[float]) -> np.ndarray:
    """Adjusted p-values (Holm 1979)."""
    p = np.asarray(pvalues, float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def split_alpha(looks: int = 3, alpha: float = 0.05) -> tuple[float, ...]:
    """How the error is spent on the first, second … candidate held against the same examples.

    They share the examples, so nothing is assumed of them: by the union bound the chance of any false
    certificate is at most the sum. Most goes to the first, which is nearly always the only one.
    """
    shares = [0.8 * 0.2**i for i in range(looks)]
    shares[-1] += 1 - sum(shares)
    return tuple(alpha * share for share in shares)


def needed_examples(
    max_drop: float, harmful_rate: float, beneficial_rate: float, *, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Certification examples at which flips at these rates would pass with that power.

    None if the expected drop is not below max_drop. Normal approximation, never below the 0-flip limit.
    """
    from scipy import stats as sp

    room = max_drop - (harmful_rate - beneficial_rate)
    if room <= 0 or max_drop <= 0:
        return None
    spread = harmful_rate + beneficial_rate - (harmful_rate - beneficial_rate) ** 2
    z = float(sp.norm.ppf(confidence) + sp.norm.ppf(power))
    return int(max(np.ceil(spread * (z / room) ** 2), np.ceil(-np.log(1 - confidence) / max_drop))) + 1


def needed_examples_for_scores(
    max_drop: float, drop: float, sd: float, *, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """The same for any score: `drop` is the expected drop, `sd` the spread of the paired differences."""
    from scipy import stats as sp

    if drop >= max_drop:
        return None
    z = float(sp.norm.ppf(confidence) + sp.norm.ppf(power))
    return int(np.ceil((sd * z / (max_drop - drop)) ** 2)) + 1


# --------------------------------------------------------------------------------- comparisons


def divergence(p: Any, q: Any) -> np.ndarray:
    """Jensen-Shannon divergence of rows of probabilities [n, c], in nats: [n], 0 to log 2 (Lin 1991)."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    middle = (p + q) / 2

    def to_middle(x: np.ndarray) -> np.ndarray:
        safe = np.where(x > 0, x, 1.0)
        return np.where(x > 0, x * (np.log(safe) - np.log(np.where(middle > 0, middle, 1.0))), 0.0).sum(axis=1)

    return np.maximum((to_middle(p) + to_middle(q)) / 2, 0.0)


def rank_correlation(a: Any, b: Any) -> float | None:
    """Spearman's; None for fewer than 3 pairs or where one side is constant."""
    from scipy import stats as sp

    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(sp.spearmanr(a, b).statistic)
