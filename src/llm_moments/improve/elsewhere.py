"""What else could be had: at other budgets, or with more rows, as the search split lets expect. Nothing here is certified."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.evaluate.evaluation import PARTS

BUDGETS = (0.005, 0.01, 0.02, 0.05)
NEAR = 2.0  # times the budget up to which a bound that failed has failed by little
MOST = 4  # times the rows there are: a plan that would need more is not offered


@dataclass(frozen=True)
class Elsewhere:
    """At a drop of at most `max_drop`: a plan, how many times as fast it is expected to be, and the certification rows
    that would prove it with a chance of 80%; `rows` are examples in all."""

    max_drop: float
    plan: Mapping[str, Any]
    speedup: float
    needs: int
    rows: int
    enough: bool
    command: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def needed(drops: np.ndarray, max_drop: float) -> int | None:
    """Certification rows with which such drops [n] of the search split would pass, four times in five.

    One harmful flip more is assumed than was seen, as `chance` does: what is chosen from many has been lucky.
    """
    n = len(drops)
    if n and set(np.unique(drops)) <= {-1.0, 0.0, 1.0}:
        harmful, beneficial = (int((sign * drops > 0).sum()) for sign in (1, -1))
        return stats.needed_examples(max_drop, min((harmful + 1) / (n + 1), 1 - beneficial / n), beneficial / n)
    if not n:
        return None
    return stats.needed_examples_for_scores(max_drop, float(drops.mean()), float(drops.std()))


def elsewhere(
    found: Iterable[tuple[Mapping[str, Any], float, np.ndarray]], have: int, budgets: Iterable[float], command: str,
) -> list[Elsewhere]:  # fmt: skip
    """For each budget the fastest plan that so many rows could prove or, if there is none, that MOST times as many could.

    found: (plan, times the baseline, drops on the search split). have: certification rows. command: without --max-drop.
    """
    plans = sorted(found, key=lambda one: -one[1])
    made = []
    for budget in sorted(budgets):
        for most in (have, MOST * have):
            one = next(
                (o for o in ((p, times, needed(d, budget)) for p, times, d in plans) if o[2] and o[2] <= most), None
            )
            if one is not None:
                plan, times, needs = one
                said = f"{command} --max-drop {budget:g} --out improved-{budget:g}"
                made.append(Elsewhere(budget, plan, times, int(needs or 0), in_all(needs or 0), most == have, said))
                break
    return made


def in_all(certify: int) -> int:
    """Examples in the file of which so many are left to certify on."""
    return ceil(certify / PARTS["certify"])


def command(model: str, data: str) -> str:
    return f"moments improve {shlex.quote(model)} --data {shlex.quote(data)}"


def nearly(seen: Any, times: float, max_drop: float, have: int, said: str) -> str:
    """Of a plan that failed by little: what would have been enough, and the command; else nothing."""
    if seen.drop_high > NEAR * max_drop or seen.drop >= max_drop:
        return ""
    words = (
        f"A plan {times:.0f} times as fast failed by little: its drop could be up to {seen.drop_high:.4f} where {max_drop:g} is "
        f"asked (measured {seen.drop:+.4f})."
    )
    if seen.needs and seen.needs > have:
        words += (
            f" About {seen.needs:,} rows to certify on, {in_all(seen.needs):,} examples in all, would likely be enough."
        )
    budget = ceil(seen.drop_high * 1100) / 1000
    return f"{words} Or a larger budget: {said} --max-drop {budget:g} --out improved-{budget:g}"
