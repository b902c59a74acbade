"""Looks at a third, two thirds and all of the rows: a drop is proved as soon as it can be, at 5% in all.

Right/wrong answers: at each look outcomes are put in order by Tango's score of the budget, and as many of the best are
passed as the error that is spent by then allows. The chance of that is exact: the trinomial's distribution of flips is
followed from look to look, without what has passed. The rate of beneficial flips, which is not known, is taken at its
worst over a grid; a margin of the error (`MARGIN`) is kept for what lies between. Only the edge of the hypothesis needs
to be looked at: one more harmful flip never makes a pass of a failure.

The error is spent as O'Brien and Fleming's bounds would (Lan and DeMets, Biometrika 70:659, 1983): nearly all is left
for the last look. For any other score each look has its share of it (a union bound), with Gaffke's bound.

A stop because a pass has become unlikely (`hope`) only ever loses passes: it needs no error, and need not be obeyed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llm_moments.stats.answers import score_z
from llm_moments.stats.bound import error_of

MARGIN = 0.008  # share of the error that is kept back, for rates between those of the grid
DRAWS = 2000
FEW = 3.0  # square root of the expected beneficial flips up to which the grid is fine


@dataclass(frozen=True)
class Looks:
    """n: rows at each look. limits: the score of the budget (answers.score_z) that passes a look, or less. errors: the
    share of the error that each look spends, for scores that are not right or wrong."""

    max_drop: float
    confidence: float
    n: tuple[int, ...]
    limits: tuple[float, ...]
    errors: tuple[float, ...]

    def passes(self, harmful: int, beneficial: int, look: int) -> bool:
        """Whether these flips among the first n[look] rows prove the drop to be below max_drop."""
        n = self.n[look]
        if harmful < 0 or beneficial < 0 or harmful + beneficial > n:
            raise ValueError(f"{harmful} harmful and {beneficial} beneficial flips among {n} examples")
        return bool(score_z(harmful, beneficial, n, self.max_drop) <= self.limits[look])

    def hope(self, harmful: int, beneficial: int, look: int, *, seed: int = 0) -> float:
        """The chance that the last look passes, if flips go on at the rates of the first n[look] rows."""
        seen, left = self.n[look], self.n[-1] - self.n[look]
        rng = np.random.default_rng(seed)
        rates = rng.dirichlet([harmful + 0.5, beneficial + 0.5, seen - harmful - beneficial + 0.5], DRAWS)
        worse, better, _ = rng.multinomial(left, rates).T
        scores = score_z(harmful + worse, beneficial + better, self.n[-1], self.max_drop)
        return float((scores <= self.limits[-1]).mean())


def spent(share: float, error: float) -> float:
    """How much of the error is spent when this share of the rows has been seen."""
    from scipy.special import ndtr, ndtri

    return float(2 * ndtr(ndtri(error / 2) / np.sqrt(share)))


@lru_cache(maxsize=256)
def boundaries(n: int, max_drop: float, *, looks: int = 3, confidence: float = 0.95) -> Looks:
    """Looks at n rows, evenly apart. Under a second for n to 2,000, cached. ValueError for what is no plan of looks."""
    error = error_of(confidence)
    if n < 1 or looks < 1 or not 0 < max_drop < 1:
        raise ValueError(f"{looks} looks at {n} examples, for a drop of {max_drop}")
    rows = tuple(dict.fromkeys(max(round(n * (k + 1) / looks), 1) for k in range(looks)))
    told = [spent(at / n, error) for at in rows]
    paths = [_Path(rate, rate + max_drop) for rate in grid(n, max_drop)]
    limits, before = [], 0
    for at, allowed in zip(rows, told, strict=True):
        limits.append(min(path.most(at - before, at, max_drop, allowed * (1 - MARGIN)) for path in paths))
        for path in paths:
            path.cross(limits[-1])
        before = at
    return Looks(max_drop, confidence, rows, tuple(limits), tuple(np.diff([0.0, *told]).tolist()))


def crossing_chance(plan: Looks, beneficial: float, harmful: float) -> list[float]:
    """The chance to have passed by each look, at these rates of flips."""
    path, found, before = _Path(beneficial, harmful), [], 0
    for at, limit in zip(plan.n, plan.limits, strict=True):
        path.most(at - before, at, plan.max_drop, 1.0)
        path.cross(limit)
        found.append(path.crossed)
        before = at
    return found


def grid(n: int, max_drop: float, fineness: float = 1.0) -> np.ndarray:
    """Rates of beneficial flips: steps of a sixth of a count's standard error where flips are few, wider ones beyond. (A third as many
    miss a peak: 5.14% at 100 rows and a budget of 0.1.)"""
    last = np.sqrt(n * (1 - max_drop) / 2)
    few = np.arange(0, min(FEW, last), 0.08 / fineness)
    many = np.linspace(min(FEW, last), last, max(int(36 * fineness), 2))
    return np.unique(np.concatenate([few, many])) ** 2 / n


class _Path:
    """The flips' distribution at one pair of rates, without the outcomes that have passed: chance[harmful, beneficial],
    from `low` on."""

    def __init__(self, beneficial: float, harmful: float):
        self.rates = (harmful, beneficial)
        self.low, self.chance, self.crossed = np.zeros(2, int), np.ones((1, 1)), 0.0
        self.scores = np.zeros((1, 1))

    def most(self, more: int, n: int, max_drop: float, allowed: float) -> float:
        """Goes on by so many rows, to n. The highest limit of the score at which no more than `allowed` has passed."""
        from scipy.signal import fftconvolve

        low, step = self._step(more)
        self.chance = np.maximum(fftconvolve(self.chance, step), 0.0)
        self.low = self.low + low
        self._trim()
        harmful, beneficial = np.ogrid[
            tuple(slice(s, s + size) for s, size in zip(self.low, self.chance.shape, strict=True))
        ]
        self.scores = score_z(harmful, beneficial, n, max_drop)
        near = self.scores < 0
        order = np.argsort(self.scores[near], kind="stable")
        total = self.crossed + np.cumsum(self.chance[near][order])
        first = int(np.searchsorted(total, allowed, side="right"))
        return float(self.scores[near][order[first]]) - 1e-9 if first < len(order) else -1e-9

    def cross(self, limit: float) -> None:
        passed = self.scores <= limit
        self.crossed += float(self.chance[passed].sum())
        self.chance = np.where(passed, 0.0, self.chance)

    def _step(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The trinomial of n rows: from which counts on, and [harmful, beneficial]."""
        from scipy.special import gammaln, xlogy

        low, high = zip(*(_reach(n, rate) for rate in self.rates), strict=True)
        h, b = np.ogrid[low[0] : high[0] + 1, low[1] : high[1] + 1]
        rest = n - h - b
        left = max(1 - sum(self.rates), 0.0)
        kept = np.maximum(rest, 0)
        ways = gammaln(n + 1) - gammaln(h + 1) - gammaln(b + 1) - gammaln(kept + 1)
        logs = ways + xlogy(h, self.rates[0]) + xlogy(b, self.rates[1]) + xlogy(kept, left)
        return np.array(low), np.where(rest < 0, 0.0, np.exp(logs))

    def _trim(self) -> None:
        """Leaves out the rims, whose chance is nothing; they count as not passed, so little that no margin notices."""
        for axis in (0, 1):
            sums = np.cumsum(self.chance.sum(axis=1 - axis))
            first, last = np.searchsorted(sums, [1e-9, sums[-1] - 1e-9])
            self.chance = np.take(self.chance, np.arange(first, min(last, len(sums) - 1) + 1), axis=axis)
            self.low[axis] += first


def _reach(n: int, rate: float) -> tuple[int, int]:
    far = 6 * np.sqrt(n * rate * (1 - rate)) + 10
    return max(int(n * rate - far), 0), min(int(np.ceil(n * rate + far)), n)
