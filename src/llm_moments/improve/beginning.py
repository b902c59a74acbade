"""The beginning of a run of `improve`: the baseline is timed and answers, and what the time allows is settled."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.busy import Watch
from llm_moments.core import Outputs, Pipeline
from llm_moments.evaluate import stand_in as baseline
from llm_moments.evaluate.evaluation import PARTS, Evaluation
from llm_moments.evaluate.measure import FEWEST, SHORTEST, answered, blocks, run_seconds
from llm_moments.evaluate.stand_in import StandIn
from llm_moments.improve.search import Search
from llm_moments.improve.study import Study, Trial

Tick = Callable[[float | None, str], None]

SHARE = 0.3  # of the budget, for the baseline's answers
LONG = 2.0  # seconds of a block of the baseline's, from which it is timed once
BUILT = 30.0  # seconds: building and holding a graph takes about a third of that, and spares about half of it
WORTH = 0.04  # of the budget: a baseline that answers all rows in less needs nothing in its place


class Beginning:
    """What every stage of a run shares: the pipeline, its splits, the study, the time that is left."""

    def __init__(
        self, pipe: Pipeline, parts: dict[str, Evaluation], study: Study, max_drop: float, objective: str,
        budget: float, tick: Tick, source: str, folder: Path | None,
    ):  # fmt: skip
        self.begin, self.watch = time.monotonic(), Watch()
        self.pipe, self.study, self.tick, self.source, self.folder = pipe, study, tick, source, folder
        self.max_drop, self.objective, self.budget = max_drop, objective, budget
        self.parts = parts
        self.opening = 0.0  # seconds that the baseline took to open, where it was opened in this run
        self.slow = pipe.task.strategy == "greedy"  # an answer takes seconds
        # Outputs on a split that are known already, by its name and the plan's key.
        self.told: dict[tuple[str, str], Outputs] = {}

    def left(self) -> float:
        return self.begin + self.budget - time.monotonic()

    def stand_in(self) -> StandIn:
        """Times the baseline, warm, and finds what may answer in its place: a first figure, on few rows. The claim is
        timed anew, in turn."""
        if "stand_in" not in self.study.notes:
            self.tick(0.0, "timing the baseline")
            values, block = self.parts["search"].values, self.pipe.task.sizes.block
            turns = blocks(values, block, 2, block)
            begin, few = time.perf_counter(), turns[0][: max(min(4, block // 4), 1)]
            self.pipe.outputs(few)
            first = time.perf_counter() - begin
            costs = [run_seconds(self.pipe, turns[0]) / len(turns[0])]
            if costs[0] * block < LONG:
                costs += [run_seconds(self.pipe, some) / len(some) for some in turns]
            stock = float(np.mean(costs[-2:]))
            self.opening = max(first - len(few) * stock, 0.0)
            held, outputs, cost = self.sorted_run(stock)
            self.study.note("stock_cost", {"stock": stock, "sorted": cost})
            self.study.note("stand_in", baseline.noted(self.in_its_place(held, outputs, cost)))
        return StandIn(**self.study.notes["stand_in"])

    def sorted_run(self, stock: float) -> tuple[list[Any], Outputs | None, float]:
        """Rows of no split that judges, or of the search split where there are too few, the baseline's outputs for them,
        and seconds an example where rows of like length go together."""
        if self.slow and self.pipe.plan.settings("forward").get("streams", 1) == 1:
            return [], None, stock  # one a call: there is nothing to sort
        rows = sorted(self.parts["calibrate"].values, key=lambda value: len(str(value)))
        rows = rows[:: max(len(rows) // baseline.HELD, 1)][: baseline.HELD]
        if self.slow or len(rows) < baseline.LEAST:
            block = self.pipe.task.sizes.block
            rows = list(blocks(self.parts["search"].values, 2 * block, 1, block)[0])
        outputs, seconds = answered(baseline.sorted_(self.pipe), rows)
        return rows, outputs, seconds / len(rows)

    def in_its_place(self, held: list[Any], outputs: Outputs | None, cost: float) -> StandIn:
        pace = self.pipe.task.sizes
        rows = sum(min(len(self.parts[name]), pace.most[name]) for name in ("search", "certify"))
        few = len(self.parts["calibrate"]) < baseline.LEAST
        if outputs is None or self.slow or few or rows * cost < max(WORTH * self.budget, BUILT):
            return StandIn(cost=cost)
        self.tick(0.0, "holding graph engines against the baseline")
        return baseline.stand_in(self.pipe, held, outputs, cost)

    def affordable(self, by: StandIn) -> str:
        """Takes as many rows of each split as the budget allows: the baseline's answers to them all may
        take `SHARE` of it. The reason, if that is too few."""
        rows, cost = self.study.notes.get("rows"), by.cost
        if rows is None:
            pace = self.pipe.task.sizes
            total = sum(min(len(self.parts[name]), pace.most[name]) for name in ("search", "certify"))
            share = min(SHARE * self.budget / cost / total, 1.0)
            rows = {name: min(len(part), pace.most[name]) for name, part in self.parts.items()}
            for name in ("search", "certify"):
                rows[name] = max(int(rows[name] * share), min(pace.few[name], rows[name]))
            if why := self.hopeless(rows, cost):
                return why
            need = sum(rows[name] for name in ("search", "certify")) * cost
            timing = FEWEST * pace.block * cost if self.slow else 0.0
            if need + timing > (0.6 if timing else 0.8) * self.budget:
                return (
                    f"the baseline answers {1 / cost:.1f} examples a second, so that a budget of {self.budget:.0f}s is "
                    f"too short for {rows['search']} to search with and {rows['certify']} to certify on; about "
                    f"{need / SHARE / 60:.0f}m would do (--budget)."
                )
            self.study.note("rows", rows)
        self.parts = {name: part.few(rows[name]) for name, part in self.parts.items()}
        return ""

    def hopeless(self, rows: dict[str, int], cost: float) -> str:
        """The reason, if not even the baseline's own answers could be certified on so few examples: said at once where
        answers take seconds each."""
        n, task = rows["certify"], self.pipe.task
        if not self.slow or task.bounds() != (0.0, 1.0):
            return ""
        few = self.parts["certify"].few(n)
        least = few.drop(np.ones(n), np.ones(n)).high
        if least < self.max_drop:
            return ""
        needs = stats.needed_examples(self.max_drop, 0.0, 0.0) or 0
        minutes = (needs + rows["search"]) * cost / SHARE / 60
        return (
            f"{few.independent} independent examples to certify on cannot prove a drop below {self.max_drop:g}, even of a plan that changes no answer: "
            f"they would show that it is below {least:.2g}. Take --max-drop {np.ceil(100 * least + 1) / 100:g}, or "
            f"{np.ceil(needs / PARTS['certify']):,.0f} examples in all and a budget of about {np.ceil(minutes):.0f}m (--budget)."
        )

    def answer_as_baseline(self, search: Search, by: StandIn) -> None:
        """The baseline's answers to both splits, before any lossy plan is searched: the time for them is never missing."""
        if not by.engine:
            search.answer_as_stock()
        else:
            fast = search.try_plan(baseline.on(self.pipe, by.engine).plan, "lossless", lossless=True)
            search.judge_by(self.answers("search", by, search.outputs(fast)), by.cost)
        if not self.slow:
            self.answers("certify", by)

    def answers(self, name: str, by: StandIn, told: Outputs | None = None) -> Outputs:
        """The baseline's outputs on a split, kept in the study. told: the stand-in's, where they are known."""
        key, part = name, self.parts[name]
        if key in self.study.trials:
            return self.study.outputs(key)
        self.tick(None, f"the baseline's answers to {len(part):,} examples")
        if by.engine:
            graph = baseline.on(self.pipe, by.engine)
            told = graph.outputs(part.values) if told is None else told
            self.told[name, graph.plan.key] = told
            outputs, asked = baseline.settled(self.pipe, by, told, part.values)
            self.study.note("asked", {**self.study.notes.get("asked", {}), name: asked})
        else:
            same = baseline.sorted_(self.pipe)
            outputs = self.told[name, same.plan.key] = same.outputs(part.values)
        self.study.add(Trial({}, key, "baseline", "held out"), outputs)
        return outputs

    def base_rows(self, rows: list[int], at: int) -> Outputs:
        """The baseline's outputs for the rows of one look at the certification split: no more of them than it takes."""
        key, part = f"certify+{at}" if at else "certify", self.parts["certify"]
        if key not in self.study.trials:
            outputs = baseline.sorted_(self.pipe).outputs([part.values[i] for i in rows])
            self.study.add(Trial({}, key, "baseline", "held out"), outputs)
        return self.study.outputs(key)

    def calibrate(self) -> None:
        """Arrays that int8 engines are calibrated with: one row at a time, so that no padding counts."""
        changes = self.pipe.task.calibrating()
        if changes is None:
            return  # nothing that would be calibrated
        values = self.parts["calibrate"].values
        self.pipe.engines.calibration = self.pipe.with_(**changes).arrays(values)
        said = json.dumps([changes, *values], default=str)
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.study.note("calibration", digest)

    def timing(self) -> float:
        """Seconds that the timing in turn takes, about."""
        return FEWEST * (self.pipe.task.sizes.block * self.study.notes["stock_cost"]["stock"] + 4 * SHORTEST)
