"""`train`: the arm of the loop that changes the model, on the same steps that later run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError
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
    at least pseudo_threshold are learnt from, too. The same call with the same out goes on after an interruption, bit for bit as if there had
    been none (on a CPU), and gives the finished model as it is.
    """
    if linear.is_linear(model):
        settings = linear.settings_for(settings)
    wanted = settings_of(settings)
    begin = time.perf_counter()
    data, evaluate = opened(data, **(read or {})), opened(evaluate, **(read or {}))
    source = _streamed(data) if stream else None
    examples, name = gather(data if source is None else list(islice(iter(source), LOOKED)))
    name = name if source is None else source_of(data).path
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


class _streamed:
    """Examples once more from their beginning each time. InputError for what can be gone through only once."""

    def __init__(self, data: Any):
        if iter(data) is data:
            raise InputError(
                "a stream is looked at before it is learnt from, and an iterator can be gone through only once: give a file, or "
                "an object whose __iter__ begins anew"
            )
        self.data = data

    def __iter__(self) -> Any:
        return (as_example(one) for one in self.data)
