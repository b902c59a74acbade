"""Every single change of a plan that `weigh` prices: what the task offers for these data, then the rest of its knobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llm_moments.base.environment import usable_cores
from llm_moments.core import Knob, Pipeline
from llm_moments.core.change import Change, in_words
from llm_moments.core.pipeline import chosen, knobs_of
from llm_moments.engines.base import PLAIN, available, engine_class, follows, put_on
from llm_moments.engines.generator import GENERATORS, Decoding
from llm_moments.tasks.extents import PIXELS

__all__ = ["Change", "every_change", "others", "parts", "precisions", "skips"]

# How much of an input or an answer there is depends on the data: a task says which amounts are worth a try.
# A window bounds what is held in memory.
AMOUNTS = ("truncate.max_length", "context.max_tokens", "decode.max_new_tokens", "batch.window")


def every_change(pipe: Pipeline, values: Sequence[Any], layers: int = 0) -> tuple[list[Change], list[Change]]:
    """What is priced before the layers, and after them. values: some of the data; layers: how many the model has."""
    task, less = pipe.task, pipe.task.inputs(pipe.settled(), values)
    if task.strategy == "greedy":  # engines are among its own
        first, after = [*task.alternatives(pipe.plan), *less], []
    else:
        first, after = [*less, *precisions(pipe)], list(parts(pipe, layers))
    return list(_once(first)), list(_once([*after, *others(pipe, first)], first))


def acting(pipe: Pipeline, changes: Iterable[Change], amounts: Mapping[str, int]) -> list[Change]:
    """Without those that are no other choice for these data: limits (`Knob.bounds`) above all that there is."""
    knobs = knobs_of(pipe)
    now = chosen(pipe, knobs)

    def acts(name: str, value: Any) -> Any:
        most = amounts.get(knobs[name].bounds) if name in knobs else None
        return most if most is not None and (value == 0 or value >= most) else value

    found, seen = [], list[dict[str, Any]]()
    for one in changes:
        choices = {name: acts(name, value) for name, value in one.choices.items()}
        if choices not in seen and any(value != acts(name, now.get(name)) for name, value in choices.items()):
            seen.append(choices)
            found.append(one)
    return found


def _once(changes: Iterable[Change], known: Iterable[Change] = ()) -> Iterator[Change]:
    """Each once, and under a name of its own."""
    seen = [one.choices for one in known]
    names = {one.name for one in known}
    for change in changes:
        if change.choices not in seen and change.name not in names:
            seen.append(change.choices)
            names.add(change.name)
            yield change


def skips(layers: int) -> list[Change]:
    return [Change(f"skip layer {i}", {"forward.skip_layers": [i]}) for i in range(layers)]


# -- engines, and parts of the model in another precision


def precisions(pipe: Pipeline) -> Iterator[Change]:
    engine, precision = _engine(pipe)
    for other in [e for e in available() if e != "torch.compile"]:
        for kind in engine_class(other).precisions:
            if (other, kind) != (engine, precision) and kind not in ("fp16", "int8"):
                yield Change(f"{other} {kind}", put_on(other, kind))


def parts(pipe: Pipeline, layers: int) -> Iterator[Change]:
    """layers: how many the model has."""
    engine, precision = _engine(pipe)
    named = ["embeddings", *(f"layer {i}" for i in range(layers)), "head"] if layers else []
    if named and pipe.task.extent is PIXELS:  # a network for images need not have embeddings
        named = _blocks(pipe)
    if follows(engine_class(engine), "bf16_layers", precision):
        for name in named:
            yield Change(f"{name} in bf16", {"forward.bf16_layers": [name]})
    if follows(engine_class(engine), "keep_float", precision):
        kept = pipe.plan.settings("forward").get("keep_float", [])
        for name in [part for part in named if part not in kept]:
            yield Change(f"{name} kept in float", {"forward.keep_float": [*kept, name]})


def _engine(pipe: Pipeline, stage: str = "") -> tuple[str, str]:
    """stage: of a chain, with its dot."""
    now = chosen(pipe, knobs_of(pipe))
    return now[f"{stage}forward.engine"], now[f"{stage}forward.precision"]


def _blocks(pipe: Pipeline) -> list[str]:
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import blocks

    return [block.name for block in blocks(load_module(pipe.model))]


# -- the knobs that are left


def others(pipe: Pipeline, known: Sequence[Change]) -> Iterator[Change]:
    """Other values of every knob that says something beside this plan, and of which no change is known yet."""
    knobs = knobs_of(pipe)
    now, told = chosen(pipe, knobs), {name for one in known if len(one.choices) == 1 for name in one.choices}
    if extent := pipe.task.extent:
        told |= {extent.knob, *(name for choices in extent.others for name in choices)}
    for name, knob in knobs.items():
        if name in told or _apart(name)[1] in (*AMOUNTS, "forward.engine", "forward.precision"):
            continue
        if _says_something(pipe, name, knob, now):
            for value in _values(name, knob, now[name]):
                words = in_words(name, value, knob.default)
                yield Change(words, {name: value}, knob.lossless)


def _apart(name: str) -> tuple[str, str]:
    """The stage of a chain with its dot, '' without one, and the rest: `asr.forward.threads` is of asr."""
    section, _, knob = name.rpartition(".")
    stage, dot, step = section.rpartition(".")
    return f"{stage}{dot}", f"{step}.{knob}"


def _says_something(pipe: Pipeline, name: str, knob: Knob, now: Mapping[str, Any]) -> bool:
    """Whether the engine follows it, and no other choice of its step makes it idle."""
    stage, plain = _apart(name)
    step, _, bare = plain.partition(".")
    engine, precision = _engine(pipe, stage)
    if step == "forward" and bare in PLAIN and not follows(engine_class(engine), bare, precision):
        return False
    if step == "decode" and engine in GENERATORS and bare in Decoding.__dataclass_fields__:
        cls: Any = engine_class(engine)
        if bare not in cls.decodes:
            return False
    idle = {other if "." in other else f"{step}.{other}": value for other, value in knob.idle.items()}
    return all(now.get(f"{stage}{other}") != value for other, value in idle.items())


def _values(name: str, knob: Knob, now: Any) -> list[Any]:
    """Of amounts that change no answer only the next lower and the next higher one: they are many."""
    values = [value for value in knob.values if value != now and knob.valid(value)]
    if name.endswith("forward.threads"):
        values = [value for value in values if value < usable_cores()]
    if not knob.lossless or not all(isinstance(v, int) and not isinstance(v, bool) for v in [now, *values]):
        return values
    return [*sorted(v for v in values if v < now)[-1:], *sorted(v for v in values if v > now)[:1]]
