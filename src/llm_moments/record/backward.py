"""Backward times by layer: marks left on the outputs of the blocks when their gradients arrive.

The gradient of a block's output is there when everything after it has been walked back through, so the
time from one mark to the next is the backward pass of the block between. A mark costs a microsecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llm_moments.models.blocks import Block, blocks
from llm_moments.record.probes import place
from llm_moments.record.session import StepCost


class Marks:
    """Call `begin` before each backward pass and `end` after it; seconds add up by block."""

    def __init__(self, found: Sequence[Block], clock: Callable[[], int]):
        self.blocks, self.clock = list(found), clock
        self.sums: dict[str, tuple[int, float]] = {}
        self.marks: list[tuple[int, str]] = []
        self.begun = 0

    def hook(self, names: Sequence[str]) -> Any:
        turn = 0

        def after(module: Any, args: Any, output: Any) -> None:
            nonlocal turn
            tensor = next(
                (t for t in (output if isinstance(output, tuple) else (output,)) if hasattr(t, "grad_fn")), None
            )
            if tensor is None and hasattr(output, "values"):  # a ModelOutput
                tensor = next((t for t in output.values() if hasattr(t, "grad_fn")), None)
            name = names[turn % len(names)]
            turn += 1
            if tensor is not None and tensor.requires_grad:
                tensor.register_hook(lambda grad: self.marks.append((self.clock(), name)))

        return after

    def begin(self) -> None:
        self.marks.clear()
        self.begun = self.clock()

    def end(self) -> None:
        """From the gradient of a block's output to that of the one before it: the block's own share."""
        end = self.clock()
        self._add("loss", self.begun, self.marks[0][0] if self.marks else end)
        for (at, name), (until, _) in zip(self.marks, [*self.marks[1:], (end, "")], strict=True):
            self._add(name, at, until)

    def _add(self, name: str, begin: int, end: int) -> None:
        calls, seconds = self.sums.get(name, (0, 0.0))
        self.sums[name] = (calls + 1, seconds + (end - begin) / 1e9)

    def costs(self) -> tuple[StepCost, ...]:
        """Children of the backward step, in the order in which they are walked: loss, head, last layer first."""
        known = sorted((n for n in self.sums if n != "loss"), key=place, reverse=True)
        return tuple(StepCost(name, *self.sums[name]) for name in ["loss", *known] if name in self.sums)


@contextmanager
def marked(module: Any, clock: Callable[[], int] = time.perf_counter_ns) -> Iterator[Marks]:
    """Marks on the blocks of a module while it lasts."""
    marks = Marks(blocks(module), clock)
    names: dict[int, list[str]] = {}
    for block in marks.blocks:
        names.setdefault(id(block.module), []).append(block.name)
    parts = {id(block.module): block.module for block in marks.blocks}
    handles = [part.register_forward_hook(marks.hook(names[key])) for key, part in parts.items()]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()
