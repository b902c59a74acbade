"""Two plans beside one another on one input, and the first step at which they part: step by step up to the engine, then
layer by layer where two networks can be looked into, and token by token where answers are texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError, ModelError, PlanError
from llm_moments.core import NULL, Batch, Outputs, Pipeline, Plan
from llm_moments.engines.sharing import shared
from llm_moments.explain.explanation import Against
from llm_moments.models.blocks import blocks

APART = 1e-3  # of a layer's output: what rounding alone does not bring


def against(stage: Pipeline, value: Any, answer: Outputs, other: Pipeline, name: str) -> Against:
    """stage: what gave the answer to the value. other: what is held beside it, of a task that takes the same inputs."""
    if other.task.name != stage.task.name:
        raise InputError(f"{name} is of the task {other.task.name}, not {stage.task.name}: there is nothing to compare")
    made = other.task.explained(other, value)
    told, mine = other.task.told(made), stage.task.told(answer)
    same = told[0] == mine[0]
    where, said = next(_partings(stage, other, value, answer, made), ("", "They do not part before the answer."))
    return Against(name, told[0], told[1], same, where, said, other.plan.to_dict())


def opened_beside(pipe: Pipeline, ref: Any, device: str) -> tuple[Pipeline, str]:
    """The other pipeline, and what it is called. ref: a Plan or choices by name, on this model; the name of a plan's file; a
    pipeline, model or artefact."""
    if isinstance(ref, Pipeline):
        return ref, ref.model.name
    if isinstance(ref, Plan):
        return pipe.with_(ref), "the other plan"
    if isinstance(ref, Mapping):
        return pipe.with_(**ref), ", ".join(f"{name}={value}" for name, value in ref.items())
    file = Path(ref)
    if file.suffix == ".toml" and file.is_file():
        try:
            return pipe.with_(Plan.from_toml(file.read_text(encoding="utf-8-sig"))), str(ref)
        except (PlanError, UnicodeDecodeError) as error:
            raise PlanError(f"{ref}: {error}") from error
    return load(ref, task=pipe.task.name, device=device), str(ref)


def _partings(one: Pipeline, other: Pipeline, value: Any, answer: Outputs, made: Outputs) -> Iterator[tuple[str, str]]:
    """(where, what): the first is the earliest."""
    yield from _steps(one, other, value)
    yield from _layers(one, other, value)
    yield from _tokens(one, other, value, answer, made)
    mine, theirs = (pipe.engine_settings for pipe in (one, other))
    apart = [
        f"{key} {mine.get(key)} and {theirs.get(key)}"
        for key in sorted({*mine, *theirs})
        if mine.get(key) != theirs.get(key)
    ]
    if apart:
        yield (
            "forward",
            f"All that comes before the engine is the same; the engines compute otherwise: {'; '.join(apart)}.",
        )


def _steps(one: Pipeline, other: Pipeline, value: Any) -> Iterator[tuple[str, str]]:
    """The first step before the engine whose fields are other ones in the two."""
    theirs = {step: fields for step, fields in _walked(other, value)}
    for step, fields in _walked(one, value):
        for field, written in fields.items():
            if step in theirs and field in theirs[step] and (said := _unlike(written, theirs[step][field])):
                yield step, f"They part at the step {step}: {field} {said}."
                return


def _walked(pipe: Pipeline, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each step before the engine, and what it writes of this input."""
    batch = Batch(1, {"input": [pipe.task.normalise(value)]})
    for step in pipe.steps:
        if "outputs" in step.writes:
            return
        batch = step(batch, NULL)
        yield step.name, {field: batch[field] for field in step.writes if field in batch.fields}


def _unlike(mine: Any, theirs: Any) -> str:
    """How two fields of one row differ; '' where they do not, or are nothing that can be compared."""
    mine, theirs = _first(mine), _first(theirs)
    if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        if mine.shape != theirs.shape:
            return f"has the shape {mine.shape} here and {theirs.shape} there"
        if mine.dtype.kind in "biuf" and not np.allclose(mine, theirs, atol=1e-6):
            return f"differs by up to {np.abs(mine.astype(np.float64) - theirs).max():.3g}"
        return ""
    if _numbers(mine) and _numbers(theirs):
        if len(mine) != len(theirs):
            return f"has {len(mine):,} tokens here and {len(theirs):,} there"
        at = next((n for n, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), None)
        return "" if at is None else f"differs from token {at} on"
    if isinstance(mine, str) and isinstance(theirs, str):
        return "" if mine == theirs else f"has {len(mine):,} characters here and {len(theirs):,} there"
    return ""


