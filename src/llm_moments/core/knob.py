"""A tunable parameter of a step, and the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from llm_moments.core.example import Batch
from llm_moments.core.recorder import Recorder

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Knob:
    """A tunable parameter of a step with its allowed values.

    `values` are what a search tries; `valid` is the test a value from a file or the command line must
    pass. A lossless knob gives the same answers within the task's tolerance, whatever its value.
    `idle`: choices beside which this one says nothing (of the same step, or by their whole name). `bounds`: the
    amount of the data that it is a limit of (`Task.amounts`): where all data lie below two of its values, those are
    the same choice; 0 is no limit.
    """

    name: str
    default: Any
    values: tuple[Any, ...] = ()
    lossless: bool = False
    valid: Callable[[Any], bool] = lambda value: True
    means: str = ""
    idle: Mapping[str, Any] = field(default_factory=dict)
    bounds: str = ""


def one_of(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: value in allowed


def whole(low: int, high: int = 2**31) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


class Step(Protocol):
    """One moment of the pipeline: `Batch -> Batch`, made from its settings."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    knobs: tuple[Knob, ...]

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch: ...


@runtime_checkable
class UsesEngine(Protocol):
    """A step that asks an engine. settings: what it is opened with."""

    settings: Mapping[str, Any]
