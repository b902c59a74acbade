"""Which of the plans that passed is the fastest as timed in turn, and by how much it is faster than the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.core import Pipeline
from llm_moments.evaluate.measure import interleaved

HEATS = 5  # rounds in which the last few that passed are timed against one another
FEW_ROUNDS = 3  # of it, where answers take seconds and the time is up
ROUNDS = 7  # of the timing that the claim rests on


@dataclass(frozen=True)
class Timed:
    """speed: of the chosen plan over the baseline, an interval; lossless, hand: times as fast; baseline: seconds an example."""

    speed: stats.Bound
    lossless: float | None
    hand: float | None
    baseline: float


def heats(
    plans: Mapping[str, Pipeline], values: Sequence[Any], objective: str, costs: Mapping[str, float], seconds: float
) -> list[str]:
    """The plans, fastest first, in a timing of their own: what is claimed of the winner is timed anew, so that luck
    which made it win is no part of the claim."""
    if len(plans) < 2:
        return list(plans)
    found = interleaved(plans, values, objective, costs=costs, rounds=HEATS, seconds=seconds)
    return sorted(plans, key=lambda name: float(np.median(found[name])))


def timed(
    plans: Mapping[str, Pipeline], values: Sequence[Any], objective: str, costs: Mapping[str, float], seconds: float,
    tick: Callable[[float], None], rounds: int = ROUNDS,
) -> Timed:  # fmt: skip
    """plans: "baseline" and "chosen", and "lossless" and "hand" if there are such; all in turn, A B … then … B A."""
    found = interleaved(plans, values, objective, costs=costs, rounds=rounds, seconds=seconds, tick=tick)

    def times(slow: str, fast: str) -> float | None:
        return stats.ratio_interval(found[slow], found[fast]).estimate if {slow, fast} <= found.keys() else None

    return Timed(
        stats.ratio_interval(found["baseline"], found["chosen"]), times("baseline", "lossless"), times("hand", "chosen"),
        float(np.median(found["baseline"])),
    )  # fmt: skip
