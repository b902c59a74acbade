"""What leaving out each layer does to one answer, and what other plans make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_moments.base.errors import EngineError, ModelError
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.base import available
from llm_moments.explain.explanation import LayerWorth, Other
from llm_moments.tasks.chat import dialogue_of
from llm_moments.weigh.changes import skips
from llm_moments.weigh.text_layers import seen_without

OTHERS = 12  # plans at most that are asked for another answer


def layers_left_out(stage: Pipeline, value: Any, answer: Outputs, notes: list[str]) -> Iterator[LayerWorth]:
    """Each layer left out, in torch: what another engine that answered says of the input is held against it first."""
    if not stage.task.layered or _linear(stage):
        return
    along = stage.task.tokens_along(stage, value, answer)
    yield from _along(stage, *along, notes) if along else _asked_anew(stage, value, answer, notes)


def _along(stage: Pipeline, ids: list[int], told: list[int], notes: list[str]) -> Iterator[LayerWorth]:
    """Along the answer's tokens, in fp32: what comes before the layer is not computed again."""
    from llm_moments.engines.sharing import shared

    forward = stage.settled().plan.settings("forward")
    used = (forward.get("engine"), forward.get("precision"))
    if used != (stage.task.reference_engine, "fp32"):
        notes.append(
            f"Layers were left out in {stage.task.reference_engine} fp32; {' '.join(map(str, used))} answered."
        )
    try:
        module = shared(stage.engines.model_for(forward), forward.get("skip_layers", ()))
        for at, seen in enumerate(seen_without(module, ids, told, dialogue_of(stage.model).decode)):
            yield LayerWorth(f"layer {at}", float(seen.nll.sum()), seen.start)
    except (EngineError, ModelError):
        return


def _asked_anew(stage: Pipeline, value: Any, answer: Outputs, notes: list[str]) -> Iterator[LayerWorth]:
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count

    if stage.task.streams:
        notes.append(
            "Layers are left out of models that classify or go on with a prompt, not of an encoder with a decoder."
        )
        return
    base = _in_torch(stage, "fp32")
    try:
        count = layer_count(load_module(stage.model))
        whole = float(stage.task.support(base, [value], answer)[0][0])
    except (EngineError, ModelError):
        return
    own = float(stage.task.support(stage, [value], answer)[0][0])
    if base.plan != stage.settled().plan:
        notes.append(
            f"Layers were left out in torch fp32, which speaks for the answer with {whole:.2f}, not {own:.2f} as the engine "
            "that answered."
        )
    for change in skips(count):
        less = base.with_(**change.choices)
        worth = whole - float(stage.task.support(less, [value], answer)[0][0])
        yield LayerWorth(change.name.removeprefix("skip "), worth, stage.task.told(less.outputs([value]))[0])


def _in_torch(stage: Pipeline, precision: str) -> Pipeline:
    """The plan that answered, in torch; the same one where it is so already."""
    alone = {"forward.streams": 1} if "streams" in stage.plan.settings("forward") else {}
    return stage.settled().with_(
        **{"forward.engine": stage.task.reference_engine, "forward.precision": precision, **alone}
    )


def _linear(stage: Pipeline) -> bool:
    """Whether what answers is a linear model: the pipeline's own, or one that its plan puts in front."""
    forward = stage.plan.settings("forward")
    return bool((stage.engines.model_for(forward) if forward.get("weights") else stage.model).is_linear)


def other_plans(stage: Pipeline, value: Any, answer: Outputs) -> Iterator[Other]:
    """Less of the input, and other precisions that need no graph to be built."""
    if _linear(stage):
        return  # it has no precisions, and reads all words
    task = stage.task
    whole = float(task.support(stage, [value], answer)[0][0])
    plans = [
        (f"{task.reference_engine} {kind}", _in_torch(stage, kind))
        for kind in ("fp32", "bf16")
        if "torch" in available()
    ]
    plans += [(change.name, stage.with_(**change.choices)) for change in task.inputs(stage, [value])]
    for name, other in plans[:OTHERS]:
        if other.plan == stage.settled().plan:
            continue
        try:
            found = task.support(other, [value], answer)
        except EngineError:
            continue
        told = task.told(answer)[0]
        if found.same is None or not found.same[0]:
            told = task.told(other.outputs([value]))[0]
        yield Other(name, told, told == task.told(answer)[0], whole - float(found.support[0]))
