"""`weigh`: what would be lost if a step were cheaper, or gone? A list of Worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.core import Pipeline
from llm_moments.errors import EngineError, ModelError
from llm_moments.evaluation import Evaluation, evaluation, gather
from llm_moments.improve.measure import BLOCK, run_seconds
from llm_moments.model import load
from llm_moments.weigh.changes import Change, changes
from llm_moments.weigh.screen import chosen_for_ablation, skip_scores
from llm_moments.weigh.worth import Worth, Worths

Tick = Callable[[float | None, str], None]

MOST = 1000  # examples that are used
ROUNDS = 3  # pairs of times for each change
LEVEL = 0.05
SORTED = {"batch.order": "length", "batch.size": 32}


def weigh(
    model: Any, data: Any, *, max_drop: float = 0.01, limit: int | None = None, progress: Tick | None = None,
    seed: int = 0, device: str = "auto", **read: Any,
) -> Worths:  # fmt: skip
    """Prices every single change of the plan on the user's examples, one at a time.

    The baseline is the plan itself with rows sorted by length, which changes no answer. A drop below
    max_drop counts as none. A layer that is left out is replaced by the identity (its residual path).
    """
    begin = time.monotonic()
    base = load(model, device=device).with_(**SORTED)
    tick = progress or (lambda done, message: None)
    examples, _ = gather(data, **read)
    part = evaluation(base, examples[: limit or MOST])
    tick(0.0, "answers of the original")
    outputs = base.outputs(part.values)
    screened, todo = _planned(base, part, seed, tick)
    worths = []
    for at, change in enumerate(todo):
        tick((at + 1) / (len(todo) + 1), change.name)
        worths.append(_priced(base, part, outputs, change, screened))
    worths = _corrected(worths, max_drop)
    scores = part.scores(outputs, outputs)
    return Worths(
        worths, metric=part.metric, baseline_score=round(float(scores.mean()), 4), n=len(part), labelled=part.labelled,
        rank_correlation=_trust(worths), screen="first-order Taylor of leaving a layer out, absolute value by token",
        replaced_by="identity on the hidden state", seconds=round(time.monotonic() - begin, 1),
    )  # fmt: skip


def _planned(base: Pipeline, part: Evaluation, seed: int, tick: Tick) -> tuple[dict[int, float], list[Change]]:
    """Screened layers, and the changes that are measured: of the layers only those worth a look."""
    tick(None, "screening layers by gradient")
    try:
        scores = skip_scores(base, part.values)
    except (EngineError, ModelError):
        scores = np.empty(0)  # no run of layers was found: the other changes are weighed all the same
    lengths = [int(a["attention_mask"].sum(1).max()) for a in base.arrays(part.values[:200])]
    chosen = set(chosen_for_ablation(scores, seed=seed)) if len(scores) else set()
    todo = [c for c in changes(base, max(lengths), len(scores)) if c.layer is None or c.layer in chosen]
    return dict(enumerate(scores.tolist())), todo


def _priced(base: Pipeline, part: Evaluation, outputs: np.ndarray, change: Change, screened: dict[int, float]) -> Worth:
    screen = screened.get(change.layer) if change.layer is not None else None
    try:
        changed = base.with_(**change.choices)
        after = changed.outputs(part.values)
        speed = _times(base, changed, part.values)
    except (EngineError, ModelError) as error:
        return Worth(change.name, change.step, change.choices, "unavailable", reason=str(error), screened=screen)
    before, now = part.scores(outputs, outputs), part.scores(after, outputs)
    bound = stats.drop_bound(before, now)
    harmful, beneficial = stats.flips(before, now)
    task, model = base.task, base.model
    spread = stats.divergence(*(task.probabilities(o, model) for o in (outputs, after)))
    return Worth(
        change.name, change.step, change.choices, "unclear", saving=1 - 1 / speed.estimate, saving_low=1 - 1 / speed.low,
        saving_high=1 - 1 / speed.high, drop=bound.estimate, drop_low=bound.low, drop_high=bound.high, harmful=harmful,
        beneficial=beneficial, divergence=float(spread.mean()), n=len(part), screened=screen,
    )  # fmt: skip


def _times(base: Pipeline, changed: Pipeline, values: Any) -> stats.Bound:
    """Speed-up on blocks of rows, original and changed in turn (A B, B A, …)."""
    pairs: tuple[list[float], list[float]] = ([], [])
    for pipe in (base, changed):
        run_seconds(pipe, values[:BLOCK])
    for turn in range(ROUNDS):
        start = turn * BLOCK % max(len(values) - BLOCK + 1, 1)
        for pipe, times in list(zip((base, changed), pairs, strict=True))[:: 1 if turn % 2 == 0 else -1]:
            times.append(run_seconds(pipe, values[start : start + BLOCK]))
    return stats.ratio_interval(*pairs)


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


def _trust(worths: list[Worth]) -> float | None:
    """How the screen ranks the layers that were really left out, against the divergence that it caused."""
    both = [w for w in worths if w.screened is not None and w.divergence is not None]
    found = stats.rank_correlation([w.screened for w in both], [w.divergence for w in both])
    return None if found is None else round(found, 3)
