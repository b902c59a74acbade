"""Orders in which candidates go to the certification: the rule before, the rule now, and others to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import recorded

from llm_moments import stats
from llm_moments.improve.pass_probability import APART, chance, sequence

ALPHA = 0.05
LEVELS = (0.97, 0.92, 0.85, 0.75, 0.6)  # the rule before: of the chance to pass, one candidate for each
FASTER = 0.97  # share of the time of the one before
GAIN = 1.02  # times the stock plan from which a plan is looked at


# ------------------------------------------------------------------------------------------------ one split


class Draw:
    """One draw of search and certification rows, as far as a rule may look at it.

    search, certify: how often each row of the study was drawn, [rows].
    """

    def __init__(self, replay: Replay, search: np.ndarray, certify: np.ndarray):
        self.replay, self.search, self.certify = replay, search, certify
        self._seen: dict[int, float] = {}

    @cached_property
    def odds(self) -> np.ndarray:
        return self.replay.odds(self.search, int(self.certify.sum()))

    @cached_property
    def front(self) -> list[int]:
        return front(self)

    def pvalue(self, plan: int) -> float:
        if plan not in self._seen:
            self._seen[plan] = self.replay.pvalue(plan, self.certify)
        return self._seen[plan]

    def passed(self, order: Sequence[int], alpha: float = ALPHA) -> list[int]:
        """Those of a fixed sequence before the first failure."""
        found = []
        for plan in order:
            if not self.pvalue(plan) < alpha:
                break
            found.append(plan)
        return found


class Replay:
    """A study with what is asked of it again and again remembered: the same flips have the same chances."""

    def __init__(self, study: recorded.Recorded, max_drop: float | None = None):
        self.study, self.max_drop = study, max_drop or study.max_drop
        self.drops = study.drops
        self.flips = set(np.unique(self.drops)) <= {-1.0, 0.0, 1.0} and set(np.unique(study.before)) <= {0.0, 1.0}
        self.worse, self.better = (self.drops > 0).astype(np.float32), (self.drops < 0).astype(np.float32)
        self.gains = study.stock / study.costs
        self._odds: dict[tuple[int, int], np.ndarray] = {}  # by flips, for so many rows

    def odds(self, rows: np.ndarray, n_certify: int) -> np.ndarray:
        if not self.flips:
            drawn = np.repeat(np.arange(len(rows)), rows)
            return np.array([chance(drops, n_certify, self.max_drop) for drops in self.drops[:, drawn]])
        often, n = rows.astype(np.float32), int(rows.sum())
        worse, better = (np.rint(flips @ often).astype(int) for flips in (self.worse, self.better))
        if (n, n_certify) not in self._odds:
            self._odds[n, n_certify] = np.full((n + 1, n + 1), np.nan, np.float32)
        known = self._odds[n, n_certify]
        for h, b in {*zip(worse.tolist(), better.tolist(), strict=True)}:
            if np.isnan(known[h, b]):
                known[h, b] = chance(np.repeat([1.0, -1.0, 0.0], [h, b, n - h - b]), n_certify, self.max_drop)
        return np.asarray(known[worse, better], float)

    def pvalue(self, plan: int, rows: np.ndarray) -> float:
        if self.flips:
            worse, better = round(float(self.worse[plan] @ rows)), round(float(self.better[plan] @ rows))
            return stats.flip_pvalue(worse, better, int(rows.sum()), self.max_drop)
        drawn = np.repeat(np.arange(len(rows)), rows)
        before, after = self.study.before[drawn], self.study.after[plan, drawn]
        return stats.drop_pvalue(before, after, self.max_drop, bounds=self.study.bounds)


# ------------------------------------------------------------------------------------------------ the rules


def lossless(replay: Replay) -> list[int]:
    """The fastest lossless plan, if it gains anything."""
    study = replay.study
    free = [p for p in np.flatnonzero(study.lossless) if replay.gains[p] > GAIN]
    return [int(min(free, key=lambda p: study.costs[p]))] if free else []


def levels(draw: Draw) -> list[int]:
    """Candidates by the rule before: the fastest plan at each of five levels; the lossless one first where none is sure."""
    replay, odds, costs = draw.replay, draw.odds, draw.replay.study.costs
    chosen: list[int] = []
    for level in LEVELS:
        able = np.flatnonzero((odds >= level) & (replay.gains > GAIN))
        fastest = int(able[costs[able].argmin()]) if len(able) else None
        if fastest is not None and (not chosen or costs[fastest] < FASTER * costs[chosen[-1]]):
            chosen.append(fastest)
    safe = lossless(replay)
    if safe and (not chosen or odds[chosen[0]] < LEVELS[0]):
        return safe + [p for p in chosen if costs[p] < costs[safe[0]]]
    return chosen


def front(draw: Draw) -> list[int]:
    """Candidates by the rule now, as `Search.candidates` has them: the lossless one, then all of the front of
    `sequence` that is faster."""
    replay, costs = draw.replay, draw.replay.study.costs
    able = np.flatnonzero(replay.gains > GAIN)
    found = sequence(zip(able.tolist(), costs[able].tolist(), draw.odds[able].tolist(), strict=True))
    safe = lossless(replay)
    return safe + [p for p in found if not safe or costs[p] < APART * costs[safe[0]]]


def spread(draw: Draw, faster: float) -> list[int]:
    """Of those the ones that are so much faster than the one before: fewer looks, and larger steps."""
    chosen: list[int] = []
    for plan in draw.front:
        if not chosen or draw.replay.study.costs[plan] < faster * draw.replay.study.costs[chosen[-1]]:
            chosen.append(plan)
    return chosen


def promising(draw: Draw) -> int | None:
    """The one plan that promises most: its chance to pass times what it would gain, in logarithms."""
    worth = draw.odds * np.log(np.maximum(draw.replay.gains, 1.0))
    return int(worth.argmax()) if len(worth) and worth.max() > 0 else None


def one_look(draw: Draw) -> list[int]:
    plan = promising(draw)
    return [] if plan is None else draw.passed([plan])


def fallback(draw: Draw) -> list[int]:
    """The most promising plan at 80% of the error; all of it for the front after that, or the rest where it failed."""
    plan = promising(draw)
    if plan is None:
        return []
    if draw.pvalue(plan) < 0.8 * ALPHA:
        return [plan, *draw.passed(draw.front)]
    return draw.passed(draw.front, 0.2 * ALPHA)


Rule = Callable[[Draw], list[int]]  # the plans that passed
RULES: dict[str, Rule] = {
    "five levels": lambda draw: draw.passed(levels(draw)),
    "whole front": lambda draw: draw.passed(draw.front),
    "front by 15%": lambda draw: draw.passed(spread(draw, 0.85)),
    "one look": one_look,
    "fallback 80/20": fallback,
}
BEFORE, NOW, ALONE = "five levels", "whole front", "it alone"
