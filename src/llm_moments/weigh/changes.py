"""Every single change of a plan that `weigh` prices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llm_moments.core import Pipeline
from llm_moments.engines.base import available, engine_class, follows, put_on
from llm_moments.steps.truncate import LENGTHS
from llm_moments.tasks.extents import PIXELS, WORDS


@dataclass(frozen=True)
class Change:
    name: str
    step: str
    choices: dict[str, Any]


def skips(layers: int) -> list[Change]:
    return [Change(f"skip layer {i}", "forward", {"forward.skip_layers": [i]}) for i in range(layers)]


def inputs(pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
    """Less of each input: shorter texts, smaller images. values: some of the data."""
    pipe = pipe.settled()
    if pipe.task.extent is PIXELS:
        yield from _images(pipe, values)
        return
    if pipe.task.extent is WORDS:
        yield from _words(pipe, values)
        return
    if "truncate" in pipe.plan:
        yield from lengths(pipe, max(int(a["attention_mask"].sum(1).max()) for a in pipe.arrays(values)))


def _words(pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
    now = WORDS.of(pipe.plan)
    for count in pipe.task.rungs(pipe, values):
        if count and (not now or count < now):
            yield Change(f"the first {count} words", "vectorize", {WORDS.knob: count})
    for choices in pipe.task.others(pipe, pipe.plan, values):
        yield Change("single words only", "vectorize", dict(choices))


def _images(pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
    now = PIXELS.of(pipe.plan)
    for size in pipe.task.rungs(pipe, values):
        if size != now:
            yield Change(f"images of {size} pixels", "resize", {PIXELS.knob: size})
    for choices in pipe.task.others(pipe, pipe.plan, values):
        ((name, value),) = choices.items()
        step, _, knob = name.partition(".")
        yield Change(f"{knob} {value}", step, dict(choices))
    crop = pipe.plan.settings("resize")
    for share in [n for n in (1.0, 0.95, 0.9, 0.8) if crop.get("fit") == "crop" and n != crop.get("crop")]:
        yield Change(f"crop {share}", "resize", {"resize.crop": share})


def _parts(pipe: Pipeline) -> list[str]:
    from llm_moments.engines.layers import blocks
    from llm_moments.engines.torch_eager import load_module

    return [block.name for block in blocks(load_module(pipe.model))]


def lengths(pipe: Pipeline, longest: int) -> Iterator[Change]:
    """longest: tokens of the longest row of the data."""
    now = pipe.plan["truncate"]["max_length"]
    rungs = [n for n in LENGTHS if 16 <= n < min(now, longest)]
    for length in rungs:
        yield Change(f"cut at {length} tokens", "truncate", {"truncate.max_length": length})
    if rungs:
        middle = rungs[len(rungs) // 2]
        for side in ("tail", "head+tail"):
            choices = {"truncate.max_length": middle, "truncate.side": side}
            yield Change(f"cut at {middle} tokens, {side}", "truncate", choices)


def precisions(pipe: Pipeline, layers: int) -> Iterator[Change]:
    """layers: how many the model has."""
    now = pipe.plan.settings("forward")
    engine, precision = now.get("engine", "torch"), now.get("precision", "fp32")
    for other in [e for e in available() if e != "torch.compile"]:
        for kind in engine_class(other).precisions:
            if (other, kind) != (engine, precision) and kind not in ("fp16", "int8"):
                name = f"{other} {kind}"
                yield Change(name, "forward", put_on(other, kind))
    parts = ["embeddings", *(f"layer {i}" for i in range(layers)), "head"] if layers else []
    if parts and pipe.task.extent is PIXELS:  # a network for images need not have embeddings
        parts = _parts(pipe)
    if follows(engine_class(engine), "bf16_layers", precision):
        for name in parts:
            yield Change(f"{name} in bf16", "forward", {"forward.bf16_layers": [name]})
    if follows(engine_class(engine), "keep_float", precision):
        kept = now.get("keep_float", [])
        for name in [part for part in parts if part not in kept]:
            yield Change(f"{name} kept in float", "forward", {"forward.keep_float": [*kept, name]})


def step_of(choices: dict[str, Any]) -> str:
    """The step that a change is of: the first one's, where it touches several."""
    return next(iter(choices)).partition(".")[0]
