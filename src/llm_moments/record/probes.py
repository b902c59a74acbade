"""Layer times of a torch module: hooks that write to arrays made beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from llm_moments.engines.layers import blocks
from llm_moments.record.session import StepCost

ROOM = 1 << 16  # visits of one block that are kept


class _Probe:
    """Begin and end of every visit of one module, in ns."""

    def __init__(self, name: str, module: Any, depth: int):
        self.name, self.module, self.depth = name, module, depth
        self.times = np.zeros((ROOM, 2), np.int64)
        self.visits = 0

    def before(self, *args: Any) -> None:
        self.times[self.visits, 0] = time.perf_counter_ns()

    def after(self, *args: Any) -> None:
        self.times[self.visits, 1] = time.perf_counter_ns()
        self.visits = min(self.visits + 1, ROOM - 1)

    def seconds(self) -> float:
        begun, ended = self.times[: self.visits].T
        return float((ended - begun).sum()) / 1e9


class CudaProbe(_Probe):
    """The same with CUDA events, which are read only at the end, so that nothing waits."""

    def __init__(self, name: str, module: Any, depth: int):
        super().__init__(name, module, depth)
        self.events: list[tuple[Any, Any]] = []

    def _event(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def before(self, *args: Any) -> None:
        self._begun = self._event()

    def after(self, *args: Any) -> None:
        self.events.append((self._begun, self._event()))
        self.visits += 1

    def seconds(self) -> float:
        if self.events:
            self.events[-1][1].synchronize()
        return sum(begun.elapsed_time(ended) for begun, ended in self.events) / 1e3


@contextmanager
def probed(module: Any, depth: int = 1, device: str = "cpu") -> Iterator[list[_Probe]]:
    """Probes on the blocks of a module, and with depth 2 on the parts of each layer, while it lasts."""
    make = CudaProbe if device == "cuda" else _Probe
    probes = []
    for block in blocks(module):
        probes.append(make(block.name, block.module, 1))
        if depth > 1 and block.name.startswith("layer"):
            probes += [make(name, part, 2) for name, part in _parts(block.module)]
    handles = []
    for probe in probes:
        handles.append(probe.module.register_forward_pre_hook(probe.before))
        handles.append(probe.module.register_forward_hook(probe.after))
    try:
        yield probes
    finally:
        for handle in handles:
            handle.remove()


def _parts(layer: Any) -> Iterator[tuple[str, Any]]:
    """Children of a layer by what they do: the ones called attention, and the rest that has weights."""
    for name, child in layer.named_children():
        if not any(True for _ in child.parameters()):
            continue
        word = f"{name} {type(child).__name__}".lower()
        yield ("attention" if "att" in word else f"mlp: {name}" if "norm" not in word else name), child


def layer_costs(probes: list[_Probe], forward_s: float) -> tuple[StepCost, ...]:
    """Children of the forward step; what no block accounts for is called other."""
    made: list[StepCost] = []
    for probe in probes:
        cost = StepCost(probe.name, probe.visits, probe.seconds())
        if probe.depth == 1:
            made.append(cost)
        else:
            last = made[-1]
            made[-1] = StepCost(last.name, last.calls, last.wall_s, None, {}, None, (*last.children, cost))
    rest = forward_s - sum(step.wall_s for step in made)
    return (*made, StepCost("other", 0, max(rest, 0.0)))
