"""Goal 3: what recording costs, beside torch.profiler and torchlens on the same forward pass.

    python benchmarks/overhead.py [--model .demo/model] [--rows 4] [--tokens 96]

One batch through the torch module, steps of 10 ms and more: plain, with the recorder and its probes by
layer and by part, with torch.profiler, with torchlens where it is installed. Each is timed right beside
a plain pass, and the ratio of the pair is what counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import results
import torch

import llm_moments as lm
from llm_moments.record.overhead import median_interval
from llm_moments.record.probes import probed
from llm_moments.record.recorder import Recorder

PAIRS = {"": 150, "slow": 8}


def ways(module: Any, inputs: dict[str, Any]) -> dict[str, tuple[Callable[[], None], int]]:
    """Name -> (one watched pass, pairs). The probes are put on before the clock starts, as `record` does."""
    found: dict[str, tuple[Callable[[], None], int]] = {}
    found["plain, again"] = (lambda: plain(module, inputs), PAIRS[""])
    found["moments, steps only (depth 0)"] = (lambda: recorded(module, inputs), PAIRS[""])
    for depth, name in ((1, "layers"), (2, "attention and MLP of each layer")):
        found[f"moments, {name} (depth {depth})"] = (lambda depth=depth: watched(module, inputs, depth), PAIRS[""])
    found["torch.profiler, CPU"] = (lambda: profiled(module, inputs), PAIRS["slow"])
    if importlib.util.find_spec("torchlens"):
        found["torchlens"] = (lambda: lens(module, inputs), PAIRS["slow"])
    return found


def plain(module: Any, inputs: dict[str, Any]) -> None:
    with torch.inference_mode():
        module(**inputs)


def recorded(module: Any, inputs: dict[str, Any]) -> None:
    with Recorder().step("forward", items=len(inputs["input_ids"])), torch.inference_mode():
        module(**inputs)


_PROBES: dict[int, Any] = {}


def watched(module: Any, inputs: dict[str, Any], depth: int) -> None:
    recorder = Recorder()
    with probed(module, depth, "cpu", where=recorder.depth):
        _PROBES["start"] = time.perf_counter()
        with recorder.step("forward", items=len(inputs["input_ids"])), torch.inference_mode():
            module(**inputs)
        _PROBES["end"] = time.perf_counter()


def profiled(module: Any, inputs: dict[str, Any]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]), torch.inference_mode():
        module(**inputs)


def lens(module: Any, inputs: dict[str, Any]) -> None:
    import torchlens

    with torch.no_grad():
        torchlens.trace(module, (), inputs)


def seconds(work: Callable[[], None], warm: Callable[[], None]) -> float:
    """warm: a pass over a few tokens right before, for all alike: finding the blocks to watch makes one, too."""
    _PROBES.clear()
    warm()
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    return _PROBES["end"] - _PROBES["start"] if _PROBES else end - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    wanted = parser.parse_args()
    pipe = lm.load(wanted.model)
    module = pipe.engines.get(pipe.plan.settings("forward")).module
    size = (wanted.rows, wanted.tokens)
    inputs = {"input_ids": torch.randint(1000, 20000, size), "attention_mask": torch.ones(size, dtype=torch.long)}
    few = {name: tensor[:1, :4] for name, tensor in inputs.items()}

    def warm() -> None:
        plain(module, few)

    rows = []
    base: list[float] = []
    for name, (work, pairs) in ways(module, inputs).items():
        try:
            plain(module, inputs), work()
        except Exception as error:  # a peer that fails is said to fail
            rows.append((name, f"failed: {type(error).__name__}: {str(error)[:80]}", ""))
            continue
        logs = []
        for turn in range(pairs):
            first, second = (lambda: plain(module, inputs), work)[:: 1 if turn % 2 else -1]
            a, b = seconds(first, warm), seconds(second, warm)
            bare, seen = (a, b) if turn % 2 else (b, a)
            base.append(bare)
            logs.append(float(np.log(seen / bare)))
        low, high, sure = median_interval(logs)
        said = f"{np.expm1(np.median(logs)):+.2%} ({np.expm1(low):+.2%} to {np.expm1(high):+.2%}, {sure:.0%})"
        rows.append((name, said, str(pairs)))
        print(*rows[-1], file=sys.stderr)
    about = (
        f"{type(module).__name__}, {wanted.rows} rows of {wanted.tokens} tokens, torch eager fp32: {np.median(base) * 1e3:.0f} ms "
        f"a pass, {np.median(base) * 1e3 / max(1, len(pipe_layers(module))):.0f} ms a layer. Goal: at most 1%."
    )
    results.write(
        "Overhead of recording (goal 3)",
        [about, "", *results.table(("", "slower by (median of pairs)", "pairs"), rows)],
    )


def pipe_layers(module: Any) -> Any:
    from llm_moments.engines.layers import layer_list

    return layer_list(module)[1]


if __name__ == "__main__":
    main()
