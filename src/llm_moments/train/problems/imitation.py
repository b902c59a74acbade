"""A teacher's answers, learnt by a smaller model: distillation, of texts and images alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_moments.base.errors import InputError
from llm_moments.core import Example, Pipeline
from llm_moments.engines.base import Engines
from llm_moments.evaluate.evaluation import evaluation, judging
from llm_moments.train.data_checks import leaks
from llm_moments.train.feed import Rows, least_batch
from llm_moments.train.losses import Distillation
from llm_moments.train.place import asked_for, digest_of
from llm_moments.train.problems.contract import Job, Problem, Tick
from llm_moments.train.settings import settings_of
from llm_moments.train.students import student_for
from llm_moments.train.trainer import Trainer

MOST_EPOCHS = 12  # however much time there is; students of R8 had what they could get from 1,600 texts after 10


@dataclass(frozen=True)
class Taught:
    """What a call of `distill` was given: as `Asked`, of a teacher and the word for its student.

    hidden: weight of the hidden states; quantize: int8, for weights that bear to be rounded; seconds: as many epochs as
    fit in; settings: as they were said, before what is usual for the student takes the place of what was not.
    """

    base: Pipeline
    examples: Sequence[Example]
    student: str
    settings: dict[str, Any]
    temperature: float = 2.0
    hidden: float = 0.0
    quantize: str | None = None
    seconds: float | None = None
    judged: tuple[Sequence[Example], str] = ((), "")
    judges: Any = None  # where the examples to judge by come from


class Imitation(Problem):
    """The examples' own references are not looked at: the target of a row is what the teacher says of it."""

    def __init__(self, asked: Taught):
        base = asked.base
        if base.model.is_linear:
            raise InputError(f"{base.model.name} is a linear model: nothing smaller can be made of it")
        if not base.task.heals:
            raise InputError(
                f"a student can be taught by a classifier of texts or images, not by one of {base.task.name}"
            )
        if asked.quantize not in (None, "int8"):
            raise InputError(f"a student learns to bear int8 (quantize), not {asked.quantize!r}")
        self.asked, self.student = asked, student_for(base, asked.student)
        settings = dict(asked.settings)
        self.student.usual(settings)
        self.freezes = "freeze" not in settings
        self.settings = wanted = settings_of(settings, "distill")
        self.student.check(wanted, asked.hidden)
        if wanted.augment or wanted.balance or wanted.translate_there or wanted.translate_back:
            raise InputError(
                "a student learns what the teacher said of the examples as they are: no augment, no balance"
            )
        self.question = {
            "teacher": base.model.digest, "student": asked.student, "data": digest_of(asked.examples, asked.judged[0]),
            "settings": asked_for(wanted), "temperature": asked.temperature, "hidden": asked.hidden, "seconds": asked.seconds,
        }  # fmt: skip
        if asked.quantize is not None:
            self.question["quantize"] = asked.quantize

    def job(self, tick: Tick, learn: Callable[..., Any]) -> Job:
        asked, base, wanted = self.asked, self.asked.base, self.settings
        values = [base.task.normalise(e.input) for e in asked.examples]
        tick(None, f"the teacher's answers to {len(values):,} examples")
        told = base.outputs(values)
        begun = self.student.begin(values, told, wanted, tick)
        if begun.freeze and self.freezes:
            wanted = replace(wanted, freeze=begun.freeze)
        module = begun.module
        if asked.quantize is not None:
            from llm_moments.train.students.quantized import rounding

            module = rounding(module)
        pipe = Pipeline(base.task.of(begun.model), self.student.plan(begun.model, wanted), engines=Engines(begun.model))
        part = self.part(pipe)
        said = leaks(values, part.values) if part else []
        loss = self.loss(told, begun.layers)
        if asked.seconds is not None:
            wanted = replace(wanted, epochs=epochs_in(asked.seconds, module, pipe, values, wanted, loss))
        return Job(
            module, pipe, numbered(values, module, wanted), loss, wanted, self.question, (part, asked.judged[1]), said,
            len(values), notes={"quantize": asked.quantize} if asked.quantize else {},
        )  # fmt: skip

    def part(self, pipe: Pipeline) -> Any:
        """What the student is judged by: references, or the teacher's answers where there are none."""
        asked, base = self.asked, self.asked.base
        examples, name = asked.judged
        if not examples:
            return None
        part = evaluation(pipe, judging(pipe, list(examples), asked.judges, name, varied=False))
        if part.labelled:
            return part
        return replace(part, references=base.task.as_references(base.outputs(part.values)))

    def loss(self, told: Any, layers: Sequence[int]) -> Distillation:
        """Against what the teacher said, once, of every row; hidden states need the teacher itself."""
        from llm_moments.engines.torch_eager import load_module

        asked, model = self.asked, self.asked.base.model
        return Distillation(
            model.problem_type, told["logits"], load_module(model) if asked.hidden else None, temperature=asked.temperature,
            hidden=asked.hidden, stands_for=layers,
        )  # fmt: skip


def numbered(values: Sequence[Any], module: Any, settings: Any) -> Rows:
    """The targets of a distillation are the rows' own numbers: what the teacher said is found by them."""
    import torch

    return Rows(values, torch.arange(len(values)), batch=least_batch(module, settings))


def epochs_in(seconds: float, module: Any, pipe: Pipeline, values: Sequence[Any], settings: Any, loss: Any) -> int:
    """How many epochs take about so long, by the time of some updates of a training that is thrown away."""
    import copy

    few = list(values[: 6 * settings.batch_size])
    spare = copy.deepcopy(module)
    trial = Trainer(spare, pipe, numbered(few, spare, settings), replace(settings, epochs=1), loss)
    trial.module.train()
    groups = list(trial.groups(0))
    for group in groups:
        trial.update(group, 0)  # what is done for the first time with a shape takes longer
    start = time.perf_counter()
    for group in groups:
        trial.update(group, 0)
    each = (time.perf_counter() - start) / len(few)
    return int(np.clip(seconds / (each * len(values)), 1, MOST_EPOCHS))
