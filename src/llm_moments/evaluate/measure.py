"""What a plan costs: seconds an example, seconds a call, bytes on disk or in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.assembly.executors.local import peak_bytes
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.generator import Generator

OBJECTIVES = ("throughput", "latency", "memory", "size")
FEWEST = 5  # rounds: the sign test has a 95% limit from five pairs on
SHORTEST, LONGEST = 0.5, 4.0  # seconds of one plan's turn in interleaved timing
HELD = 200  # examples that a fresh process answers, whose memory is measured
CALLS = 48  # examples, one a call, for latency
GOLDEN = 0.618  # its multiples, less their whole parts, are spread evenly from the first few on
AS_FLOATS = 6  # bytes of memory for one of a file of weights, which may be packed
PATIENCE = 4.0  # seconds: a pass that takes longer than this is not repeated


@dataclass(frozen=True)
class Measured:
    outputs: Outputs
    cost: float  # lower is better: seconds an example (throughput) or a call (latency), or bytes
    seconds: float  # of one pass over all the values
    warm_seconds: float = 0.0  # of opening the engine and, the first time, building its graph


def measure(pipe: Pipeline, values: Sequence[Any], objective: str) -> Measured:
    """Outputs of all values, and the plan's cost: the best of some passes, none of which opens the engine.

    A pass longer than `PATIENCE` is not repeated.
    """
    start = time.perf_counter()
    for stage in pipe.stages:
        stage.outputs(values[: pipe.task.sizes.warm])
    warm = time.perf_counter() - start
    measured = _measured(pipe, values, objective)
    return replace(measured, warm_seconds=warm)


def _measured(pipe: Pipeline, values: Sequence[Any], objective: str) -> Measured:
    forget(pipe)
    start = time.perf_counter()
    outputs = pipe.outputs(values)
    seconds = time.perf_counter() - start
    if objective in ("memory", "size"):
        return Measured(outputs, footprint(pipe, values, objective), seconds)
    if objective == "latency":
        return Measured(outputs, float(np.median(call_seconds(pipe, values[:CALLS]))), seconds)
    repeats = 0 if seconds > PATIENCE else 1 if seconds > PATIENCE / 4 else 2
    best = min([seconds, *(run_seconds(pipe, values) for _ in range(repeats))])
    return Measured(outputs, best / len(values), best)


def forget(pipe: Pipeline) -> bool:
    """Whether an engine of the pipeline keeps what it read of earlier prompts; it has forgotten that now."""
    engines: list[Any] = [part.engines.get(part.engine_settings) for part in pipe.parts.values()]
    keeping = [engine for engine in engines if isinstance(engine, Generator) and engine.reuse]
    for engine in keeping:
        engine.forget()
    return bool(keeping)


def answered(pipe: Pipeline, values: Sequence[Any]) -> tuple[Outputs, float]:
    """The outputs, and seconds that they took."""
    start = time.perf_counter()
    outputs = pipe.outputs(values)
    return outputs, time.perf_counter() - start


def run_seconds(pipe: Pipeline, values: Sequence[Any]) -> float:
    """End to end, from raw input to answer."""
    forget(pipe)
    start = time.perf_counter()
    for _ in pipe.run(values):
        pass
    return time.perf_counter() - start


def call_seconds(pipe: Pipeline, values: Sequence[Any]) -> list[float]:
    """One example a call; each value is called twice and the second time counts, but for models that keep what
    they read of a prompt: those are called once."""
    times = []
    keeps = forget(pipe)
    for value in values:
        if not keeps:
            pipe(value)
        start = time.perf_counter()
        pipe(value)
        times.append(time.perf_counter() - start)
    return times


def footprint(pipe: Pipeline, values: Sequence[Any], objective: str) -> float:
    return float(size_bytes(pipe)) if objective == "size" else float(peak_bytes(pipe, values[:HELD]))


def size_bytes(pipe: Pipeline) -> int:
    """Bytes of the weights and graphs that the plan's stages need."""
    files: set[Path] = set()
    for part in pipe.parts.values():
        settings = part.engine_settings
        if (built := part.engines.built(settings)) is not None:
            files.update(p for p in built.rglob("*") if p.is_file())
        else:
            files.update(part.engines.model_for(settings).weight_files)
    return sum(p.stat().st_size for p in files)


