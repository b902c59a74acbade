"""One change of the plan, held against the plan as it is: what it saves and what it loses."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.errors import EngineError, ModelError, PlanError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.change import Change
from llm_moments.core.outputs import concat
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.evaluate.measure import run_seconds
from llm_moments.evaluate.stand_in import StandIn, answers
from llm_moments.weigh.worth import Worth

ITSELF = StandIn()
BEYOND_DOUBT = 1e-4  # p-value of the sign test on the first rows
FRESH = 20.0  # seconds that times of the baseline are held against
ROUNDS = 3  # pairs of times for each change


def priced(
    base: Pipeline, part: Evaluation, outputs: Outputs, change: Change, *, timed: bool = True,
    spread: np.ndarray | None = None, block: int | None = None, by: StandIn = ITSELF, first: int = 0,
    times: Times | None = None,
) -> Worth:  # fmt: skip
    """outputs: of the base on the part, [n, classes]. A change that cannot be made is `unavailable`.

    by: what answers in the base's place where it can. first: rows that are asked before the others, which are spared
    where those show a loss beyond doubt; 0: all are asked.

    spread: float64 [n], is given the divergence of each example. block: rows that are timed at a time.
    """
    try:
        changed = base.with_(**change.choices)
        after = answers(base, by, changed, part.values[:first] if 0 < first < len(part) else part.values)
        if len(after) < len(part):
            few = part.take(range(len(after)))
            if _lost(
                few, few.scores(outputs[: len(after)], outputs[: len(after)]), few.scores(after, outputs[: len(after)])
            ):
                part, outputs = few, outputs[: len(after)]
            else:
                after = concat([after, answers(base, by, changed, part.values[first:])])
        times = times or Times(base, part.values, block or base.task.sizes.block)
        speed = times.against(changed) if timed else None
    except (EngineError, ModelError, PlanError) as error:
        return Worth(change.name, change.step, dict(change.choices), "unavailable", reason=str(error))
    apart = base.task.divergence(outputs, after)
    if spread is not None:
        spread[:] = apart
    saved: dict[str, Any] = {} if speed is None else savings(speed)
    found = judged(part, part.scores(outputs, outputs), part.scores(after, outputs))
    return Worth(
        change.name,
        change.step,
        dict(change.choices),
        "unclear",
        divergence=float(apart.mean()),
        **found,
        **saved,
    )


def _lost(part: Evaluation, before: np.ndarray, now: np.ndarray) -> bool:
    """Whether so many answers are worse that more rows would say nothing else."""
    from scipy.stats import binomtest

    worse, better = part.flips(before, now)
    return worse > better and float(binomtest(worse, worse + better, alternative="greater").pvalue) < BEYOND_DOUBT


def judged(part: Evaluation, before: np.ndarray, now: np.ndarray) -> dict[str, Any]:
    """The fields of a Worth that two arrays of scores [n] give."""
    bound, flips = part.drop(before, now), part.flips(before, now)
    return {
        "drop": bound.estimate, "drop_low": bound.low, "drop_high": bound.high, "harmful": flips[0],
        "beneficial": flips[1], "n": part.independent,
    }  # fmt: skip


def savings(speed: stats.Bound) -> dict[str, Any]:
    """The fields of a Worth that a speed-up gives; of a single pair of times without an interval."""
    if speed.n == 1:
        return {"saving": 1 - 1 / speed.estimate}
    return {"saving": 1 - 1 / speed.estimate, "saving_low": 1 - 1 / speed.low, "saving_high": 1 - 1 / speed.high}


@dataclass
class Times:
    """Seconds of the baseline on some blocks of rows, which changes that are timed soon after are all held against."""

    pipe: Pipeline
    values: Any
    block: int
    taken: float = -math.inf
    seconds: list[float] = field(default_factory=list)

    def rows(self, turn: int) -> Any:
        start = turn * self.block % max(len(self.values) - self.block + 1, 1)
        return self.values[start : start + self.block]

    def against(self, changed: Pipeline) -> stats.Bound:
        """Speed-up block by block: baseline and changed in turn (A B, B A, …) where the baseline's times are not fresh. The
        changed one has just answered."""
        stale = time.monotonic() - self.taken > FRESH
        if stale:
            run_seconds(self.pipe, self.rows(0))
            self.seconds, self.taken = [], time.monotonic()
        own: list[float] = []
        for turn in range(ROUNDS):
            for pipe, times in ((self.pipe, self.seconds), (changed, own))[:: 1 if turn % 2 == 0 else -1]:
                if times is own or stale:
                    times.append(run_seconds(pipe, self.rows(turn)))
        return stats.ratio_interval(self.seconds, own)


def look_at(base: Pipeline, change: Change, values: Any, block: int) -> tuple[float, float]:
    """Seconds to open what the change needs, and seconds an example, from a block of rows."""
    pipe, begin = base.with_(**change.choices), time.perf_counter()
    warm, few = values[: base.task.sizes.warm], values[:block]
    pipe.outputs(warm)
    first, per_example = time.perf_counter() - begin, run_seconds(pipe, few) / len(few)
    return max(first - len(warm) * per_example, 0.0), per_example
