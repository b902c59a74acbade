"""The search for tasks that make texts: engines first, then knob by knob, what is faster and keeps the answers stays.

What there is to try is the task's to say: `task.changes(plan)` gives them in order.
An answer of such a model takes seconds, so that a plan is looked at on few examples before it gets the whole split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_moments.core import Plan
from llm_moments.engines.base import engine_class
from llm_moments.improve.search import GOOD, Search
from llm_moments.improve.study import Trial

FASTER = 0.97  # share of the time from which a change counts as a gain
TOGETHER = 3  # engines that are worked on


def engines(search: Search) -> None:
    """Every engine and precision that reads this model, on few examples; the fastest ones on the whole split."""
    few, baseline = _few(search), search.stock.plan.with_(**search.stock.task.sorts)
    quick: list[Trial] = []
    for change in search.stock.task.changes(search.stock.plan):
        choices = change.choices
        if "forward.engine" not in choices or search.late(_first_look(search, choices) + _whole(search, quick)):
            continue
        plan = baseline.with_(**choices)
        if plan in (baseline, search.stock.plan):
            continue
        trial = search.try_plan(plan, change.name, lossless=change.lossless, rows=few)
        if trial.status == "ok":
            quick.append(trial)
    for trial in sorted(quick, key=_cost)[:TOGETHER]:
        if search.late(1.2 * _cost(trial) * len(search.part)):
            return
        search.try_plan(Plan(trial.plan), trial.stage, lossless=trial.lossless)


def _first_look(search: Search, changes: Mapping[str, Any]) -> float:
    """Seconds that an engine may take until it has answered the first few, if it is no faster than the baseline."""
    rows = _few(search) + search.stock.task.sizes.warm
    build = 1.5 * search.built if engine_class(changes["forward.engine"]).builds else 0.0
    return build + rows * (search.base_cost or 0.0)


def _whole(search: Search, quick: list[Trial]) -> float:
    """Seconds for the whole split by the fastest so far: without it nothing that was found could be chosen."""
    return 1.2 * min(map(_cost, quick), default=0.0) * len(search.part)


def one_by_one(search: Search) -> None:
    """Each other change on the fastest plan that keeps the answers, lossless ones first; kept when it is faster."""
    best = next(iter(search.good()), None) or _baseline(search)
    seen = {best.key}
    for lossless in (True, False):
        again = True
        while again and not search.late():
            again = False
            for change in search.stock.task.changes(Plan(best.plan)):
                if change.lossless is not lossless or "forward.engine" in change.choices or search.late():
                    continue
                plan = Plan(best.plan).with_(**change.choices)
                if plan.key in seen:
                    continue
                seen.add(plan.key)
                better = _better(search, best, plan, change.name, lossless)
                if better is not None:
                    best, again = better, True


def _better(search: Search, best: Trial, plan: Plan, name: str, lossless: bool) -> Trial | None:
    """The trial of a plan that is faster than the best so far and as likely to keep the answers as is asked."""
    few = _few(search)
    known = search.study.trials.get(best.key)
    quick = search.try_plan(plan, name, lossless=lossless, rows=few)
    if quick.status != "ok" or known is None or _cost(quick) > 1.05 * _cost(known):
        return None
    if search.late(1.2 * _cost(quick) * len(search.part)):
        return None
    trial = search.try_plan(plan, name, lossless=lossless)
    if trial.status != "ok" or _cost(trial) > FASTER * _cost(known) or search.odds(trial) < GOOD:
        return None
    return trial


def _baseline(search: Search) -> Trial:
    return search.study.trials[search.stock.plan.with_(**search.stock.task.sorts).key]


def _few(search: Search) -> int:
    return min(2 * int(search.stock.task.sizes.block), len(search.part))


def _cost(trial: Trial) -> float:
    return trial.cost or float("inf")


STAGES: tuple[Callable[[Search], Any], ...] = (engines, one_by_one)
