"""Labels only where answers differ: R8 with its labels hidden. How many are asked for, and is the same plan certified?

    python benchmarks/questions.py [--model .demo/model] [--seeds 20] [--questions 100] [--budget 150s] [--dry]

One search finds plans; each answers all rows once. For each seed the rows are split anew: some are searched on with their
labels, of all others the labels are hidden, and what is asked is answered from them. Beside it the same sequence is held
against the same rows with every label known. False: certified, and the true drop over all rows is not below the budget.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import results

import llm_moments as lm
from llm_moments.core import Outputs, Plan
from llm_moments.evaluate.evaluation import evaluation, gather
from llm_moments.improve import asks, questions
from llm_moments.improve.pass_probability import chance, sequence
from llm_moments.improve.questions import Questions

SEARCHED = 800  # rows with labels, as `improve` takes them at most
MAX_DROP, GOAL = 0.01, 0.03


def plans_of(model: str, data: list[Any], budget: str) -> list[tuple[Plan, float]]:
    """Every plan that a search measured whole, and its cost."""
    with tempfile.TemporaryDirectory() as room:
        # Without the linear model: its weights would go with the room.
        done = lm.improve(model, data, max_drop=MAX_DROP, budget=budget, out=Path(room) / "out", first="none")
        most = max(t.n for t in done.study)
        return [(Plan(t.plan), t.cost or 0.0) for t in done.study if t.status == "ok" and t.n == most and t.cost]


def certified(part: Any, keys: list[str], drops: Any) -> tuple[str, list[str]]:
    """The last plan of a sequence that passes, and those that were looked at."""
    best, seen = "", []
    for key in keys:
        seen.append(key)
        if not asks.look(part, drops(key), key, MAX_DROP).passed:
            break
        best = key
    return best, seen


def one_seed(
    whole: Any, baseline: Outputs, outputs: dict[str, Outputs], costs: dict[str, float], most: int, seed: int
) -> dict[str, Any]:
    pipe, order = whole.pipe, np.random.default_rng(seed).permutation(len(whole))
    searched, rest = order[:SEARCHED], order[SEARCHED:]
    lost = {key: whole.scores(baseline, baseline) - whole.scores(o, baseline) for key, o in outputs.items()}
    differs = {key: ~pipe.task.argmax_equal(o, baseline) for key, o in outputs.items()}
    keys = sequence((k, costs[k], chance(lost[k][searched], len(rest), MAX_DROP)) for k in outputs)
    keys = questions.within({k: differs[k][searched] for k in keys}, len(rest), most)
    part = whole.take(rest.tolist())
    asked = Questions(pipe, part.values, baseline[rest], {k: outputs[k][rest] for k in keys}, most)
    labels = {one.key: str(pipe.model.labels[part.references[one.row]]) for one in asked.asked}
    by_questions, _ = certified(part, keys, lambda key: asked.drops(key, labels)[0])
    by_labels, _ = certified(part, keys, lambda key: lost[key][rest])
    return {
        "asked": len(asked.asked), "share": len(asked.asked) / len(rest), "same": by_questions == by_labels,
        "gain": costs[keys[0]] / costs[by_questions] if by_questions else 0.0, "none": not by_questions,
        "false": bool(by_questions) and float(lost[by_questions].mean()) >= MAX_DROP, "candidates": len(keys),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--data", nargs="+", default=[".samples/r8-improve.csv", ".samples/r8-test.csv"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--budget", default="150s")
    parser.add_argument("--dry", action="store_true", help="print, do not write RESULTS.md")
    wanted = parser.parse_args()
    data = [example for file in wanted.data for example in gather(file)[0]]
    pipe = lm.load(wanted.model)
    whole = evaluation(pipe, data)
    baseline = pipe.with_(**{**pipe.task.sorts, "forward.engine": "openvino"}).outputs(whole.values)
    pipe.engines.calibration = pipe.with_(**pipe.task.calibrating()).arrays(whole.values[:100])
    plans = plans_of(wanted.model, data[:1983], wanted.budget)
    outputs = {plan.key: pipe.with_(plan).outputs(whole.values) for plan, _ in plans}
    costs = {plan.key: cost for plan, cost in plans}
    found = [one_seed(whole, baseline, outputs, costs, wanted.questions, seed) for seed in range(wanted.seeds)]
    n, hidden = len(found), len(whole) - SEARCHED
    shares = sorted(one["share"] for one in found)
    lines = [
        f"Reuters R8, {len(whole):,} rows, {SEARCHED} of them with labels, the labels of {hidden:,} hidden; {len(plans)} plans; at most "
        f"{wanted.questions} questions; {n} seeds.",
        "",
        *results.table(
            ("", "found", "goal"),
            [
                (
                    "labels asked for, of the hidden ones (median, most)",
                    f"{shares[n // 2]:.1%}, {shares[-1]:.1%}",
                    f"at most {GOAL:.0%}",
                ),
                ("the same plan as with all labels", f"{sum(one['same'] for one in found)} of {n}", "all"),
                ("nothing certified", f"{sum(one['none'] for one in found)} of {n}", ""),
                ("false certificates", f"{sum(one['false'] for one in found)} of {n}", "none"),
                (
                    "times as fast as the surest candidate (median)",
                    f"{sorted(one['gain'] for one in found)[n // 2]:.1f}",
                    "",
                ),
            ],
        ),
    ]
    if wanted.dry:
        print("\n".join(lines))
    else:
        results.write("Questions: labels only where answers differ", lines)


if __name__ == "__main__":
    main()
