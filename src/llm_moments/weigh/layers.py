"""Leaving out each layer: a screen first, then real ablation where it matters, and an audit at random.

The layers of a small model are all left out, on all examples. In a deep one that would take hours: there
every layer is left out on a share of the examples, and only the lowest and one at random on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.errors import EngineError, ModelError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.change import Change
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.weigh.changes import skips
from llm_moments.weigh.clock import Clock, Tick
from llm_moments.weigh.price import priced
from llm_moments.weigh.screen import EXAMPLES, chosen_for_ablation, sample_rows, skip_scores
from llm_moments.weigh.weighing import Weighing, unmeasured
from llm_moments.weigh.worth import Worth

FEW = 8  # layers: with no more, all are left out on all examples
PASSES = 4  # times a forward pass that a gradient takes, with room for its batches not being sorted
GRADIENT = "first-order Taylor of leaving a layer out, absolute value by token"


@dataclass(frozen=True)
class Layers:
    """The worths of leaving out each layer, in the layers' order; the screen, and how far to trust it.

    rank_correlation (Spearman), of a few layers: of the gradients with the divergence that leaving them
    out really brings. Of many layers: between two halves of the screen's examples, each with half of what
    the screen has, so that the screen itself is closer to the truth than that.
    """

    worths: list[Worth]
    screen: str = "none: no run of layers was found"
    rank_correlation: float | None = None


def weigh_layers(
    base: Pipeline, part: Evaluation, outputs: Outputs, *, exhaustive: bool = False, timed: bool = True,
    seed: int = 0, tick: Tick = lambda done, message: None, weighing: Weighing | None = None,
) -> Layers:  # fmt: skip
    """outputs: of the base on the part, [n, classes]. exhaustive: leave out every layer on all examples.

    weighing: keeps a budget; the layers that the gradients find most dispensable come first."""
    clock = weighing.clock if weighing else Clock(tick=tick)
    one = weighing.one if weighing else partial(priced, base, part, outputs, timed=timed)
    cost = weighing.costs.base if weighing else 0.0
    try:
        gradient = clock.run(
            "screening layers by gradient", PASSES * EXAMPLES * cost, lambda: skip_scores(base, part.values)
        )
    except (EngineError, ModelError):
        return Layers([])  # the other changes are weighed all the same
    if gradient is None:
        return Layers([], f"none: {clock.why}")
    todo, order = skips(len(gradient)), [int(at) for at in np.argsort(gradient, kind="stable")]
    if exhaustive or len(todo) <= FEW:
        if weighing:
            weighing.plan(todo)
        found = {at: replace(_told(clock, one, todo[at]), screened=float(gradient[at])) for at in order}
        worths = [found[at] for at in range(len(todo))]
        return Layers(worths, GRADIENT, _trust(gradient, [w.divergence for w in worths]))
    return _deep(base, part, outputs, todo, order, one, clock, cost, seed)


def _told(clock: Clock, one: Callable[[Change], Worth], change: Change) -> Worth:
    clock.tell(change.name)
    return one(change)


def _deep(
    base: Pipeline, part: Evaluation, outputs: Outputs, todo: list[Change], order: list[int],
    one: Callable[[Change], Worth], clock: Clock, cost: float, seed: int,
) -> Layers:  # fmt: skip
    rows = sample_rows(len(part), seed)
    small, theirs = part.take(rows), outputs[rows]
    seen: dict[int, Worth] = {}
    spreads = np.full((len(todo), len(rows)), np.inf)
    clock.planned.update({todo[at].name: len(rows) * cost for at in order})
    for at in order:
        look = partial(priced, base, small, theirs, todo[at], timed=False, spread=spreads[at])
        if (worth := clock.run(todo[at].name, len(rows) * cost, look)) is not None:
            seen[at] = worth
    known = sorted(seen)
    scores = spreads.mean(axis=1)
    picked = chosen_for_ablation(scores[known], share=len(rows) / len(part), seed=seed) if known else []
    chosen = sorted((known[n] for n in picked), key=lambda at: scores[at])
    for at in chosen:
        made = _told(clock, one, todo[at])
        if made.verdict == "unavailable" and todo[at].name in clock.missing:
            continue  # what the share of the examples has shown stays
        seen[at] = replace(made, screened=float(scores[at]))
    worths = [
        unmeasured(change, clock.why) if at not in seen
        else seen[at] if seen[at].screened is not None
        else replace(seen[at], screened=float(scores[at]), ablated=False)
        for at, change in enumerate(todo)
    ]  # fmt: skip
    anew = sum(seen[at].ablated and seen[at].n == len(part) for at in chosen)
    screen = f"{len(known)} of {len(todo)} layers left out on {len(rows)} examples, {anew} on all"
    return Layers(worths, screen, _trust(spreads[known, ::2].mean(axis=1), spreads[known, 1::2].mean(axis=1)))


def _trust(screen: Any, measured: Any) -> float | None:
    both = [(s, m) for s, m in zip(screen, measured, strict=True) if m is not None]
    found = stats.rank_correlation([s for s, _ in both], [m for _, m in both])
    return None if found is None else round(found, 3)
