"""Goal 5: what improve finds in its budget against an exhaustive sweep of its own plan space.

    python benchmarks/sweep.py [--model .demo/model] [--artefact .demo/improved] [--data .samples/r8-improve.csv]

Every engine and precision at every length and side, then every cascade that promises to hold and to be
faster than the best so far, then all of `tune` on the three best; without a limit of time. The best plan
is then timed beside the artefact's, in turn. (Layers left out and kept in float are not swept.)
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
from llm_moments.evaluation import gather
from llm_moments.improve import stages
from llm_moments.improve.cascade import foretell
from llm_moments.improve.improve import _Run
from llm_moments.improve.search import GOOD, Search
from llm_moments.improve.study import Study
from llm_moments.measure import interleaved

MOST = 40  # cascades that are measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--artefact", default=".demo/improved")
    parser.add_argument("--data", default=".samples/r8-improve.csv")
    parser.add_argument("--max-drop", type=float, default=0.01)
    wanted = parser.parse_args()
    pipe, examples = lm.load(wanted.model), gather(wanted.data)[0]
    from llm_moments.evaluation import split

    run = _Run(
        pipe, split(pipe, examples), Study(None, {}), wanted.max_drop, "throughput", 1e7, lambda done, message: None,
        wanted.data, None,
    )  # fmt: skip
    cost = run.time_stock()
    run.affordable(cost["sorted"])
    search = run.search(cost)
    search.deadline = math.inf
    search.answer_as_stock()
    run.calibrate()
    start = time.monotonic()
    swept(search)
    spent = time.monotonic() - start
    best = search.good()[0]
    artefact = lm.load(wanted.artefact)
    values = run.parts["certify"].values
    plans = {"swept": search.pipe(best), "improved": artefact}
    times = interleaved(plans, values, "throughput", costs=dict.fromkeys(plans, best.cost or 1.0), rounds=9, seconds=90)
    ratio = stats.ratio_interval(times["improved"], times["swept"])
    results.write("An exhaustive sweep of the plan space (goal 5)", [
        f"{len(search.study.trials)} plans in {spent / 60:.0f} minutes; {len(search.good())} with a chance of {GOOD} or more to "
        f"be certified. The fastest of these is {ratio.estimate:.2f} times as fast as what `improve` chose (95% bounds "
        f"{ratio.low:.2f} to {ratio.high:.2f}; goal: at most 1.11).", "",
        f"Swept ({search.odds(best):.2f} to be certified): {best.plan}", "", f"Improved: {artefact.plan.to_dict()}",
    ])  # fmt: skip


def swept(search: Search) -> None:
    for engine, precision in stages.pairs():
        for length in stages.rungs(search):
            for side in ("head", "tail", "head+tail"):
                say(
                    search,
                    search.try_plan(search.plan_of(engine, precision, length, **{"truncate.side": side}), "sweep"),
                )
    task, model = search.stock.task, search.stock.model
    front = stages._front(search.whole())
    plans = [(t.key, t.cost or 0.0, search.outputs(t)) for t in front]
    bar = min((t.cost or 0.0 for t in search.good()), default=math.inf)
    able = [
        f
        for f in foretell(plans, lambda o: task.margins(o, model))
        if f.cost < bar and search.odds_of(f.outputs) >= GOOD
    ]
    for one in sorted(able, key=lambda f: f.cost)[:MOST]:
        cheap, dear = (Plan(search.study.trials[key].plan) for key in (one.cheap, one.dear))
        choices: dict[str, Any] = {"threshold": one.threshold, "cheap": stages._told(search, dear.changes(cheap))}
        say(search, search.try_plan(Plan({**dear.to_dict(), "cascade": choices}), "sweep"))
    for best in search.good()[:3]:
        for name, value in stages.tunable():
            plan = Plan(best.plan).with_(**{name: value}, **stages._in_cheap(best.plan, name, value))
            say(search, search.try_plan(plan, "sweep"))


def say(search: Search, trial: Any) -> None:
    cost = np.nan if trial.cost is None else trial.cost * 1e3
    print(f"{len(search.study.trials)}: {cost:.2f} ms {trial.status} {trial.plan}"[:200], file=sys.stderr)


if __name__ == "__main__":
    main()