def interleaved(
    plans: Mapping[str, Pipeline],
    values: Sequence[Any],
    objective: str,
    *,
    costs: Mapping[str, float],
    rounds: int = 7,
    seconds: float = 60.0,
    fewest: int = FEWEST,
    tick: Callable[[float], None] = lambda done: None,
) -> dict[str, list[float]]:
    """Costs of several plans in one run, in the order A B … then … B A, round after round.

    costs: seconds an example of each plan, roughly: a turn of a slow plan takes another block of rows
    each round, that of a fast one all values; what is returned is per example, so it compares. Ends
    after `rounds`, or when `seconds` are over and `fewest` rounds are done.
    """
    if objective in ("memory", "size"):
        return {name: [footprint(pipe, values, objective)] for name, pipe in plans.items()}
    found: dict[str, list[float]] = {name: [] for name in plans}
    with all_open(plans.values()):
        return _in_turn(found, plans, values, objective, costs, rounds, seconds, fewest, tick)


@contextmanager
def all_open(pipes: Iterable[Pipeline]) -> Iterator[None]:
    """Meanwhile the engines of all of them stay open: one that is closed for another is no part of a plan's time. Not
    where the machine has no memory for that."""
    parts = [part for pipe in pipes for part in pipe.parts.values()]
    pools = {id(part.engines): part.engines for part in parts}
    before = {key: pool.keep for key, pool in pools.items()}
    for pool in pools.values():
        settings = {str(sorted(part.engine_settings.items())) for part in parts if part.engines is pool}
        if len(settings) > pool.keep and _room(pool.model, len(settings)):
            pool.keep = len(settings)
    try:
        yield
    finally:
        for key, pool in pools.items():
            pool.keep = before[key]


def _room(model: Any, engines: int) -> bool:
    import psutil

    weights = sum(file.stat().st_size for file in model.weight_files)
    return bool(AS_FLOATS * weights * engines < psutil.virtual_memory().available)


def _in_turn(
    found: dict[str, list[float]], plans: Mapping[str, Pipeline], values: Sequence[Any], objective: str,
    costs: Mapping[str, float], rounds: int, seconds: float, fewest: int, tick: Callable[[float], None],
) -> dict[str, list[float]]:  # fmt: skip
    for pipe in plans.values():
        for stage in pipe.stages:
            stage.outputs(values[: pipe.task.sizes.warm])
    share = min(max(seconds / (rounds * len(plans)), SHORTEST), LONGEST)
    # A plan that answers many prompts together is timed with as many.
    least = {
        name: max(pipe.task.sizes.block, int(pipe.engine_settings.get("streams", 1))) for name, pipe in plans.items()
    }
    rows = {
        name: CALLS if objective == "latency" else rows_of(costs[name], share, len(values), least[name])
        for name in plans
    }
    turns = {name: blocks(values, rows[name], rounds, least[name]) for name in plans}
    begin = time.perf_counter()
    for turn in range(rounds):
        for name in list(plans)[:: 1 if turn % 2 == 0 else -1]:
            some = turns[name][turn]
            if objective == "latency":
                found[name].append(float(np.median(call_seconds(plans[name], some))))
            else:
                found[name].append(run_seconds(plans[name], some) / len(some))
        tick((turn + 1) / rounds)
        spent = time.perf_counter() - begin
        if turn + 1 >= fewest and spent * (turn + 2) / (turn + 1) > seconds:
            break
    return found


def rows_of(cost: float, seconds: float, most: int, block: int = 32) -> int:
    """Rows that take about so many seconds at `cost` seconds an example, in whole blocks, at least one."""
    return min(max(int(seconds / max(cost, 1e-9)) // block, 1) * block, most)


def blocks(values: Sequence[Any], size: int, count: int, block: int = 32) -> list[Sequence[Any]]:
    """Parts of `size` rows, each about as long as any other and as the whole: stretches of `block` rows
    in their order, drawn evenly from the shortest to the longest of them."""
    if size >= len(values):
        return [values] * count
    stretches = [values[at : at + block] for at in range(0, len(values) - block + 1, block)]
    ordered = sorted(stretches, key=lambda rows: max(len(str(row)) for row in rows))
    many = max(size // block, 1)
    every = len(ordered) / many
    turns = ([ordered[int((at + (turn * GOLDEN) % 1) * every)] for at in range(many)] for turn in range(1, count + 1))
    return [[row for stretch in turn for row in stretch] for turn in turns]
