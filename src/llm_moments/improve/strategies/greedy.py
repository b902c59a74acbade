"""The search for tasks that make texts: engines first, then change by change, what is faster and keeps the answers stays.

What there is to try is the task's to say (`task.changes(plan)`); a few rows say what promises most.
An answer of such a model takes seconds, so that a plan is looked at on few examples before it gets the whole split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_moments.core import Plan
from llm_moments.engines.base import engine_class
from llm_moments.evaluate.measure import measure
from llm_moments.improve.search import GOOD, Search
from llm_moments.improve.study import Trial

FASTER = 0.97  # share of the time from which a change counts as a gain


def engines(search: Search) -> None:
    """Every engine and precision that reads this model, on a few examples; then on the whole split, the fastest first,
    until one is likely to keep the answers: time is better spent on what else can be changed."""
    few, baseline = _glance(search), search.stock.plan.with_(**search.stock.task.sorts)
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
    for trial in sorted(quick, key=_cost):
        if search.late(1.2 * _cost(trial) * len(search.part)):
            return
        whole = search.try_plan(Plan(trial.plan), trial.stage, lossless=trial.lossless)
        if whole.status == "ok" and search.odds(whole) >= GOOD:
            return


def _first_look(search: Search, changes: Mapping[str, Any]) -> float:
    """Seconds that an engine may take until it has answered the first few, if it is no faster than the baseline."""
    rows = _glance(search) + search.stock.task.sizes.warm
    build = 1.5 * search.built if engine_class(changes["forward.engine"]).builds else 0.0
    return build + rows * (search.base_cost or 0.0)


def _whole(search: Search, quick: list[Trial]) -> float:
    """Seconds for the whole split by the fastest so far: without it nothing that was found could be chosen."""
    return 1.2 * min(map(_cost, quick), default=0.0) * len(search.part)


def climb(search: Search) -> None:
    """On top of the fastest plan that keeps the answers, the change that promises most on a few rows, whatever its kind:
    kept where it is faster on the whole split, too. What promises nothing is asked once more only when all else is done."""
    best = next(iter(search.good()), None) or _baseline(search)
    asked: set[str] | None = None  # names of the changes that still promise something; None: all
    while not search.late():
        promising = _promising(search, best, asked)
        better = None
        for at, trial in enumerate(promising):
            if (better := _better(search, best, trial)) is not None:
                best, asked = better, {other.stage for other in promising[at + 1 :]}
                break
        if better is None and asked is None:
            return  # none of all of them
        if better is None or not asked:
            asked = None


def _promising(search: Search, best: Trial, asked: set[str] | None) -> list[Trial]:
    """Looks at each change on the first rows; those that are faster there and do not surely lose too much, fastest first."""
    rows = _glance(search)
    base, found = None, []
    for change in search.stock.task.changes(Plan(best.plan)):
        plan = Plan(best.plan).with_(**change.choices)
        known = search.study.trials.get(plan.key)
        if "forward.engine" in change.choices or (asked is not None and change.name not in asked):
            continue
        if plan.key == best.key or (known is not None and known.n == len(search.part)):
            continue  # it was decided on the whole split
        if base is None:
            base = measure(search.pipe(best), search.part.values[:rows], search.objective).cost
        if search.late(rows * base):
            break
        trial = search.try_plan(plan, change.name, lossless=change.lossless, rows=rows)
        if trial.status == "ok" and _cost(trial) < FASTER * base and (trial.drop_low or 0.0) < search.max_drop:
            found.append(trial)
    return sorted(found, key=_cost)


def _better(search: Search, best: Trial, quick: Trial) -> Trial | None:
    """The trial on the whole split, where it is faster than the best so far and as likely to keep the answers as is asked."""
    if search.late(1.2 * _cost(quick) * len(search.part)):
        return None
    trial = search.try_plan(Plan(quick.plan), quick.stage, lossless=quick.lossless)
    if trial.status != "ok" or _cost(trial) > FASTER * _cost(best) or search.odds(trial) < GOOD:
        return None
    return trial


def _baseline(search: Search) -> Trial:
    return search.study.trials[search.stock.plan.with_(**search.stock.task.sorts).key]


def _glance(search: Search) -> int:
    return min(int(search.stock.task.sizes.block), len(search.part))


def _cost(trial: Trial) -> float:
    return trial.cost or float("inf")


STAGES: tuple[Callable[[Search], Any], ...] = (engines, climb)
