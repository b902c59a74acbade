"""The recorder: steps tell it when they begin and end, and what they count."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_moments.record.session import Moment, StepCost

Clock = Callable[[], int]
MOST_MOMENTS = 20_000  # that are kept one by one: a trace of more opens slowly


@dataclass
class _Node:
    name: str
    calls: int = 0
    wall: int = 0
    cpu: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    children: dict[str, _Node] = field(default_factory=dict)

    def frozen(self) -> StepCost:
        children = tuple(child.frozen() for child in self.children.values())
        return StepCost(self.name, self.calls, self.wall / 1e9, self.cpu / 1e9, dict(self.counts), None, children)


class _Open:
    """One visit of a step; reused for the next one at the same depth, so nothing is allocated."""

    __slots__ = ("cpu", "node", "recorder", "wall")

    def __init__(self, recorder: Recorder, node: _Node):
        self.recorder, self.node = recorder, node

    def __enter__(self) -> None:
        self.recorder.path.append(self.node)
        self.cpu, self.wall = self.recorder.cpu_clock(), self.recorder.clock()

    def __exit__(self, *exc: object) -> None:
        recorder, node = self.recorder, self.node
        node.wall += recorder.clock() - self.wall
        node.cpu += recorder.cpu_clock() - self.cpu
        node.calls += 1
        recorder.path.pop()


class Recorder:
    """A tree of steps by name. Wall time by perf_counter_ns; CPU time of the whole process, since an
    engine works in threads of its own: it may exceed the wall time. Clocks can be given, for tests.

    For one thread. A step is open from `__enter__` to `__exit__`, whatever is raised in between.
    """

    active = True

    def __init__(self, clock: Clock = time.perf_counter_ns, cpu_clock: Clock = time.process_time_ns):
        self.clock, self.cpu_clock = clock, cpu_clock
        self.root = _Node("run")
        self.path = [self.root]
        self._visits: list[_Open] = []
        self.begun, self.moments = clock() / 1e9, list[Moment]()

    def step(self, name: str, items: int = 0) -> _Open:
        parent = self.path[-1]
        node = parent.children.get(name)
        if node is None:
            node = parent.children[name] = _Node(name)
        if items:
            node.counts["items"] = node.counts.get("items", 0) + items
        depth = len(self.path) - 1
        if depth == len(self._visits):
            self._visits.append(_Open(self, node))
        visit = self._visits[depth]
        visit.node = node
        return visit

    def count(self, **counts: float) -> None:
        """Adds to the counts of the step that is open."""
        known = self.path[-1].counts
        for name, value in counts.items():
            known[name] = known.get(name, 0) + value

    def spent(self, name: str, seconds: float, calls: int = 1, **counts: float) -> None:
        """A step inside the open one that was timed by somebody else, such as an engine's own prefill."""
        node = self.path[-1].children.setdefault(name, _Node(name))
        node.wall += round(seconds * 1e9)
        node.calls += calls
        for key, value in counts.items():
            node.counts[key] = node.counts.get(key, 0) + value

    def ran(self, name: str, start: float, seconds: float, **facts: float) -> None:
        """What ran once, at a time of its own: a prompt, a decoding step. start: a reading of the clock, in seconds."""
        if len(self.moments) < MOST_MOMENTS:
            self.moments.append(Moment(name, start - self.begun, seconds, facts))

    def depth(self) -> int:
        """How many steps are open, the run itself among them."""
        return len(self.path)

    def events(self) -> int:
        """How often a step was entered."""
        return sum(step.calls for _, step in self.tree().walk())

    def tree(self) -> StepCost:
        return self.root.frozen()
