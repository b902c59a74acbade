"""The baseline's answers, from the fastest way that is proved equal to it.

Every row of the search and the certification split needs the baseline's answer, and the baseline is often the slowest
way to get it. A float graph engine at full length gives the same numbers but for rounding, many times sooner. It is held
against the baseline on rows that judge nothing else; where it answers the rows of the splits, those that rounding could
turn, with room to spare, are asked of the baseline itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_moments.core import Pipeline
from llm_moments.engines.base import available, put_on
from llm_moments.errors import EngineError
from llm_moments.measure import run_seconds

HELD = 64  # rows on which a graph is held against the baseline
LEAST = 24  # fewer rows than that prove nothing
ROOM = 100  # times the largest difference seen: a row whose margin is smaller is asked of the baseline
ORDER = ("openvino", "onnxruntime")  # the one that is mostly faster first
ENOUGH = 0.6  # of the baseline's time: a graph that takes less is taken at once
MOST = 0.25  # share of rows asked again from which nothing is spared


@dataclass(frozen=True)
class StandIn:
    """What answers in the baseline's place. apart: the largest difference of an output on `held` rows; cost: seconds
    an example. engine is empty where the baseline answers for itself."""

    engine: str = ""
    apart: float = 0.0
    held: int = 0
    cost: float = 0.0

    def words(self, asked: int, n: int) -> str:
        """How the baseline's answers came about, for the certificate; empty where it gave them itself."""
        if not self.engine:
            return ""
        return (
            f"The baseline's answers to these {n:,} rows were computed by {self.engine} in fp32 at full length, which gave the "
            f"same answers on {self.held} other rows (outputs at most {self.apart:.2g} apart); {asked:,} rows, whose margin "
            f"is below {ROOM} times that, were asked of the baseline itself."
        )


def stand_in(pipe: Pipeline, rows: Sequence[Any], base_cost: float) -> StandIn:
    """The fastest graph engine that equals the baseline on these rows; the baseline itself where none does.

    rows: of no split that judges. base_cost: seconds an example of the sorted baseline.
    """
    alone = StandIn(cost=base_cost)
    forward = pipe.plan.settings("forward")
    plain = forward.get("engine", "torch") == "torch" and forward.get("precision", "fp32") == "fp32"
    if len(rows) < LEAST or not plain or "cascade" in pipe.plan or not pipe.task.has_margins(pipe.model):
        return alone
    expected, best = sorted_(pipe).outputs(rows), alone
    for engine in [e for e in ORDER if e in available()]:
        found = _held(pipe, engine, rows, expected)
        if found is not None and found.cost < best.cost:
            best = found
        if best.cost < ENOUGH * base_cost:  # building another graph would take what it could spare
            break
    return best


def _held(pipe: Pipeline, engine: str, rows: Sequence[Any], expected: np.ndarray) -> StandIn | None:
    """The engine as a stand-in, if it gives the same answers and few rows would have to be asked again."""
    graph = on(pipe, engine)
    try:
        outputs = graph.outputs(rows)
        seconds = run_seconds(graph, rows)
    except EngineError:
        return None
    apart = float(np.abs(outputs.astype(np.float64) - expected).max())
    task, model = pipe.task, pipe.model
    if not np.isfinite(apart) or not task.argmax_equal(outputs, expected, model).all():
        return None
    if float((task.margins(outputs, model) < ROOM * apart).mean()) > MOST:
        return None
    return StandIn(engine, apart, len(rows), seconds / len(rows))


def settled(pipe: Pipeline, by: StandIn, outputs: np.ndarray, values: Sequence[Any]) -> tuple[np.ndarray, int]:
    """The baseline's outputs, made of the stand-in's for the same values: rows with a small margin are asked again. And
    how many these were."""
    near = np.flatnonzero(~(pipe.task.margins(outputs, pipe.model) >= ROOM * by.apart))
    if len(near):
        outputs = outputs.copy()
        outputs[near] = sorted_(pipe).outputs([values[i] for i in near.tolist()])
    return outputs, len(near)


def sorted_(pipe: Pipeline) -> Pipeline:
    """The baseline in the order that wastes least: the same answers."""
    return pipe.with_(**pipe.task.sorts)


def on(pipe: Pipeline, engine: str) -> Pipeline:
    """The baseline as a float graph, at its full length."""
    return sorted_(pipe).with_(**pipe.task.extent.before, **put_on(engine, "fp32"))


def noted(by: StandIn) -> dict[str, Any]:
    return asdict(by)
