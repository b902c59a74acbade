"""A problem is what a training learns: it says which module begins, what its rows and targets are, and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from llm_moments.core import Example, Pipeline
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.train.back_translation import BackTranslation
from llm_moments.train.feed import Feed
from llm_moments.train.losses import Loss
from llm_moments.train.settings import Settings

Tick = Callable[[float | None, str], None]


@dataclass(frozen=True)
class Asked:
    """What a call of `train` was given.

    examples: to learn from, and what they are called; of a stream its first ones. judged: examples to judge by, likewise.
    sources: where both come from, which says whether bad rows are skipped, and counts them. stream: the whole of the
    examples, where they are not held in memory. unlabelled: more of them, with labels to be found, and how sure a first
    model must be of these. read_s: seconds that reading took.
    """

    model: str | Path
    out: Path
    examples: Sequence[Example]
    name: str
    settings: Settings
    task: str | None = None
    judged: tuple[Sequence[Example], str] = ((), "")
    sources: tuple[Any, Any] = (None, None)
    stream: Any = None
    unlabelled: Any = None
    pseudo_threshold: float = 0.95
    read_s: float = 0.0


@dataclass(frozen=True)
class Job:
    """What is to be fitted. question: plain data that tells this training from any other; judged: examples to judge by,
    and where they came from; warnings: what is known to be wrong already; rows: examples that were read; expansion:
    what was added to them; notes: for the model folder."""

    module: Any
    pipe: Pipeline
    feed: Feed
    loss: Loss
    settings: Settings
    question: Mapping[str, Any]
    judged: tuple[Evaluation | None, str] = (None, "")
    warnings: Sequence[str] = ()
    rows: int = 0
    read_s: float = 0.0
    expansion: Mapping[str, Any] = field(default_factory=dict)
    back: BackTranslation | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def stream_told(asked: Asked) -> list[Any]:
    """What tells a stream from another with the same first rows, without going through it: of a file its size and time."""
    file = Path(asked.name)
    try:
        told = file.stat()
    except (OSError, ValueError):
        return [asked.name]
    return [asked.name, told.st_size, told.st_mtime_ns]


def of_first_rows(asked: Asked, said: Sequence[str]) -> list[str]:
    """Warnings of a stream are of what was looked at."""
    return [f"among the first {len(asked.examples):,} rows: {one}" if asked.stream is not None else one for one in said]


class Problem(ABC):
    """Made of what was asked for, which is looked at whole: what cannot be learnt is an InputError or a DataError then.

    question: plain data that tells this training from any other; the same question goes on, or is done already.
    """

    tasks: ClassVar[tuple[str, ...]] = ()  # what `--task` calls it
    question: Mapping[str, Any]

    @classmethod
    def takes(cls, asked: Asked) -> bool:
        """Whether this kind of problem is what was asked for."""
        return asked.task in cls.tasks

    @abstractmethod
    def job(self, tick: Tick, learn: Callable[..., Any]) -> Job:
        """What takes its time before the first update is done here: a teacher's answers, labels of a first model.

        learn: (problem, folder, *, progress) -> Training, for what has to be trained before.
        """
