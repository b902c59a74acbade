"""What a training leaves: a model folder, how it went, and what its steps cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from llm_moments.base import schema
from llm_moments.base.errors import DataError
from llm_moments.base.views import drawn
from llm_moments.record.session import Session

RUN = "training.json"  # what is being trained, and in a finished model what came of it


@dataclass(frozen=True)
class Training:
    """A trained model folder, how it went, and what its steps cost.

    history: one entry every ten updates (update, epoch, loss, learning_rate, norm) and one after each epoch
    that was judged (update, epoch, score). warnings: what a reader of the score must know. expansion: what a first
    model has labelled, how much of it and how surely; empty if nothing was to be labelled.
    """

    folder: Path
    session: Session | None
    history: list[dict[str, float]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    expansion: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "training", "format": 1, "out": str(self.folder), "settings": dict(self.settings),
            "seconds": round(self.seconds, 1), "warnings": list(self.warnings), "evaluation": self.evaluation,
            "expansion": dict(self.expansion), "history": self.history, "session": self.session.to_dict() if self.session else None,
        }  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """What `train` left in a model folder; DataError if that is nothing."""
        found = schema.read(Path(folder) / RUN, "a finished training", _saved)
        session = Session.from_dict(found.session) if found.session else None
        return cls(
            Path(folder), session, found.history, found.warnings, found.evaluation, found.settings, found.seconds, found.expansion,
        )  # fmt: skip

    def report(self) -> str:
        return drawn("report", session=self.session, training=self, title=f"llm-moments: training {self.folder.name}")

    def _repr_html_(self) -> str:
        return drawn("training", self)


class Judged(TypedDict):
    """What an evaluation says at least."""

    data: str
    n: int
    metric: str
    score: float


class Expanded(TypedDict):
    """What an expansion says at least, where there was one."""

    labelled: int
    unlabelled: int
    known_already: int
    threshold: float
    by_class: dict[str, int]


class Entry(TypedDict):
    epoch: float
    update: float


@dataclass(frozen=True)
class _Saved:
    out: str
    settings: Mapping[str, Any]
    seconds: float
    warnings: tuple[str, ...]
    evaluation: Mapping[str, Any] | None
    history: list[dict[str, float]]
    session: Mapping[str, Any] | None
    expansion: Mapping[str, Any] = field(default_factory=dict)


def _saved(data: Any) -> _Saved:
    if not isinstance(data, dict) or "training" not in data:
        raise DataError("it tells of no finished training")
    found = schema.result(data["training"], "training", _Saved)
    for entry in found.history:
        schema.least(entry, Entry)
    for part, said in ((found.evaluation, Judged), (found.expansion, Expanded)):
        if part:
            schema.least(part, said)
    if found.session:
        Session.from_dict(found.session)
    return found
