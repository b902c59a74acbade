"""`train`: the arm of the loop that changes the model, on the same steps that later run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Example
from llm_moments.data.readers import source_of
from llm_moments.evaluate.evaluation import as_example, gather, opened
from llm_moments.train import linear
from llm_moments.train.fit import learn
from llm_moments.train.observers import Observer, Reporting
from llm_moments.train.problems import problem_for
from llm_moments.train.problems.contract import Asked, Tick
from llm_moments.train.settings import settings_of
from llm_moments.train.trainer import Trainer
from llm_moments.train.training import Training

LOOKED = 2000  # rows of a stream that say what its labels are
STDIN = "stdin"  # as its examples say where they come from


def train(
    model: str | Path,
    data: Any,
    out: str | Path,
    *,
    evaluate: Any = None,
    overwrite: bool = False,
    progress: Tick | None = None,
    device: str = "auto",
    on_update: Callable[[Trainer], None] | None = None,
    read: Mapping[str, Any] | None = None,
    unlabelled: Any = None,
    pseudo_threshold: float = 0.95,
    task: str | None = None,
    stream: bool = False,
    observers: Sequence[Observer] = (),
    **settings: Any,
) -> Training:
    """Fine-tunes a classifier of texts or images, or a model that makes texts, on examples with references.

    model: a folder in the Hugging Face layout; or what begins fresh: "cnn", a small network for images, "linear", a
    linear model of words, "marian", a small translating model with a tokenizer made of the data. task: translation, chat
    or text-generation, where a text is to be learnt (else a model of such an architecture, or data with dialogues,
    says so; `train_sequences`). settings: the fields of `Settings`. The problem goes with the references: names or
    whole numbers are single labels, lists are several, other numbers a regression; the loss goes with the problem
    unless it is named. unlabelled: more examples, to which a first model gives labels; those with a probability of
    at least pseudo_threshold are learnt from, too. stream: the examples are not held in memory, and may have no end; updates
    say when it ends. observers: who looks on (train/observers.py). The same call with the same out goes on after an interruption, bit for bit as if there had
    been none (on a CPU), and gives the finished model as it is.
    """
    if linear.is_linear(model):
        settings = linear.settings_for(settings)
    wanted = settings_of(settings)
    begin = time.perf_counter()
    data, evaluate = opened(data, **(read or {})), opened(evaluate, **(read or {}))
    first, source = streamed(data) if stream else (data, None)
    examples, name = gather(first)
    name = source_of(data).path if stream else name
    read_s = time.perf_counter() - begin
    judged = gather(evaluate) if evaluate is not None else ([], "")
    if wanted.early_stopping and not judged[0]:
        raise InputError("early stopping needs examples to judge by: --eval")
    asked = Asked(
        model, Path(out), examples, name, wanted, task, judged, (data, evaluate), source, unlabelled, pseudo_threshold, read_s
    )  # fmt: skip
    looking = [*observers, *([Reporting(on_update)] if on_update is not None else [])]
    return learn(
        problem_for(asked), asked.out, overwrite=overwrite, progress=progress, device=device, observers=looking
    )


def streamed(data: Any) -> tuple[list[Example], Iterable[Example]]:
    """The first examples of a stream, by which its labels are told, and all of them. What can be gone through only once
    (an iterator, stdin) is gone through once: its first examples are kept."""
    if iter(data) is not data and source_of(data).path != STDIN:
        again = _Again(data)
        return list(islice(again, LOOKED)), again
    rest = map(as_example, data)
    first = list(islice(rest, LOOKED))
    return first, chain(first, rest)


class _Again:
    """Examples from their beginning each time."""

    def __init__(self, data: Iterable[Any]):
        self.data = data

    def __iter__(self) -> Iterator[Example]:
        return map(as_example, self.data)
