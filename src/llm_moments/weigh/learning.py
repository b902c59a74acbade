"""What `tune --weigh` gives: the blocks along a run, what each change of the training costs, and the learning curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic
from llm_moments.base.errors import DataError
from llm_moments.base.views import drawn
from llm_moments.train.gradient_stats import BlockGradients
from llm_moments.weigh.worth import Worths

KIND = "training-worth"


@dataclass(frozen=True)
class Point:
    """One amount of data: the mean score over the seeds, with the lowest and the highest of them."""

    rows: int
    score: float
    least: float
    most: float
    seeds: int


@dataclass(frozen=True)
class LearningCurve:
    """Points at the same number of epochs each, and what `factor` times the data would bring: modelled, by `method`.

    gain, low, high: of the score, 1 = all; None where there are too few points or seeds, as `reason` says.
    """

    points: tuple[Point, ...]
    factor: float = 2.0
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    reason: str = ""

    def words(self) -> str:
        if self.gain is None or self.low is None or self.high is None:
            return f"No extrapolation: {self.reason}"
        times = "Twice" if self.factor == 2 else f"{self.factor:g} times"
        return (
            f"{times} the data ({self.points[-1].rows * self.factor:,.0f} examples) would bring about {100 * self.gain:+.1f} points "
            f"({100 * self.low:+.1f} to {100 * self.high:+.1f}; modelled: {self.method})."
        )


class TrueOf(TypedDict):
    """What `about` must say: the figures are true of trainings of that length."""

    rows: int
    of_rows: int
    epochs: int
    updates: int
    seeds: int
    n: int
    metric: str


@dataclass(frozen=True)
class _Saved:
    about: Mapping[str, Any]
    blocks: tuple[BlockGradients, ...]
    worths: Mapping[str, Any]
    curve: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingWorth:
    """blocks: gradient, movement and Fisher information; worths: each change and its price; about: what is true of all."""

    blocks: tuple[BlockGradients, ...]
    worths: Worths
    curve: LearningCurve
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": KIND, "format": 1, "about": dict(self.about), "blocks": [b.to_dict() for b in self.blocks],
            "worths": self.worths.to_dict(), "curve": {**asdict(self.curve), "words": self.curve.words()},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingWorth:
        found = schema.result(data, KIND, _Saved)
        curve = schema.convert({k: v for k, v in found.curve.items() if k != "words"}, LearningCurve)
        schema.least(found.about, TrueOf)
        if curve.gain is not None and not curve.points:
            raise DataError("the curve has a gain, but no points")
        return cls(found.blocks, Worths.from_dict(found.worths), curve, found.about)

    def save(self, path: str | Path) -> Path:
        write_atomic(Path(path), json.dumps(self.to_dict(), indent=1))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> TrainingWorth:
        """DataError if the file is no such result."""
        return schema.read(Path(path), "a result of tune --weigh", cls.from_dict)

    def report(self) -> str:
        return drawn("report", learning=self, title="llm-moments: what the steps of the training are worth")

    def _repr_html_(self) -> str:
        return drawn("learning", self)
