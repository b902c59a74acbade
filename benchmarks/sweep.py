"""Goal 5: what improve finds in its budget against a sweep of its own plan space.

    python benchmarks/sweep.py [--model .demo/model] [--artefact .demo/improved] [--data .samples/r8-improve.csv]
                               [--limit 2000] [--minutes 12]

A fixed grid: every engine and precision at the lengths of `GRID`, shortest first, until two lengths in a
row are sure to keep the answers (longer ones are slower and cannot win); the other sides at the lengths
of the best three; then every cascade that promises to hold and to be faster than the best so far, at most
`MOST`; then all of `tune` on the two best. What the minutes did not suffice for is counted and told. The
best plan is then timed beside the artefact's, in turn. (Layers left out and kept in float are not swept.)
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

import numpy as np
import results

import llm_moments as lm
from llm_moments import stats
from llm_moments.core import Plan
from llm_moments.evaluate.evaluation import gather
from llm_moments.evaluate.measure import interleaved
from llm_moments.improve import cascade
from llm_moments.improve.cascade import foretell
from llm_moments.improve.run import Run
from llm_moments.improve.search import GOOD, Search
from llm_moments.improve.strategies import ladder as stages
from llm_moments.improve.study import Study

GRID = (8, 16, 32, 64, 128, 256)  # and the model's own limit; coarser than the ladder that `improve` climbs
SURE = 2  # lengths in a row that are sure before longer ones are left out
MOST = 16  # cascades that are measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--artefact", default=".demo/improved")
    parser.add_argument("--data", default=".samples/r8-improve.csv")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=2000, help="rows")
    parser.add_argument("--minutes", type=float, default=12, help="of the whole sweep; the timing comes after it")
    wanted = parser.parse_args()
    start = time.monotonic()
    pipe, examples = lm.load(wanted.model).settled(), gather(wanted.data)[0][: wanted.limit]
    from llm_moments.evaluate.evaluation import split

    run = Run(
        pipe, split(pipe, examples), Study(None, {}), wanted.max_drop, "throughput", 1e7, lambda done, message: None,
        wanted.data, None,
    )  # fmt: skip
    by = run.stand_in()
    run.affordable(by)
    search = run.search(by)
    search.deadline = math.inf
    run.answer_as_baseline(search, by)
    run.calibrate()
    sweep = Sweep(search, start + 60 * wanted.minutes)
    sweep.run()
    spent = time.monotonic() - start
    if not search.good():
        sys.exit(f"none of {len(search.study.trials)} plans had a chance of {GOOD} to be certified")
    best = search.good()[0]
    artefact = lm.load(wanted.artefact)
    values = run.parts["certify"].values
    plans = {"swept": search.pipe(best), "improved": artefact}
    times = interleaved(plans, values, "throughput", costs=dict.fromkeys(plans, best.cost or 1.0), rounds=9, seconds=60)
    ratio = stats.ratio_interval(times["improved"], times["swept"])
    results.write("An exhaustive sweep of the plan space (goal 5)", [
        f"{len(examples):,} rows, a grid of {len(stages.pairs(search))} engines and precisions by the lengths "
        f"{', '.join(map(str, sweep.lengths))}, three sides for the best, at most {MOST} cascades, all that `tune` tries for the two best: "
        f"{len(search.study.trials)} plans in {spent / 60:.1f} minutes (at most {wanted.minutes:g}; left out for want of time: "
        f"{sweep.left_out}); {len(search.good())} with a chance of {GOOD} or more to "
        f"be certified. The fastest of these is {ratio.estimate:.2f} times as fast as what `improve` chose (95% bounds "
        f"{ratio.low:.2f} to {ratio.high:.2f}; goal: at most 1.11).", "",
        f"Swept ({search.odds(best):.2f} to be certified): {best.plan}", "", f"Improved: {artefact.plan.to_dict()}",
    ])  # fmt: skip


class Sweep:
    def __init__(self, search: Search, end: float):
        self.search, self.end, self.left_out = search, end, 0
        longest = stages.rungs(search)[-1]
        self.lengths = [n for n in GRID if n < longest] + [longest]

    def run(self) -> None:
        self.grid()
        self.sides()
        self.cascades()
        self.tune()

    def tried(self, plan: Plan) -> bool:
        """Measures the plan if there is time; whether it is sure to keep the answers."""
        if time.monotonic() > self.end:
            self.left_out += 1
            return False
        trial = self.search.try_plan(plan, "sweep")
        say(self.search, trial)
        return trial.status == "ok" and self.search.odds(trial) >= stages.SURE

    def grid(self) -> None:
        sure = dict.fromkeys(stages.pairs(self.search), 0)
        for length in self.lengths:
            for pair in [pair for pair, times in sure.items() if times < SURE]:
                held = self.tried(self.search.plan_of(*pair, length))
                sure[pair] = sure[pair] + 1 if held else 0

    def sides(self) -> None:
        for best in self.search.good()[:3]:
            for side in ("tail", "head+tail"):
                self.tried(Plan(best.plan).with_(**{"truncate.side": side}))

    def cascades(self) -> None:
        search, task, _model = self.search, self.search.stock.task, self.search.stock.model
        plans = [(t.key, t.cost or 0.0, search.outputs(t)) for t in cascade._front(search.whole())]
        bar = min((t.cost or 0.0 for t in search.good()), default=math.inf)
        foretold = foretell(plans, lambda o: task.margins(o))
        able = [f for f in foretold if f.cost < bar and search.odds_of(f.outputs) >= GOOD]
        for one in sorted(able, key=lambda f: f.cost)[:MOST]:
            cheap, dear = (Plan(search.study.trials[key].plan) for key in (one.cheap, one.dear))
            choices: dict[str, Any] = {"threshold": one.threshold, "cheap": cascade._told(search, dear.changes(cheap))}
            self.tried(Plan({**dear.to_dict(), "cascade": choices}))

    def tune(self) -> None:
        for best in self.search.good()[:2]:
            for name, value in stages.tunable(self.search):
                self.tried(Plan(best.plan).with_(**{name: value}, **stages._in_cheap(best.plan, name, value)))


def say(search: Search, trial: Any) -> None:
    cost = np.nan if trial.cost is None else trial.cost * 1e3
    print(f"{len(search.study.trials)}: {cost:.2f} ms {trial.status} {trial.plan}"[:200], file=sys.stderr)


if __name__ == "__main__":
    main()