def _first(field: Any) -> Any:
    return field[0] if isinstance(field, list | tuple) and len(field) == 1 else field


def _numbers(field: Any) -> bool:
    return isinstance(field, list | tuple) and all(isinstance(one, int | np.integer) for one in field)


def _layers(one: Pipeline, other: Pipeline, value: Any) -> Iterator[tuple[str, str]]:
    """The first layer whose output is another one, in fp32 and torch, where the plans have other layers or weights."""
    forwards = [pipe.settled().plan.settings("forward") for pipe in (one, other)]
    if (
        not one.task.layered
        or all(forwards[0].get(key) == forwards[1].get(key) for key in ("weights", "skip_layers"))
        and one.model.digest == other.model.digest
    ):
        return
    try:
        mine, theirs = (_seen(pipe, how, value) for pipe, how in zip((one, other), forwards, strict=True))
    except (EngineError, ModelError):
        return
    for at, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a.shape != b.shape:
            yield f"layer {at}", f"They part at layer {at}: it has other sizes in the two."
            return
        apart = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-9))
        if apart > APART:
            yield (
                f"layer {at}",
                f"They part at layer {at}, whose output differs by {apart:.1%} of its size (torch, fp32).",
            )
            return
    if len(mine) != len(theirs):
        at = min(len(mine), len(theirs))
        yield f"layer {at}", f"They part after layer {at - 1}: one has {len(mine)} layers, the other {len(theirs)}."


def _seen(pipe: Pipeline, forward: Mapping[str, Any], value: Any) -> list[np.ndarray]:
    """float32 [tokens, hidden]: what comes out of each layer of this input, in the order of the forward pass."""
    import torch

    from llm_moments.engines.generating import without_layers
    from llm_moments.engines.torch_eager import load_module

    model = pipe.engines.model_for(forward)
    if pipe.task.prompted:
        module = shared(model, forward.get("skip_layers", ()))
    else:
        module = without_layers(load_module(model), forward.get("skip_layers", ()))
    found: list[np.ndarray] = []

    def note(layer: Any, given: Any, out: Any) -> None:
        hidden = out[0] if isinstance(out, tuple) else out
        found.append(hidden.detach().float().reshape(-1, hidden.shape[-1]).numpy())

    layers = {id(block.module): block.module for block in blocks(module) if block.name.startswith("layer")}
    hooks = [layer.register_forward_hook(note) for layer in layers.values()]
    try:
        with torch.inference_mode():
            module(**{name: torch.from_numpy(np.asarray(array)) for name, array in _inputs(pipe, value).items()})
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _inputs(pipe: Pipeline, value: Any) -> Mapping[str, Any]:
    if not pipe.task.prompted:
        return pipe.arrays([value])[0]
    ids = next(fields["ids"][0] for _, fields in reversed(list(_walked(pipe, value))) if "ids" in fields)
    return {"input_ids": np.asarray([ids], np.int64)}


def _tokens(one: Pipeline, other: Pipeline, value: Any, answer: Outputs, made: Outputs) -> Iterator[tuple[str, str]]:
    """The first token of the answers that is another one."""
    mine, theirs = (_texts(pipe, value, outputs) for pipe, outputs in ((one, answer), (other, made)))
    if not mine or not theirs:
        return
    for at in range(max(len(mine), len(theirs))):
        a, b = (tokens[at] if at < len(tokens) else "(the end)" for tokens in (mine, theirs))
        if a != b:
            yield f"token {at}", f"The answers part at token {at}: {a!r} here, {b!r} there."
            return


def _texts(pipe: Pipeline, value: Any, outputs: Outputs) -> Sequence[str]:
    judge, _ = pipe.task.judging(pipe)
    return [token.text for token in pipe.task.answer_tokens(judge, value, outputs)]
