"""Layer times of a torch module."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import numpy as np

from llm_moments.models.blocks import Block, blocks
from llm_moments.record.session import StepCost

ROOM = 1 << 14  # visits of one module that are kept before they are summed up


class Probe:
    """Begin and end in ns of every visit of one module, and how deep the recorder was at that time.

    `names` has one name for each turn the module takes in a pass: most modules have one turn.
    """

    def __init__(self, names: Sequence[str], module: Any, where: Callable[[], int], clock: Callable[[], int]):
        self.names, self.module, self.where, self.clock = list(names), module, where, clock
        self.room = ROOM - ROOM % len(self.names)  # a whole number of passes
        self.begun = 0
        self.marks: list[tuple[int, int, int]] = []  # begin, end, depth: a list takes them faster than an array does
        self.sums: dict[tuple[int, str], tuple[int, float]] = {}  # (depth, name): visits, seconds

    def before(self) -> None:
        self.begun = self.clock()

    def after(self) -> None:
        self.marks.append((self.begun, self.clock(), self.where()))
        if len(self.marks) == self.room:
            self.fold()

    def seconds(self) -> np.ndarray:
        """Of every visit since the last time they were summed up."""
        times = np.array(self.marks, np.int64).reshape(-1, 3)
        return (times[:, 1] - times[:, 0]) / 1e9

    def fold(self) -> None:
        seconds, where = self.seconds(), np.array([depth for _, _, depth in self.marks])
        turns = np.arange(len(self.marks)) % len(self.names)
        for depth in np.unique(where):
            for turn, name in enumerate(self.names):
                chosen = (where == depth) & (turns == turn)
                calls, spent = self.sums.get((int(depth), name), (0, 0.0))
                self.sums[int(depth), name] = (calls + int(chosen.sum()), spent + float(seconds[chosen].sum()))
        self.marks.clear()

    def cost(self, depth: int, name: str) -> tuple[int, float]:
        """Visits and seconds of the turns with that name while the recorder was that deep."""
        if self.marks:
            self.fold()
        return self.sums.get((depth, name), (0, 0.0))


class CudaProbe(Probe):
    """The same with CUDA events, which are read when they are summed up, so that nothing waits."""

    def __init__(self, names: Sequence[str], module: Any, where: Callable[[], int], clock: Callable[[], int]):
        super().__init__(names, module, where, clock)
        self.events: list[tuple[Any, Any]] = []

    def _event(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def before(self) -> None:
        self._begun = self._event()

    def after(self) -> None:
        self.events.append((self._begun, self._event()))
        super().after()

    def seconds(self) -> np.ndarray:
        if self.events:
            self.events[-1][1].synchronize()
        spent = np.array([begun.elapsed_time(ended) for begun, ended in self.events]) / 1e3
        self.events.clear()
        return spent


@contextmanager
def probed(
    module: Any, depth: int = 1, device: str = "cpu", *, where: Callable[[], int] = lambda: 0,
    clock: Callable[[], int] = time.perf_counter_ns, parts: Sequence[Block] | None = None,
) -> Iterator[list[Probe]]:  # fmt: skip
    """Probes on the blocks of a module (or on those given), and with depth 2 on the attention of each layer, while it
    lasts."""
    make = CudaProbe if device == "cuda" else Probe
    probes = [make(names, part, where, clock) for names, part in _parts(parts or blocks(module), depth)]
    with ExitStack() as stack:
        for probe in probes:
            stack.enter_context(watching(probe))
        yield probes


@contextmanager
def watching(probe: Probe) -> Iterator[None]:
    """Round the module's own `forward`, and not by hooks: with these torch takes a way through that costs several µs."""
    inner, before, after = probe.module.forward, probe.before, probe.after

    @wraps(inner)
    def forward(*args: Any, **more: Any) -> Any:
        before()
        made = inner(*args, **more)
        after()
        return made

    own = vars(probe.module).get("forward")
    probe.module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del probe.module.forward
        else:
            probe.module.forward = own


def _parts(found: Sequence[Block], depth: int) -> Iterator[tuple[list[str], Any]]:
    """Each module to be watched once, with the names of the blocks it is in its turns."""
    modules = {id(m): m for block in found for m in (*block.also, block.module)}
    names: dict[int, list[str]] = {}
    for block in found:
        for part in (*block.also, block.module):
            names.setdefault(id(part), []).append(block.name)
    for key, part in modules.items():
        yield names[key], part
        if depth > 1 and names[key][0].startswith("layer"):
            for inner in attention(part):
                yield [f"{name}/attention" for name in names[key]], inner


def attention(layer: Any) -> list[Any]:
    """The parts of a layer that are attention, by the names of their classes; [] if none is found."""
    children = [(f"{n} {type(c).__name__}".lower(), c) for n, c in layer.named_children()]
    with_weights = [(word, c) for word, c in children if any(True for _ in c.parameters())]
    found = [c for word, c in with_weights if "att" in word and "norm" not in word]
    if found or len(with_weights) != 1:
        return found
    only = with_weights[0][1]  # a group of layers that holds one layer, as in ALBERT
    return attention(only)


def layer_costs(probes: Sequence[Probe], forward_s: float, depth: int = 0, known_s: float = 0.0) -> list[StepCost]:
    """Children of the forward step that was open at this depth; what no block accounts for is `other`.

    In a layer, mlp is what attention leaves: feed-forward, norms and residuals. known_s: seconds of
    children that the forward step has already, such as transfers.
    """
    sums: dict[str, tuple[int, float]] = {}
    for probe in probes:
        for name in dict.fromkeys(probe.names):
            calls, spent = probe.cost(depth, name)
            before = sums.get(name, (0, 0.0))
            sums[name] = (max(calls, before[0]), spent + before[1])
    made = [_block_cost(name, sums) for name in sorted((n for n in sums if "/" not in n), key=place) if sums[name][0]]
    rest = forward_s - known_s - sum(step.wall_s for step in made)
    return [*made, StepCost("other", 0, max(rest, 0.0))] if made else []


def _block_cost(name: str, sums: dict[str, tuple[int, float]]) -> StepCost:
    calls, spent = sums[name]
    inner_calls, inner = sums.get(f"{name}/attention", (0, 0.0))
    if not inner_calls:
        return StepCost(name, calls, spent)
    parts = (StepCost("attention", inner_calls, min(inner, spent)), StepCost("mlp", calls, max(spent - inner, 0.0)))
    return StepCost(name, calls, spent, children=parts)


def place(name: str) -> int:
    """Sorts names of blocks in the order of the forward pass."""
    kind, _, number = name.partition(" ")
    return {"embeddings": -1, "head": 10**6, "other": 10**7}.get(kind, int(number) if number.isdigit() else 10**5)
