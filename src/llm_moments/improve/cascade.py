"""Cascades: foretold, what a cheap and a dear plan would do together, from what each did alone; and the stages of a
search that try them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.core import Outputs, Plan
from llm_moments.improve.prefilter import alone
from llm_moments.improve.search import Search
from llm_moments.improve.study import Trial

THREES = 3  # cascades of two before which a third stage is put
SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)  # rows asked again


@dataclass(frozen=True)
class Foretold:
    """A cascade of plan `cheap` over plan `dear`: exact outputs, modelled cost."""

    cheap: str
    dear: str
    threshold: float
    cost: float
    outputs: Outputs


def foretell(
    plans: Sequence[tuple[str, float, Outputs]],
    margins: Callable[[Outputs], np.ndarray],
) -> Iterator[Foretold]:
    """plans: (key, cost an example, outputs). The merged outputs are those the cascade will give; its
    cost adds the cheap plan's for all rows and the dear plan's for the share that is asked again."""
    for cheap, low, outputs in plans:
        sure = margins(outputs)
        if not np.isfinite(sure).all():
            continue
        for dear, high, better in plans:
            if low >= 0.8 * high:
                continue
            for share in SHARES:
                cost = low + share * high
                if cost >= high:
                    break
                threshold = round(float(np.quantile(sure, share)), 4)
                asked = sure < threshold
                yield Foretold(cheap, dear, threshold, low + float(asked.mean()) * high, outputs.where(asked, better))


def foretell_three(
    firsts: Sequence[tuple[str, float, Outputs]], pair: tuple[str, str, float], middle: tuple[float, Outputs],
    last: tuple[float, Outputs], margins: Callable[[Outputs], np.ndarray],
) -> Iterator[tuple[Foretold, float]]:  # fmt: skip
    """One more plan put before a cascade of two. firsts: (key, cost, outputs); pair: keys of the two and the threshold
    between them; middle, last: (cost, outputs). Each comes with the threshold below which the first one asks."""
    (cost, told), (high, better) = middle, last
    unsure = margins(told) < pair[2]
    both = told.where(unsure, better)
    for key, low, outputs in firsts:
        sure = margins(outputs)
        if low >= 0.6 * cost or not np.isfinite(sure).all():
            continue
        for share in SHARES:
            threshold = round(float(np.quantile(sure, share)), 4)
            asked = sure < threshold
            whole = low + float(asked.mean()) * cost + float((asked & unsure).mean()) * high
            merged = outputs.where(asked, both)
            yield Foretold(key, pair[1], pair[2], whole, merged), threshold


def cascades(search: Search) -> None:
    """Foretold for every pair of plans; the few best that promise to hold are measured as a whole."""
    task = search.stock.task
    if search.objective in ("memory", "size") or not task.has_margins():
        return
    front = _parts(search)
    plans = [(t.key, t.cost or 0.0, search.outputs(t)) for t in front]
    bar = min((t.cost or 0.0 for t in search.good()), default=float("inf"))
    tried = 0
    for one in sorted(foretell(plans, task.margins), key=lambda f: f.cost):
        if tried >= 4 or search.late() or one.cost >= 0.97 * bar:
            return
        if search.odds_of(one.outputs) < (0.9 if tried % 2 else 0.75):  # some bold ones, some careful ones
            continue
        cheap, dear = (Plan(search.study.trials[key].plan) for key in (one.cheap, one.dear))
        choices = {"threshold": one.threshold, "cheap": _told(search, dear.changes(cheap))}
        trial = search.try_plan(Plan({**dear.to_dict(), "cascade": choices}), "cascade")
        pairs = {**search.study.notes.get("cascades", {}), trial.key: [one.cheap, one.dear, one.threshold]}
        search.study.note("cascades", pairs)
        tried += 1


def threes(search: Search) -> None:
    """A third stage before the best cascades of two: what is very cheap answers the rows that anything would."""
    task, trials = search.stock.task, search.study.trials
    known = {key: pair for key, pair in search.study.notes.get("cascades", {}).items() if key in trials}
    if search.objective in ("memory", "size") or not known:
        return
    firsts = [(t.key, t.cost or 0.0, search.outputs(t)) for t in _parts(search)]
    bar = min((t.cost or 0.0 for t in search.good()), default=float("inf"))
    found: list[tuple[Any, float, list[Any]]] = []
    for key in sorted(known, key=lambda key: trials[key].cost or float("inf"))[:THREES]:
        pair = known[key]
        middle, last = ((trials[k].cost or 0.0, search.outputs(trials[k])) for k in pair[:2])
        told = foretell_three(firsts, tuple(pair), middle, last, task.margins)
        found += [(one, threshold, pair) for one, threshold in told if one.cost < 0.95 * bar]
    tried = 0
    for one, threshold, pair in sorted(found, key=lambda f: f[0].cost):
        if tried >= 4 or search.late():
            return
        if search.odds_of(one.outputs) < (0.9 if tried % 2 else 0.75):
            continue
        cheapest, cheap, dear = (Plan(trials[key].plan) for key in (one.cheap, pair[0], pair[1]))
        before = {"cascade.threshold": threshold, "cascade.cheap": _told(search, cheap.changes(cheapest))}
        choices = {"threshold": pair[2], "cheap": {**_told(search, dear.changes(cheap)), **before}}
        search.try_plan(Plan({**dear.to_dict(), "cascade": choices}), "cascade of three")
        tried += 1


def _told(search: Search, changes: dict[str, Any]) -> dict[str, Any]:
    """Changes with a default said where a choice is taken back: a plan file has no word for None."""
    knobs = search.stock.task.knobs()
    defaults = {f"{s}.{k.name}": k.default for s, ks in knobs.items() for k in ks}
    return {name: defaults[name] if value is None else value for name, value in changes.items()}


def _parts(search: Search) -> list[Trial]:
    """Plans that cascades are made of: a model of another kind, and the front of the others."""
    singles = [t for t in search.whole() if "cascade" not in t.plan]
    return [t for t in singles if alone(t)] + _front([t for t in singles if not alone(t)])


def _front(trials: list[Trial]) -> list[Trial]:
    """Plans that no other plan beats in both cost and score: of others no cascade is made."""
    front: list[Trial] = []
    best = -float("inf")
    for trial in sorted(trials, key=lambda t: (t.cost or 0.0, -(t.score or 0.0))):
        if (trial.score or 0.0) > best:
            front.append(trial)
            best = trial.score or 0.0
    return front
