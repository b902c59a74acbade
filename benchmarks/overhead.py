"""Goal 3: what recording costs, beside torch.profiler and torchlens on the same forward pass.

    python benchmarks/overhead.py [--model .demo/model] [--rows 4] [--tokens 96] [--threads 1] [--seconds 240]

One batch through the torch module, layers of 10 ms and more: plain, plain once more, with the recorder and
its probes by layer and by part, with torch.profiler, with torchlens. All ways take turns in every round, in
an order drawn anew, so that nothing but the recording sets them apart; the ratio to the plain pass of the
same round is what counts, and its median over the rounds. One thread: then the CPU time of the thread is
the time of the pass without what other processes took, and is given beside the wall time. `counted` is
found another way: calls of hooks and steps, times what one takes, by the time of a pass.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import results
import torch

import llm_moments as lm
from llm_moments.models.blocks import blocks, layer_list
from llm_moments.record.overhead import median_interval, probe_seconds, step_seconds
from llm_moments.record.probes import Probe, _parts
from llm_moments.record.recorder import Recorder

ROUNDS, FEWEST = 400, 30
SLOW = 8  # pairs of a peer that takes seconds
PLAIN, AGAIN = "plain", "plain, once more"
Times = tuple[float, float]  # seconds by the wall and of this thread's CPU


class Way:
    """A forward pass with something done about it. start and stop are not timed; run is."""

    visits = steps = 0

    def __init__(self, module: Any, inputs: dict[str, Any]):
        self.module, self.inputs = module, inputs

    def start(self) -> None: ...

    def run(self) -> None:
        with torch.inference_mode():
            self.module(**self.inputs)

    def stop(self) -> None: ...


class Steps(Way):
    steps = 1

    def start(self) -> None:
        self.recorder = Recorder()

    def run(self) -> None:
        with self.recorder.step("forward", items=len(self.inputs["input_ids"])):
            super().run()


class Probed(Steps):
    """Probes are made once, as `record` does; their hooks are there only while this way runs."""

    def __init__(self, module: Any, inputs: dict[str, Any], depth: int):
        super().__init__(module, inputs)
        self.recorder = Recorder()
        parts = list(_parts(blocks(module), depth))
        self.probes = [Probe(names, part, lambda: self.recorder.depth(), time.perf_counter_ns) for names, part in parts]
        self.visits = len(self.probes)

    def start(self) -> None:
        super().start()
        self.handles = [p.module.register_forward_pre_hook(p.before) for p in self.probes]
        self.handles += [p.module.register_forward_hook(p.after) for p in self.probes]

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()


class Profiled(Way):
    def run(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]):
            super().run()


class Lens(Way):
    def run(self) -> None:
        import torchlens

        with torch.no_grad():
            torchlens.trace(self.module, (), self.inputs)


def timed(way: Way, warm: Callable[[], None]) -> Times:
    """warm: a pass over a few tokens right before, for all alike."""
    way.start()
    warm()
    wall, cpu = time.perf_counter(), time.thread_time()
    way.run()
    spent = time.perf_counter() - wall, time.thread_time() - cpu
    way.stop()
    return spent


def in_turn(ways: dict[str, Way], warm: Callable[[], None], seconds: float) -> dict[str, list[Times]]:
    """Times of every way, one in each round, the order drawn anew."""
    times: dict[str, list[Times]] = {name: [] for name in ways}
    end, rng = time.perf_counter() + seconds, random.Random(0)
    gc.collect()
    gc.disable()  # a collection would fall into some pass or other
    try:
        while len(times[PLAIN]) < FEWEST or (time.perf_counter() < end and len(times[PLAIN]) < ROUNDS):
            for name in rng.sample(list(ways), len(ways)):
                times[name].append(timed(ways[name], warm))
    finally:
        gc.enable()
    return times


def beside(plain: Way, slow: Way, warm: Callable[[], None]) -> tuple[list[Times], list[Times]]:
    found: tuple[list[Times], list[Times]] = ([], [])
    for turn in range(SLOW):
        for at in (0, 1) if turn % 2 else (1, 0):
            found[at].append(timed((plain, slow)[at], warm))
    return found


def slower(watched: list[Times], plain: list[Times], clock: int) -> str:
    logs = [float(np.log(a[clock] / b[clock])) for a, b in zip(watched, plain, strict=True)]
    low, high, sure = median_interval(logs)
    return f"{np.expm1(np.median(logs)):+.2%} ({np.expm1(low):+.2%} to {np.expm1(high):+.2%}, {sure:.0%})"


def counted(way: Way, plain_s: float) -> str:
    if not way.steps:
        return ""
    spent = way.steps * step_seconds() + way.visits * probe_seconds()
    return f"{spent / plain_s:.3%} ({way.visits} hooked modules, {spent * 1e6:.0f} µs)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=240)
    wanted = parser.parse_args()
    pipe = lm.load(wanted.model)
    module = pipe.engines.get(pipe.plan.settings("forward")).module
    torch.set_num_threads(wanted.threads)
    size, most = (wanted.rows, wanted.tokens), module.config.vocab_size
    inputs = {"input_ids": torch.randint(5, most, size), "attention_mask": torch.ones(size, dtype=torch.long)}
    few = Way(module, {name: tensor[:1, :4] for name, tensor in inputs.items()})
    ways = {
        PLAIN: Way(module, inputs), AGAIN: Way(module, inputs),
        "moments, steps only (depth 0)": Steps(module, inputs),
        "moments, layers (depth 1)": Probed(module, inputs, 1),
        "moments, attention and MLP of each layer (depth 2)": Probed(module, inputs, 2),
    }  # fmt: skip
    for way in ways.values():
        timed(way, few.run)
    times = in_turn(ways, few.run, wanted.seconds)
    plain_s = float(np.median([wall for wall, _ in times[PLAIN]]))
    rows = [
        (name, slower(times[name], times[PLAIN], 0), slower(times[name], times[PLAIN], 1), counted(way, plain_s),
         str(len(times[name])))
        for name, way in ways.items() if name != PLAIN
    ]  # fmt: skip
    rows += [peer(name, way, ways[PLAIN], few) for name, way in peers(module, inputs)]  # last: torchlens wraps torch
    layers = len(layer_list(module)[1])
    about = (
        f"{type(module).__name__}, {wanted.rows} rows of {wanted.tokens} tokens, torch eager fp32, {wanted.threads} "
        f"thread(s): {plain_s * 1e3:.1f} ms a pass, {plain_s * 1e3 / layers:.1f} ms a layer. Goal: at most 1%."
    )
    heads = ("", "slower by (wall, median of pairs)", "slower by (CPU time)", "counted", "pairs")
    results.write("Overhead of recording (goal 3)", [about, "", *results.table(heads, rows)])


def peers(module: Any, inputs: dict[str, Any]) -> list[tuple[str, Way | None]]:
    found: list[tuple[str, Way | None]] = [("torch.profiler, CPU", Profiled(module, inputs))]
    here = importlib.util.find_spec("torchlens")
    return [*found, ("torchlens", Lens(module, inputs) if here else None)]


def peer(name: str, way: Way | None, plain: Way, few: Way) -> tuple[str, ...]:
    if way is None:
        return (name, "not installed (pip install torchlens)", "", "", "")
    try:
        timed(way, few.run)
        bare, watched = beside(plain, way, few.run)
    except Exception as error:  # a peer that fails is said to fail
        return (name, f"failed: {type(error).__name__}: {str(error)[:160]}", "", "", "")
    print(name, "done", file=sys.stderr)
    return (name, slower(watched, bare, 0), slower(watched, bare, 1), "", str(SLOW))


if __name__ == "__main__":
    main()
