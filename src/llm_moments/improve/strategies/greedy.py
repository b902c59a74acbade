"""The search for tasks that make texts: the fastest engine, and on top of it change by change what is faster and keeps the
answers.

What there is to try is the task's to say (`task.changes(plan)`). An answer of such a model takes seconds: a few rows say
what promises most, and the whole split is asked of that, with all that was found before it, rather than of each alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llm_moments.core import Change, Plan
from llm_moments.evaluate.measure import measure
from llm_moments.improve.search import GOOD, Search
from llm_moments.improve.study import Trial

FLOAT = ("fp32", "bf16", "fp16")
FASTER = 0.97  # share of the time from which a change counts as a gain
MUCH = 0.6  # share of the time at which a change is taken up at once: the others are asked sooner on top of it


def search_by_changes(search: Search) -> None:
    found = engines(search)
    by_hand(search, found)
    Climb(search, found).go()


def engines(search: Search) -> list[Trial]:
    """Every engine and precision that reads this model, on a few examples; the fastest first. What cannot run here is told
    at once, before anything is loaded."""
    few, baseline = _glance(search), search.stock.plan.with_(**search.stock.task.sorts)
    able: list[tuple[Change, Plan]] = []
    refused: dict[str, str] = {}
    for change in search.stock.task.changes(search.stock.plan):
        plan = baseline.with_(**change.choices)
        if "forward.engine" not in change.choices or plan in (baseline, search.stock.plan):
            continue
        if why := search.refused(plan):
            refused[change.name] = why
            if plan.key not in search.study.trials:
                search.study.add(
                    Trial(plan.to_dict(), plan.key, change.name, "unavailable", why, lossless=change.lossless)
                )
        else:
            able.append((change, plan))
    if refused:
        search.tick(None, f"not available here: {'; '.join(f'{name} ({why})' for name, why in refused.items())}")
    quick: list[Trial] = []
    for change, plan in able:
        if search.late(_first_look(search, plan) + _reserve(search, quick)):
            continue
        trial = search.try_plan(plan, change.name, lossless=change.lossless, rows=few)
        if trial.status == "ok":
            quick.append(trial)
    return sorted(quick, key=_cost)


def by_hand(search: Search, quick: list[Trial]) -> None:
    """What a careful engineer would set: the best single engine in float, and many prompts together. It is compared with
    what is chosen, and a candidate like any other."""
    best = next((t for t in quick if t.plan["forward"].get("precision") in FLOAT), None)
    if best is None:
        return
    plan = Plan(best.plan).with_(**search.stock.task.careful(Plan(best.plan)))
    if search.late(_glance(search) * _cost(best) + _reserve(search, quick)):
        return
    if (trial := search.try_plan(plan, "by hand", lossless=best.lossless, rows=_glance(search))).status == "ok":
        search.study.note("hand", trial.key)


def _first_look(search: Search, plan: Plan) -> float:
    """Seconds that an engine may take until it has answered the first few, if it is no faster than the baseline."""
    rows = _glance(search) + search.stock.task.sizes.warm
    return search.to_open(plan) + rows * (search.base_cost or 0.0)


def _reserve(search: Search, quick: list[Trial]) -> float:
    """Seconds for the whole split by the fastest so far: without it nothing that was found could be chosen. Where that
    would take nearly all of the time, none is kept: something faster is wanted."""
    whole = 1.2 * min(map(_cost, quick), default=0.0) * len(search.part)
    return 0.0 if search.late(1.2 * whole) else whole


@dataclass
class Climb:
    """From the fastest plan so far, the change that promises most on a few rows, whatever its kind: kept where the whole
    split says so, too. What promises nothing is asked once more only when all else is done."""

    search: Search
    engines: list[Trial] = field(default_factory=list)  # on a few rows, fastest first

    def __post_init__(self) -> None:
        # The fastest engine that gave the baseline's own answers: it is never left behind for the baseline.
        lossless = (trial for trial in self.engines if trial.lossless and self.search.same_answers(trial))
        self.safe = next((t for t in lossless if _cost(t) < _cost(_baseline(self.search))), _baseline(self.search))
        self.best = self.surest()
        self.sure = not self.engines or _cost(self.best) < _cost(self.engines[0])  # by the whole split
        if not self.sure:
            self.best = self.engines[0]
        self.reserve = 0.0 if self.sure else _reserve(self.search, self.engines)
        self.start = Plan(self.best.plan)  # what the path goes on from
        self.path: list[Change] = []  # what the best has, one on top of another; of a study that goes on: not known
        self.asked: set[str] | None = None  # names of the changes that still promise something; None: all
        self.named: dict[str, Change] = {}  # what was asked last on top of the best, by the plan's key
        self.over: set[str] = set()  # keys of plans that there was no time for

    def go(self) -> None:
        while not self.search.late(self.back()):
            found, all_asked = self.promising()
            better = next((at for at, trial in enumerate(found) if self.better(trial)), None)
            if better is not None:
                self.asked = {other.stage for other in found[better + 1 :]} if all_asked else self.asked
            elif not all_asked:
                continue  # what promised most is decided; the others are asked now
            elif not self.sure:
                self.settle()
                self.asked = None
            elif self.asked is None:
                break  # none of all of them
            if not self.asked:
                self.asked = None
        if not self.sure:
            self.settle()
        self.step_back()

    def back(self) -> float:
        """Seconds that are kept for one step back."""
        lossy = self.sure and not all(change.lossless for change in self.path)
        safe = 2 * _cost(self.safe) * _glance(self.search) if lossy or self.start != Plan(self.safe.plan) else 0.0
        return (2 * _cost(self.best) * len(self.search.part) if lossy else 0.0) + safe

    def step_back(self) -> None:
        """Surer plans than the best, which may fail its certification: the fastest engine that keeps the answers, with what
        changes no answer of all that the best has, and the best without one change each."""
        search, base = self.search, Plan(self.safe.plan)
        lossless = [change for change in self.path if change.lossless]
        if lossless and (len(lossless) < len(self.path) or self.start != base):
            for change in lossless:
                base = base.with_(**change.choices)
            search.try_plan(base, "what changes no answer of it", lossless=True, rows=_glance(search))
        for out in [change for change in self.path if not change.lossless][::-1]:
            plan = self.start
            for change in self.path:
                plan = plan if change is out else plan.with_(**change.choices)
            if search.late(1.2 * _cost(self.best) * len(search.part)):
                return
            quick = search.try_plan(plan, f"without {out.name}", rows=_glance(search))
            if quick.status == "ok" and not search.late(1.2 * _cost(quick) * len(search.part)):
                search.try_plan(plan, f"without {out.name}")

    def surest(self) -> Trial:
        """The fastest plan that is likely to keep the answers by the whole split, or the fastest engine that gave the
        baseline's own, as far as it was asked."""
        return min([*self.search.good()[:1], self.safe], key=_cost)

    def settle(self) -> None:
        """Nothing was kept on top of the fastest engine: the fastest one that is likely to keep the answers by itself."""
        self.sure = True
        for trial in self.engines:
            if self.search.late(1.2 * _cost(trial) * len(self.search.part)):
                break
            whole = self.search.try_plan(Plan(trial.plan), trial.stage, lossless=trial.lossless)
            if whole.status == "ok" and self.search.odds(whole) >= GOOD:
                break
        self.best = self.surest()
        self.start, self.path = Plan(self.best.plan), []

    def promising(self) -> tuple[list[Trial], bool]:
        """Looks at each change on the first rows: those that are faster there and do not surely lose too much, fastest
        first; and whether all were asked, since one that promises much ends it."""
        search, rows = self.search, _glance(self.search)
        reserve = self.back() if self.sure else self.reserve
        base, found = None, []
        self.named = {}
        for change in search.stock.task.changes(Plan(self.best.plan)):
            plan = Plan(self.best.plan).with_(**change.choices)
            known = search.study.trials.get(plan.key)
            if "forward.engine" in change.choices or (self.asked is not None and change.name not in self.asked):
                continue
            if plan.key in {self.best.key, *self.over} or (known is not None and known.n == len(search.part)):
                continue  # it was decided on the whole split, or cannot be
            if base is None:
                base = self.glanced(rows)
            if search.late(rows * base + reserve):
                break
            trial = search.try_plan(plan, change.name, lossless=change.lossless, rows=rows)
            self.named[plan.key] = change
            if trial.status == "ok" and _cost(trial) < FASTER * base and (trial.drop_low or 0.0) < search.max_drop:
                found.append(trial)
                if _cost(trial) < MUCH * base:
                    return [trial], False
        return sorted(found, key=_cost), True

    def glanced(self, rows: int) -> float:
        """Seconds an example of the best so far, on the rows that changes are first looked at."""
        if self.best.n == rows:
            return _cost(self.best)
        return measure(self.search.pipe(self.best), self.search.part.values[:rows], self.search.objective).cost

    def better(self, quick: Trial) -> bool:
        """Whether the trial is the best from now on: on the whole split faster and as likely to keep the answers as is
        asked."""
        search = self.search
        if search.late(1.2 * _cost(quick) * len(search.part)):
            self.over.add(quick.key)
            return False
        trial = search.try_plan(Plan(quick.plan), quick.stage, lossless=quick.lossless)
        if trial.status != "ok" or _cost(trial) > FASTER * _cost(self.best) or search.odds(trial) < GOOD:
            return False
        self.best, self.sure = trial, True
        self.path.append(self.named[trial.key])
        return True


def _baseline(search: Search) -> Trial:
    return search.study.trials[search.stock.plan.with_(**search.stock.task.sorts).key]


def _glance(search: Search) -> int:
    return min(int(search.stock.task.sizes.block), len(search.part))


def _cost(trial: Trial) -> float:
    return trial.cost or float("inf")


STAGES: tuple[Callable[[Search], Any], ...] = (search_by_changes,)
