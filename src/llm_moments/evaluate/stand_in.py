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

from llm_moments.base.environment import usable_cores
from llm_moments.base.errors import EngineError
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.base import STREAMS, available, engine_class, follows, put_on
from llm_moments.evaluate.measure import answered

HELD = 64  # rows on which a graph is held against the baseline
LEAST = 24  # fewer rows than that prove nothing
ROOM = 100  # times the largest difference seen: a row whose margin is smaller is asked of the baseline
ORDER = ("openvino", "onnxruntime")  # the one that is mostly faster first
WARM = 2  # rows that open an engine
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


def replaceable(pipe: Pipeline) -> bool:
    """Whether a graph may give the same answers: of a float plan whose outputs say how sure they are."""
    forward = pipe.plan.settings("forward")
    plain = forward.get("engine", "torch") == "torch" and forward.get("precision", "fp32") == "fp32"
    return plain and "cascade" not in pipe.plan and bool(pipe.task.has_margins())


def stand_in(pipe: Pipeline, rows: Sequence[Any], expected: Outputs, base_cost: float) -> StandIn:
    """The first graph engine that equals the baseline on these rows and is faster; the baseline itself where none is:
    building another takes more than it could spare.

    rows: of no split that judges; expected: the sorted baseline's outputs; base_cost: its seconds an example.
    """
    for engine in [e for e in ORDER if e in available()] if len(rows) >= LEAST and replaceable(pipe) else ():
        found = _held(pipe, engine, rows, expected)
        if found is not None and found.cost < base_cost:
            return found
    return StandIn(cost=base_cost)


def _held(pipe: Pipeline, engine: str, rows: Sequence[Any], expected: Outputs) -> StandIn | None:
    """The engine as a stand-in, if it gives the same answers and few rows would have to be asked again."""
    graph = on(pipe, engine)
    try:
        graph.outputs(rows[:WARM])  # builds it
        outputs, seconds = answered(graph, rows)
    except EngineError:
        return None
    apart = float(np.abs(outputs["logits"].astype(np.float64) - expected["logits"]).max())
    task = pipe.task
    if not np.isfinite(apart) or not task.argmax_equal(outputs, expected).all():
        return None
    if float((task.margins(outputs) < ROOM * apart).mean()) > MOST:
        return None
    return StandIn(engine, apart, len(rows), seconds / len(rows))


def settled(pipe: Pipeline, by: StandIn, outputs: Outputs, values: Sequence[Any]) -> tuple[Outputs, int]:
    """The baseline's outputs, made of the stand-in's for the same values: rows with a small margin are asked again. And
    how many these were."""
    near = np.flatnonzero(~(pipe.task.margins(outputs) >= ROOM * by.apart))
    if len(near):
        outputs = outputs.put(near, sorted_(pipe).outputs([values[i] for i in near.tolist()]))
    return outputs, len(near)


def sorted_(pipe: Pipeline) -> Pipeline:
    """The baseline in the order that wastes least: the same answers."""
    return pipe.with_(**pipe.task.sorts)


def on(pipe: Pipeline, engine: str) -> Pipeline:
    """The baseline as a float graph, at its full length, on all cores."""
    streams = (
        {"forward.streams": min(usable_cores(), STREAMS)} if follows(engine_class(engine), "streams", "fp32") else {}
    )
    return sorted_(pipe).with_(**pipe.task.ladder.before, **put_on(engine, "fp32"), **streams)


def noted(by: StandIn) -> dict[str, Any]:
    return asdict(by)


def answers(base: Pipeline, by: StandIn, changed: Pipeline, values: Sequence[Any]) -> Outputs:
    """The outputs of a plan that departs from the baseline's: by the stand-in's graph where that can follow all of it."""
    if not judges(base, by, changed):
        return changed.outputs(values)
    return settled(changed, by, on(changed, by.engine).outputs(values), values)[0]


def judges(base: Pipeline, by: StandIn, changed: Pipeline) -> bool:
    """Whether the graph that stands in for the baseline gives the plan's answers, too: it computes the same in the same
    way, of other inputs."""
    if not by.engine or "cascade" in changed.plan:
        return False
    mine, theirs = base.engine_settings, changed.engine_settings
    apart = {name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)}
    return apart <= {"threads", "streams"}
