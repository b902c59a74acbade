"""`weigh`: what would be lost if a step were cheaper, or gone? A list of Worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llm_moments.evaluation import evaluation, gather
from llm_moments.model import load
from llm_moments.weigh.changes import Change, inputs, precisions, step_of
from llm_moments.weigh.layers import Layers, weigh_layers
from llm_moments.weigh.price import priced
from llm_moments.weigh.verdict import with_verdicts
from llm_moments.weigh.worth import Worths

Tick = Callable[[float | None, str], None]

MOST = 1000  # examples that are used
CALIBRATION = 64  # examples, for a base in int8


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
    base = load(model, device=device)
    base = base.with_(**base.task.sorts)
    tick = progress or (lambda done, message: None)
    examples, _ = gather(data, judge=base, **read)
    part = evaluation(base, examples[: limit or MOST])
    makes_texts = hasattr(base.task, "priced_changes")
    if not makes_texts:
        base.engines.calibration = base.engines.calibration or base.arrays(part.values[:CALIBRATION])
    tick(0.0, "answers of the original")
    outputs = base.outputs(part.values)
    if makes_texts:
        layers = Layers([], "none: layers are weighed where a model classifies")
        todo = [Change(name, step_of(c), c) for name, c, _ in base.task.priced_changes(base.model, base.plan)]
    else:
        layers = weigh_layers(base, part, outputs, exhaustive=exhaustive, seed=seed, tick=tick)
        todo = [*inputs(base, part.values[:200]), *precisions(base, len(layers.worths))]
    worths = list(layers.worths)
    for at, change in enumerate(todo):
        tick((at + 1) / (len(todo) + 1), change.name)
        worths.append(priced(base, part, outputs, change))
    scores = part.scores(outputs, outputs)
    return Worths(
        with_verdicts(worths, max_drop), metric=part.metric, baseline_score=round(float(scores.mean()), 4), n=len(part),
        labelled=part.labelled, rank_correlation=layers.rank_correlation, screen=layers.screen,
        replaced_by="" if makes_texts else "identity on the hidden state", seconds=round(time.monotonic() - begin, 1),
    )  # fmt: skip
