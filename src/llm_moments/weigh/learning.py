"""What `weigh --train` gives: the blocks along a run, what each change of the training costs, and the learning curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_moments.atomic import write_atomic
from llm_moments.errors import DataError
from llm_moments.train.vitals import BlockVitals
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


@dataclass(frozen=True)
class TrainingWorth:
    """blocks: gradient, movement and Fisher information; worths: each change and its price; about: what is true of all."""

    blocks: tuple[BlockVitals, ...]
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
        curve = {name: value for name, value in data["curve"].items() if name != "words"}
        curve["points"] = tuple(Point(**p) for p in curve["points"])
        blocks = tuple(BlockVitals(**b) for b in data["blocks"])
        return cls(blocks, Worths.from_dict(data["worths"]), LearningCurve(**curve), data["about"])

    def save(self, path: str | Path) -> Path:
        write_atomic(Path(path), json.dumps(self.to_dict(), indent=1))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> TrainingWorth:
        """DataError if the file is no such result."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["kind"] != KIND:
                raise ValueError(f"it is a {data['kind']}")
            return cls.from_dict(data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no result of weigh --train: {error!r:.200}") from error

    def report(self) -> str:
        from llm_moments.render.html import report

        return report(learning=self, title="llm-moments: what the steps of the training are worth")

    def _repr_html_(self) -> str:
        from llm_moments.render.learning import fragment

        return fragment(self)
