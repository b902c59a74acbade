"""Leaving out each layer: a screen first, then real ablation where it matters, and an audit at random.

The layers of a small model are all left out, on all examples. In a deep one that would take hours: there
every layer is left out on a share of the examples, and only the lowest and one at random on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.core import Pipeline
from llm_moments.errors import EngineError, ModelError
from llm_moments.evaluation import Evaluation
from llm_moments.weigh.changes import skips
from llm_moments.weigh.price import priced
from llm_moments.weigh.screen import chosen_for_ablation, sample_rows, skip_scores
from llm_moments.weigh.worth import Worth

FEW = 8  # layers: with no more, all are left out on all examples
GRADIENT = "first-order Taylor of leaving a layer out, absolute value by token"
Tick = Callable[[float | None, str], None]


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
    base: Pipeline, part: Evaluation, outputs: np.ndarray, *, exhaustive: bool = False, timed: bool = True,
    seed: int = 0, tick: Tick = lambda done, message: None,
) -> Layers:  # fmt: skip
    """outputs: of the base on the part, [n, classes]. exhaustive: leave out every layer on all examples."""
    tick(None, "screening layers by gradient")
    try:
        gradient = skip_scores(base, part.values)
    except (EngineError, ModelError):
        return Layers([])  # the other changes are weighed all the same
    todo = skips(len(gradient))

    def ablated(at: int, score: float) -> Worth:
        tick(None, todo[at].name)
        return replace(priced(base, part, outputs, todo[at], timed=timed), screened=score)

    if exhaustive or len(todo) <= FEW:
        worths = [ablated(at, float(gradient[at])) for at in range(len(todo))]
        return Layers(worths, GRADIENT, _trust(gradient, [w.divergence for w in worths]))
    rows = sample_rows(len(part), seed)
    small, theirs = part.take(rows), outputs[rows]
    seen, spreads = [], np.full((len(todo), len(rows)), np.inf)
    for at, change in enumerate(todo):
        tick(None, f"{change.name}, on {len(rows)} examples")
        seen.append(priced(base, small, theirs, change, timed=False, spread=spreads[at]))
    scores = spreads.mean(axis=1)
    chosen = chosen_for_ablation(scores, share=len(rows) / len(part), seed=seed)
    worths = [
        ablated(at, float(scores[at])) if at in chosen else replace(seen[at], screened=float(scores[at]), ablated=False)
        for at in range(len(todo))
    ]
    screen = f"every layer left out on {len(rows)} examples, {len(chosen)} of {len(todo)} on all"
    return Layers(worths, screen, _trust(spreads[:, ::2].mean(axis=1), spreads[:, 1::2].mean(axis=1)))


def _trust(screen: Any, measured: Any) -> float | None:
    both = [(s, m) for s, m in zip(screen, measured, strict=True) if m is not None]
    found = stats.rank_correlation([s for s, _ in both], [m for _, m in both])
    return None if found is None else round(found, 3)
