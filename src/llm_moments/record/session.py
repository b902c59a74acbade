"""What was recorded, as plain data: a tree of steps that can be saved, loaded, combined, rendered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic
from llm_moments.base.errors import InputError
from llm_moments.base.views import drawn

Kind = Literal["measured", "modelled", "unavailable"]


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from; what could not be had is None, never 0."""

    value: float | None
    unit: str
    kind: Kind = "measured"
    note: str = ""

    @classmethod
    def none(cls, unit: str, why: str) -> Figure:
        return cls(None, unit, "unavailable", why)


@dataclass(frozen=True)
class StepCost:
    """One step: seconds of wall and CPU time over all calls, and what was counted in it.

    counts: items, tokens, padded_tokens, cut_rows, cut_tokens, reused_rows, …, as far as the step
    counts them. cpu_s is None where it was not measured. `limit` is the share of the machine's
    measured limit that the step reaches (0 to 1), modelled from its operations.
    """

    name: str
    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    limit: Figure | None = None
    children: tuple[StepCost, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, StepCost]]:
        """Itself and everything below it, with its depth, parents first."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def find(self, name: str) -> StepCost:
        for _, step in self.walk():
            if step.name == name:
                return step
        raise InputError(f"no step {name!r} in this session")

    def rate(self, what: str = "items") -> float | None:
        """Items (or tokens …) a second of wall time; None if they were not counted."""
        count = self.counts.get(what)
        return count / self.wall_s if count and self.wall_s > 0 else None


@dataclass(frozen=True)
class Moment:
    """What ran once: a prompt (facts: tokens of its answer, first_s to the first of them), a prefill, a decode step. start:
    seconds into the recording."""

    name: str
    start: float
    seconds: float
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """The tree under `root`, the figures of the whole run, and what it was run on.

    figures: overhead (share of the run's time), peak_memory (bytes), tensor_memory, energy (J),
    throughput (items/s). notes: sentences that a reader of the numbers must know. busy: that others used the machine
    meanwhile; empty where they did not. data: what it was recorded on. timeline: what ran when, where the engine tells it.
    """

    root: StepCost
    figures: Mapping[str, Figure]
    model: str
    task: str
    plan: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    created: str = ""
    busy: str = ""
    data: str = ""
    timeline: tuple[Moment, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "session", "format": schema.FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Session:
        return schema.result(data, "session", cls)

    def save(self, path: str | Path) -> Path:
        write_atomic(Path(path), json.dumps(self.to_dict(), indent=1))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Session:
        return schema.read(Path(path), "a saved session", cls.from_dict)

    def combine(self, other: Session) -> Session:
        """Both recordings as one: times and counts add up, step by step."""
        figures = {k: v for k, v in self.figures.items() if k not in ("throughput",)}
        notes = (*self.notes, *(n for n in other.notes if n not in self.notes))
        return Session(
            _add(self.root, other.root),
            figures,
            self.model,
            self.task,
            self.plan,
            self.environment,
            notes,
            self.created,
            self.busy or other.busy,
            self.data,
            (*self.timeline, *(replace(one, start=one.start + self.root.wall_s) for one in other.timeline)),
        )

    def _repr_html_(self) -> str:
        return drawn("session", self)


def _add(a: StepCost, b: StepCost) -> StepCost:
    counts = {k: a.counts.get(k, 0) + b.counts.get(k, 0) for k in {*a.counts, *b.counts}}
    others = {child.name: child for child in b.children}
    children = [_add(c, others.pop(c.name)) if c.name in others else c for c in a.children]
    cpu = None if a.cpu_s is None or b.cpu_s is None else a.cpu_s + b.cpu_s
    return StepCost(a.name, a.calls + b.calls, a.wall_s + b.wall_s, cpu, counts, a.limit, (*children, *others.values()))
