"""`weigh`: what would be lost if a step were cheaper, or gone? A list of Worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llm_moments.budget import seconds
from llm_moments.core import Pipeline
from llm_moments.errors import InputError
from llm_moments.evaluation import Evaluation, evaluation, gather
from llm_moments.measure import run_seconds
from llm_moments.model import load
from llm_moments.weigh.changes import Change, inputs, precisions, step_of
from llm_moments.weigh.layers import Layers, weigh_layers
from llm_moments.weigh.price import ROUNDS, priced
from llm_moments.weigh.text_layers import ANEW, weigh_text_layers
from llm_moments.weigh.verdict import with_verdicts
from llm_moments.weigh.worth import Worth, Worths

Tick = Callable[[float | None, str], None]

MOST = 1000  # examples that are used
CALIBRATION = 64  # examples, for a base in int8


def weigh(
    model: Any, data: Any, *, max_drop: float = 0.01, limit: int | None = None, exhaustive: bool = False,
    progress: Tick | None = None, seed: int = 0, device: str = "auto", budget: float | str | None = None, **read: Any,
) -> Worths:  # fmt: skip
    """Prices every single change of the plan on the user's examples, one at a time.

    The baseline is the plan itself with rows sorted by length, which changes no answer. A drop below
    max_drop counts as none. A layer that is left out is replaced by the identity (its residual path).
    Of a deep model only the layers that a screen finds are left out on all examples, unless exhaustive;
    the others are judged by fewer examples, and their saving is not timed. budget: of models that make texts, which
    take seconds for an answer: as many examples are used as fit into that time.
    """
    begin, allowed = time.monotonic(), None if budget is None else seconds(budget)
    base = load(model, device=device)
    base = base.with_(**base.task.sorts)
    tick = progress or (lambda done, message: None)
    examples, _ = gather(data, judge=base, **read)
    part = evaluation(base, examples[: limit or MOST])
    makes_texts = hasattr(base.task, "priced_changes")
    todo: list[Change] = []
    if makes_texts:
        todo = [Change(name, step_of(c), c) for name, c, _ in base.task.priced_changes(base.model, base.plan)]
    elif allowed is not None:
        raise InputError(
            f"a budget is for models that make texts; for {base.task.name} say how many examples (--limit)"
        )
    else:
        base.engines.calibration = base.engines.calibration or base.arrays(part.values[:CALIBRATION])
    if allowed is not None:
        part = part.take(range(affordable(base, part, len(todo) + ANEW, allowed, begin)))

    def late() -> str:
        over = allowed is not None and time.monotonic() - begin > allowed
        return f"not measured: the budget of {allowed:,.0f}s was used up" if over else ""

    tick(0.0, f"answers of the original to {len(part):,} examples")
    outputs = base.outputs(part.values)
    layers = Layers([])
    if not makes_texts:
        layers = weigh_layers(base, part, outputs, exhaustive=exhaustive, seed=seed, tick=tick)
        todo = [*inputs(base, part.values[:200]), *precisions(base, len(layers.worths))]
    changed = []
    for at, change in enumerate(todo):
        tick((at + 1) / (len(todo) + 1), change.name)
        if why := late():
            changed.append(Worth(change.name, change.step, change.choices, "unavailable", reason=why))
        else:
            changed.append(priced(base, part, outputs, change))
    if makes_texts:
        why = late()
        layers = (
            Layers([], f"none: {why}") if why
            else weigh_text_layers(base, part, outputs, exhaustive=exhaustive, seed=seed, tick=tick)
        )  # fmt: skip
    worths = [*layers.worths, *changed]
    scores = part.scores(outputs, outputs)
    return Worths(
        with_verdicts(worths, max_drop), metric=part.metric, baseline_score=round(part.mean(scores), 4), n=len(part),
        independent=part.independent, counted=part.told if part.independent < len(part) else "",
        labelled=part.labelled, rank_correlation=layers.rank_correlation, screen=layers.screen,
        replaced_by="identity on the hidden state" if layers.worths else "", seconds=round(time.monotonic() - begin, 1),
    )  # fmt: skip


def affordable(base: Pipeline, part: Evaluation, changes: int, allowed: float, begin: float) -> int:
    """How many examples fit into the time, if a change takes as long as the original does: it answers all of them and
    is timed on some, in turn with the original. At least a few."""
    block = base.task.pace.block
    base.outputs(part.values[: base.task.pace.warm])
    cost = run_seconds(base, part.values[:block]) / min(block, len(part))
    left = 0.9 * (allowed - (time.monotonic() - begin)) - changes * 2 * (ROUNDS + 1) * block * cost
    return min(max(int(left / (cost * (changes + 1))), 2 * block), len(part))
