"""The claim that is made of a training plan: as good a validation loss in less time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from llm_moments.base import schema
from llm_moments.base.errors import DataError
from llm_moments.base.views import drawn

KIND = "training-certificate"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class TrainingLook:
    """One plan held against the usual one, by seeds and examples that nothing was chosen by.

    rise: of the mean validation loss (absolute), rise_high its upper bound; speedup of the updates' seconds.
    """

    name: str
    settings: Mapping[str, Any]
    passed: bool
    loss: float
    baseline_loss: float
    rise: float
    rise_high: float
    allowed: float
    speedup: float
    speedup_low: float
    score: float
    baseline_score: float
    seeds: int
    n: int


class Tried(TypedDict):
    name: str
    faster: float | None
    loss: float | None
    kept: bool


@dataclass(frozen=True)
class TrainingCertificate:
    """With 95% confidence the validation loss rises by less than `max_rise` of the usual plan's, and with 95% confidence
    the updates take at least `speedup_low` times less: on trainings of so many rows and epochs, on this machine."""

    certified: bool
    reason: str
    max_rise: float
    rows: int
    epochs: int
    settings: Mapping[str, Any]
    baseline: Mapping[str, Any]
    looks: tuple[TrainingLook, ...]
    tried: tuple[Mapping[str, Any], ...]
    metric: str
    data: str
    model: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    created: str = ""

    @property
    def best(self) -> TrainingLook | None:
        passed = [look for look in self.looks if look.passed]
        return passed[-1] if passed else None

    def words(self) -> str:
        if not self.certified or self.best is None:
            return f"Not certified: {self.reason}"
        b = self.best
        return (
            f"With 95% confidence this plan's validation loss is at most {100 * self.max_rise:g}% above that of the usual plan "
            f"(measured {b.loss:.4f} and {b.baseline_loss:.4f}, rise at most {b.rise_high:+.4f} of the {b.allowed:.4f} allowed), "
            f"and with 95% confidence its updates take at least {b.speedup_low:.2f} times less time (measured {b.speedup:.2f}): "
            f"on trainings of {self.rows:,} examples and {self.epochs} epoch(s), {b.seeds} seeds and {b.n:,} evaluation examples that "
            "nothing was chosen by. Longer trainings were not tried."
        )

    def to_dict(self) -> dict[str, Any]:
        return {"kind": KIND, "format": 1, **asdict(self), "words": self.words()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingCertificate:
        found = schema.result(data, KIND, cls, "words")
        for one in found.tried:
            schema.least(one, Tried)
        if lost := [name for name in found.settings if name not in found.baseline]:
            raise DataError(f"the baseline lacks the setting {lost[0]!r}")
        return found

    @classmethod
    def load(cls, path: str | Path) -> TrainingCertificate:
        """DataError if the file is no such certificate."""
        return schema.read(Path(path), "a certificate of a training plan", cls.from_dict)

    def report(self) -> str:
        return drawn("report", faster=self, title="llm-moments: a faster training")

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p><strong>{'Certified' if self.certified else 'No certificate'}.</strong> {escape(self.words())}</p>"
