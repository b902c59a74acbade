"""`weigh`: what would be lost if a step were cheaper, or gone? A list of Worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.evaluation import evaluation, gather
from llm_moments.model import load
from llm_moments.weigh.changes import lengths, precisions
from llm_moments.weigh.layers import weigh_layers
from llm_moments.weigh.price import priced
from llm_moments.weigh.worth import Worth, Worths

Tick = Callable[[float | None, str], None]

MOST = 1000  # examples that are used
CALIBRATION = 64  # examples, for a base in int8
LEVEL = 0.05
SORTED = {"batch.order": "length", "batch.size": 32}


def weigh(
    model: Any, data: Any, *, max_drop: float = 0.01, limit: int | None = None, exhaustive: bool = False,
    progress: Tick | None = None, seed: int = 0, device: str = "auto", **read: Any,
) -> Worths:  # fmt: skip
    """Prices every single change of the plan on the user's examples, one at a time.

    The baseline is the plan itself with rows sorted by length, which changes no answer. A drop below
    max_drop counts as none. A layer that is left out is replaced by the identity (its residual path).
    Of a deep model only the layers that a screen finds are left out on all examples, unless exhaustive;
    the others are judged by fewer examples, and their saving is not timed.
    """
    begin = time.monotonic()
    base = load(model, device=device).with_(**SORTED)
    tick = progress or (lambda done, message: None)
    examples, _ = gather(data, **read)
    part = evaluation(base, examples[: limit or MOST])
    base.engines.calibration = base.engines.calibration or base.arrays(part.values[:CALIBRATION])
    tick(0.0, "answers of the original")
    outputs = base.outputs(part.values)
    layers = weigh_layers(base, part, outputs, exhaustive=exhaustive, seed=seed, tick=tick)
    longest = max(int(a["attention_mask"].sum(1).max()) for a in base.arrays(part.values[:200]))
    todo = [*lengths(base, longest), *precisions(base, len(layers.worths))]
    worths = list(layers.worths)
    for at, change in enumerate(todo):
        tick((at + 1) / (len(todo) + 1), change.name)
        worths.append(priced(base, part, outputs, change))
    scores = part.scores(outputs, outputs)
    return Worths(
        _corrected(worths, max_drop), metric=part.metric, baseline_score=round(float(scores.mean()), 4), n=len(part),
        labelled=part.labelled, rank_correlation=layers.rank_correlation, screen=layers.screen,
        replaced_by="identity on the hidden state", seconds=round(time.monotonic() - begin, 1),
    )  # fmt: skip


def _corrected(worths: list[Worth], max_drop: float) -> list[Worth]:
    """Verdicts, with the p-values of all changes corrected for one another (Holm)."""
    measured = [w for w in worths if w.drop is not None]
    losses = dict(
        zip((w.name for w in measured), stats.holm([_sign(w.harmful, w.beneficial) for w in measured]), strict=True)
    )
    gains = dict(
        zip((w.name for w in measured), stats.holm([_sign(w.beneficial, w.harmful) for w in measured]), strict=True)
    )
    return [w if w.drop is None else _judged(w, losses[w.name], gains[w.name], max_drop) for w in worths]


def _sign(worse: int | None, better: int | None) -> float:
    """Exact sign test (McNemar): p-value of `worse` being no more frequent than `better`."""
    from scipy.stats import binomtest

    total = (worse or 0) + (better or 0)
    return float(binomtest(worse or 0, total, 0.5, alternative="greater").pvalue) if total else 1.0


def _judged(worth: Worth, loses: float, gains: float, max_drop: float) -> Worth:
    from dataclasses import replace

    drop, high = worth.drop or 0.0, worth.drop_high or 0.0
    if gains < LEVEL:
        return replace(worth, verdict="harmful", p=gains)
    if high < max_drop:
        return replace(worth, verdict="free" if loses >= LEVEL else "cheap", p=loses)
    if loses < LEVEL:
        return replace(worth, verdict="needed" if drop >= max_drop else "cheap", p=loses)
    n = max(worth.n, 1)
    needs = stats.needed_examples(max_drop, (worth.harmful or 0) / n, (worth.beneficial or 0) / n)
    return replace(worth, verdict="unclear", p=loses, needs=max(needs or 0, 2 * n) if needs else _to_show(worth))


def _to_show(worth: Worth) -> int | None:
    """Examples at which a drop of this size would be certain, when it is more than the budget."""
    n = max(worth.n, 1)
    rate = ((worth.harmful or 0) + (worth.beneficial or 0)) / n
    return int(np.ceil(rate * (2.5 / max(worth.drop or 0.0, 1e-6)) ** 2)) + 1 if worth.drop else None
