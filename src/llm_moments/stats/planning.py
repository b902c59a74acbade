"""Before a test: what several tests may spend, and how many examples would be enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from llm_moments.stats.answers import flip_pvalue, most_harmful, trinomial_chance
from llm_moments.stats.bound import error_of

NEVER = 1e15  # examples: the drop and the budget are a rounding apart
MANY = 20_000  # expected flips from which the normal approximation is as good as the sum
RARE = 40  # expected beneficial flips below which the exact test needs more than the score test


def fixed_sequence(pvalues: Iterable[float], alpha: float = 0.05) -> int:
    """How many hypotheses are rejected, tested one by one in an order that was fixed before any was seen.

    Each is tested at the whole alpha, as far as the first that is not rejected: the chance of any false
    rejection is at most alpha, however they depend on one another, because the first true one must be
    rejected to go wrong at all (Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen, J. Stat. Planning
    and Inference 99:25, 2001). Nothing after the first failure is looked at.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"an error must lie between 0 and 1, not {alpha}")
    passed = 0
    for pvalue in pvalues:
        if not pvalue < alpha:
            break
        passed += 1
    return passed


def holm(pvalues: Any) -> np.ndarray:
    """p-values [m] adjusted for there being m of them (Holm, Scand. J. Statistics 6:65, 1979)."""
    p = np.asarray(pvalues, float)
    if p.ndim != 1:
        raise ValueError(f"p-values are an array [m], not {p.shape}")
    bad = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if len(bad):
        raise ValueError(f"p-value {bad[0]} is {p[bad[0]]}, not between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result


@lru_cache(maxsize=4096)
def needed_examples(
    max_drop: float,
    harmful_rate: float,
    beneficial_rate: float,
    *,
    confidence: float = 0.95,
    power: float = 0.8,
) -> int | None:
    """The smallest n, to 2%, at which right/wrong answers flipping at these rates pass `drop < max_drop`.

    `power` is the chance that they do, summed over all outcomes that paired_flip_bound certifies. Never
    fewer than 0 flips need (3 / max_drop at 95%). None if no number would do: the expected drop,
    harmful_rate - beneficial_rate, is not below max_drop.
    """
    _check_rates(harmful_rate, beneficial_rate, power)
    room = max_drop - (harmful_rate - beneficial_rate)
    if room <= 0:
        return None
    alpha = error_of(confidence)
    spread = harmful_rate + beneficial_rate - (harmful_rate - beneficial_rate) ** 2
    least = _with_no_flips(max_drop, alpha)
    if spread * (_z(alpha, power) / room) ** 2 > NEVER:
        return None
    normal = max(int(np.ceil(spread * (_z(alpha, power) / room) ** 2)), least)
    if normal * (harmful_rate + beneficial_rate) > MANY:
        return normal

    def enough(n: int, exact: bool = False) -> bool:
        return _power(n, max_drop, harmful_rate, beneficial_rate, alpha, exact) >= power

    n = _smallest(enough, least, normal)
    while n * beneficial_rate < RARE and not enough(n, exact=True):
        n += n // 50 + 1  # the score test, quicker to sum, is too bold where flips are few
    return n


def needed_examples_for_scores(
    max_drop: float,
    drop: float,
    sd: float,
    *,
    confidence: float = 0.95,
    power: float = 0.8,
    largest: float | None = None,
) -> int | None:
    """The smallest n at which any score passes: `drop` is expected, `sd` the spread of paired differences.

    `largest` is the most that one example can lose (1, or 4 sd if that is more), for which rare, unseen
    harm must be left room. Normal approximation of `drop_bound`. None if drop is not below max_drop by
    more than a rounding.
    """
    _check_rates(0.0, 0.0, power)
    if sd < 0 or not np.isfinite([max_drop, drop, sd]).all():
        raise ValueError(f"a drop of {drop}, spread {sd}, budget {max_drop}")
    if drop >= max_drop:
        return None
    alpha, top = error_of(confidence), max(1.0, 4 * sd) if largest is None else largest
    certain, likely = _z(alpha, 0.5), _z(0.5, power)

    def enough(n: int) -> bool:
        seen = n * drop + top + certain * np.sqrt(n * sd**2 + top**2) + likely * sd * np.sqrt(n)
        return bool(seen < (n + 1) * max_drop)

    least = _with_no_flips(max_drop / top, alpha) if top > 0 else 1
    if max(sd * _z(alpha, power), top**0.5) / (max_drop - drop) > NEVER**0.5:
        return None
    normal = int(np.ceil((sd * _z(alpha, power) / (max_drop - drop)) ** 2))
    return _smallest(enough, least, max(least, normal))


def _power(
    n: int,
    max_drop: float,
    harmful_rate: float,
    beneficial_rate: float,
    alpha: float,
    exact: bool,
) -> float:
    """Chance that n examples pass at these rates: by the score test, or by the exact one."""
    mean = n * beneficial_rate
    reach = 4 * np.sqrt(mean) + 4 if exact else 6 * np.sqrt(mean) + 12
    counts = np.arange(max(int(mean - reach), 0), min(int(mean + reach), n) + 1)
    most = most_harmful(counts, n, max_drop, -_z(alpha, 0.5))
    if exact:
        for i, beneficial in enumerate(counts.tolist()):
            while most[i] >= 0 and flip_pvalue(int(most[i]), beneficial, n, max_drop) > alpha:
                most[i] -= 1
    return trinomial_chance(counts, most, n, beneficial_rate, harmful_rate)


def _smallest(enough: Callable[[int], bool], least: int, guess: int) -> int:
    """The smallest n >= least that is enough, by doubling the guess and bisection."""
    low, high = least - 1, max(guess, least)
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _with_no_flips(max_drop: float, alpha: float) -> int:
    """Examples at which no flip at all would prove it: (1 - max_drop)^n <= alpha."""
    if not 0 < max_drop < 1:
        return 1
    return max(int(np.ceil(np.log(alpha) / np.log1p(-max_drop))), 1)


def _z(alpha: float, power: float) -> float:
    """Standard errors between the expected drop and the budget."""
    from scipy.special import ndtri

    return float(ndtri(1 - alpha) + ndtri(power))


def _check_rates(harmful_rate: float, beneficial_rate: float, power: float) -> None:
    if not (harmful_rate >= 0 and beneficial_rate >= 0 and harmful_rate + beneficial_rate <= 1):
        raise ValueError(f"rates of {harmful_rate} harmful and {beneficial_rate} beneficial flips")
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, not {power}")
