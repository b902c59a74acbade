"""What each choice of the chosen plan brings: it alone is taken back, and all others stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from llm_moments.base.errors import EngineError, ModelError, PlanError
from llm_moments.core import Pipeline
from llm_moments.core.change import Change, by_step, in_words, plain
from llm_moments.core.pipeline import chosen, knobs_of
from llm_moments.engines.base import put_on
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.weigh.price import priced
from llm_moments.weigh.verdict import with_verdicts
from llm_moments.weigh.worth import Worth, Worths

ENGINE = ("forward.engine", "forward.precision", "forward.calibration")
ALONE = ("forward.weights",)  # stays when the engine is taken back: it is another model


def weighed(
    stock: Pipeline, chosen: Pipeline, part: Evaluation, max_drop: float, seconds: float = float("inf")
) -> Worths:
    """Each choice held against the chosen plan without it, on these examples: savings multiply. seconds: after so many no
    further one is begun."""
    worths = list(_priced(stock, chosen, part, time.monotonic() + seconds))
    return Worths(
        with_verdicts(worths, max_drop), metric=part.metric, n=len(part), labelled=part.labelled,
        compared_with="the chosen plan with that choice alone taken back; savings are shares of its time",
    )  # fmt: skip


def _priced(stock: Pipeline, chosen: Pipeline, part: Evaluation, end: float) -> Iterator[Worth]:
    for back in taken_back(stock, chosen):
        forth = chosen.plan.with_(**back.choices).changes(chosen.plan)
        if time.monotonic() > end:
            yield Worth(back.name, back.step, forth, "unavailable", reason="not weighed: the budget was used up")
            continue
        try:
            without = chosen.with_(**back.choices)
            outputs = without.outputs(part.values)
        except (EngineError, ModelError, PlanError) as error:  # a plan that cannot be without it
            yield Worth(back.name, back.step, forth, "unavailable", reason=str(error))
            continue
        yield priced(without, part, outputs, Change(back.name, forth, back.lossless, back.kind))


def taken_back(stock: Pipeline, now: Pipeline) -> Iterator[Change]:
    """Every choice in which the plan differs from the stock plan, named by what was chosen; `choices` take it back.

    What there is to choose, its default and whether answers change by it is the knobs' to say: those of the task.
    A step of which no knob changes an answer is one choice, as are an engine and what only it follows.
    """
    knobs = knobs_of(now)
    old, new = chosen(stock, knobs), chosen(now, knobs)
    said = {name: stock.plan.get_choice(name) for name in knobs if old[name] != new[name]}
    if "cascade" in now.plan and now.plan["cascade"] != stock.plan.settings("cascade"):
        names = [name for name in knobs if name.startswith("cascade.")]
        yield Change(
            "a cheap stage first", {n: stock.plan.get_choice(n) for n in names}, lossless=False, kind="cascade"
        )
    rest = {name: value for name, value in said.items() if not name.startswith("cascade.")}
    if set(rest) & set(ENGINE):
        yield from _engine(rest, old, new)
    for step, names in by_step({name: None for name in rest if name not in ENGINE}):
        if all(knob.lossless for name, knob in knobs.items() if name.startswith(f"{step}.")):
            yield Change(_together(names, new, knobs), {name: rest[name] for name in names}, lossless=True, kind=step)
            continue
        for name in names:
            words = in_words(name, new[name], knobs[name].default)
            yield Change(
                f"{words}, was {plain(old[name])}", {name: rest[name]}, lossless=knobs[name].lossless, kind=step
            )


def _engine(rest: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    engine, precision = new["forward.engine"], new["forward.precision"]
    if "forward.engine" in rest:
        all_of_it = {name: value for name, value in rest.items() if name.startswith("forward.") and name not in ALONE}
        yield Change(f"{engine} {precision}, was {old['forward.engine']}", all_of_it, lossless=False, kind="forward")
    if "forward.precision" in rest:
        back = put_on(engine, old["forward.precision"])  # what only the precision follows goes with it
        yield Change(
            f"{precision}, was {old['forward.precision']}", {**back, "forward.calibration": None}, lossless=False,
            kind="forward",
        )  # fmt: skip


def _together(names: list[str], new: dict[str, Any], knobs: Any) -> str:
    if len(names) == 1:
        return in_words(names[0], new[names[0]], knobs[names[0]].default)
    step = names[0].rpartition(".")[0]
    return f"{step}: " + ", ".join(f"{name.partition('.')[2].replace('_', ' ')} {plain(new[name])}" for name in names)
