"""Every single change of a plan that `weigh` prices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm_moments.core import Pipeline
from llm_moments.engines.base import available, engine_class, follows, put_on
from llm_moments.steps.truncate import LENGTHS


@dataclass(frozen=True)
class Change:
    name: str
    step: str
    choices: dict[str, Any]


def skips(layers: int) -> list[Change]:
    return [Change(f"skip layer {i}", "forward", {"forward.skip_layers": [i]}) for i in range(layers)]


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
    if follows(engine_class(engine), "bf16_layers", precision):
        for name in parts:
            yield Change(f"{name} in bf16", "forward", {"forward.bf16_layers": [name]})
    if follows(engine_class(engine), "keep_float", precision):
        kept = now.get("keep_float", [])
        for name in [part for part in parts if part not in kept]:
            yield Change(f"{name} kept in float", "forward", {"forward.keep_float": [*kept, name]})
