"""What a plan costs: seconds an example, seconds a call, bytes on disk or in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.core import Pipeline
from llm_moments.errors import EngineError

OBJECTIVES = ("throughput", "latency", "memory", "size")
BLOCK = 64  # rows of the stock plan that are timed at a time
CALLS = 48  # examples, one a call, for latency
PATIENCE = 4.0  # seconds: a pass that takes longer than this is not repeated


@dataclass(frozen=True)
class Measured:
    outputs: np.ndarray
    cost: float  # lower is better: seconds an example (throughput) or a call (latency), or bytes
    seconds: float  # of one pass over all the values


def measure(pipe: Pipeline, values: Sequence[Any], objective: str) -> Measured:
    """Outputs of all values, and the plan's cost. The first pass warms up; the best of the next counts."""
    start = time.perf_counter()
    outputs = pipe.outputs(values)
    seconds = time.perf_counter() - start
    if objective in ("memory", "size"):
        return Measured(outputs, footprint(pipe, values, objective), seconds)
    if objective == "latency":
        return Measured(outputs, float(np.median(call_seconds(pipe, values[:CALLS]))), seconds)
    passes = [seconds] if seconds > PATIENCE else [run_seconds(pipe, values) for _ in range(2)]
    return Measured(outputs, min(passes) / len(values), min(passes))


def run_seconds(pipe: Pipeline, values: Sequence[Any]) -> float:
    """End to end, from raw input to answer."""
    start = time.perf_counter()
    for _ in pipe.run(values):
        pass
    return time.perf_counter() - start


def call_seconds(pipe: Pipeline, values: Sequence[Any]) -> list[float]:
    """One example a call; each value is called twice and the second time counts."""
    times = []
    for value in values:
        pipe(value)
        start = time.perf_counter()
        pipe(value)
        times.append(time.perf_counter() - start)
    return times


def footprint(pipe: Pipeline, values: Sequence[Any], objective: str) -> float:
    return float(size_bytes(pipe)) if objective == "size" else float(peak_bytes(pipe, values))


def size_bytes(pipe: Pipeline) -> int:
    """Bytes of the weights and graphs that the plan's stages need."""
    from llm_moments.engines.base import engine_class

    files: set[Path] = set()
    for stage in [s for s in (pipe.dear, pipe.cheap) if s is not None]:
        settings = stage.plan.settings("forward")
        if engine_class(settings.get("engine", "torch")).builds:
            files.update(p for p in pipe.engines.store(settings).rglob("*") if p.is_file())
        else:
            files.update(pipe.model.path.glob("*.safetensors"))
    return sum(p.stat().st_size for p in files)


_CHILD = """
import json, resource, sys
import llm_moments as lm
from llm_moments.core import Plan
job = json.load(sys.stdin)
pipe = lm.load(job["model"], plan=Plan(job["plan"]))
for _ in pipe.run(job["values"]): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def peak_bytes(pipe: Pipeline, values: Sequence[Any]) -> int:
    """Peak resident memory of a fresh process that answers some of the values."""
    job = {"model": str(pipe.model.path), "plan": pipe.plan.to_dict(), "values": list(values[:200])}
    done = subprocess.run([sys.executable, "-c", _CHILD], input=json.dumps(job), capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"a fresh process could not run the plan: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.split()[-1])


def interleaved(
    plans: Mapping[str, Pipeline],
    values: Sequence[Any],
    objective: str,
    *,
    rounds: int = 7,
    seconds: float = 60.0,
    slow: Sequence[str] = (),
    tick: Callable[[float], None] = lambda done: None,
) -> dict[str, list[float]]:
    """Costs of several plans in one run, in the order A B … then … B A, round after round.

    Plans named in `slow` are timed on a different block of `BLOCK` rows each round, the others on all
    values; costs are per example, so they compare. Stops after `rounds`, or when `seconds` are over
    and at least three rounds are done.
    """
    if objective in ("memory", "size"):
        return {name: [footprint(pipe, values, objective)] for name, pipe in plans.items()}
    costs: dict[str, list[float]] = {name: [] for name in plans}
    for name, pipe in plans.items():
        run_seconds(pipe, values[:BLOCK] if name in slow else values)  # warm
    begin = time.perf_counter()
    for turn in range(rounds):
        names = list(plans) if turn % 2 == 0 else list(plans)[::-1]
        for name in names:
            some = _block(values, turn) if name in slow or objective == "latency" else values
            if objective == "latency":
                costs[name].append(float(np.median(call_seconds(plans[name], some[:CALLS]))))
            else:
                costs[name].append(run_seconds(plans[name], some) / len(some))
        tick((turn + 1) / rounds)
        if turn >= 2 and time.perf_counter() - begin > seconds:
            break
    return costs


def _block(values: Sequence[Any], turn: int) -> Sequence[Any]:
    start = turn * BLOCK % max(len(values) - BLOCK + 1, 1)
    return values[start : start + BLOCK]
