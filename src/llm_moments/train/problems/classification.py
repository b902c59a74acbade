"""Classes, several of them, or a number, of texts and images: from a folder, or from a network that begins fresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Example, Pipeline
from llm_moments.data.labels import labelled
from llm_moments.engines.base import Engines
from llm_moments.evaluate.evaluation import evaluation, judging, refuse
from llm_moments.models.model import Model
from llm_moments.train import back_translation, linear, pseudo
from llm_moments.train.augment import check as check_augment
from llm_moments.train.data_checks import warnings
from llm_moments.train.feed import Feed, Rows, Stream, least_batch
from llm_moments.train.lesson import lesson_of, targets_of
from llm_moments.train.losses import Loss, balanced, loss_for
from llm_moments.train.place import asked_for, digest_of, run_folder
from llm_moments.train.problems.contract import Asked, Job, Problem, Tick, of_first_rows, stream_told
from llm_moments.train.settings import Settings
from llm_moments.train.start import head_of, start


class Classification(Problem):
    """The problem goes with the references: names or whole numbers are single labels, lists are several, other numbers a
    regression; the loss goes with the problem unless it is named."""

    tasks = ("text-classification", "image-classification")

    @classmethod
    def takes(cls, asked: Asked) -> bool:
        return asked.task is None or asked.task in cls.tasks

    def __init__(self, asked: Asked):
        wanted = asked.settings
        if wanted.pack or wanted.choices:
            raise InputError(
                "packing and choices of a plan are for models that make texts: --task chat, text-generation, translation"
            )
        if asked.stream is not None:
            _held_only(asked)
        self.asked, self.back = asked, back_translation.begun(wanted, run_folder(asked.out))
        if self.back is not None and not wanted.augment.get(back_translation.NAME):
            raise InputError(f"two translating models say nothing without --augment {back_translation.NAME}=0.3")
        old = None if wanted.new_head else head_of(asked.model)
        self.lesson = lesson_of(asked.examples, asked.name, old, asked.sources[0])
        inputs = [e.input for e in self.lesson.examples]
        self.begun = start(asked.model, inputs, self.lesson.labels, self.lesson.problem, wanted)
        check_augment(wanted.augment, wanted.balance, self.begun.task, self.lesson.problem)
        self.question = {
            "model": self.begun.model.digest, "data": digest_of(self.lesson.examples, asked.judged[0]),
            "settings": asked_for(wanted),
        }  # fmt: skip
        self.more = [] if asked.unlabelled is None else pseudo.checked(asked.unlabelled, asked.pseudo_threshold, self.lesson.problem)  # fmt: skip
        if self.back is not None:
            self.question["translators"] = self.back.key
        if self.more:
            self.question["unlabelled"] = [digest_of(self.more), asked.pseudo_threshold]
        if asked.stream is not None:
            self.question["stream"] = stream_told(asked)

    def job(self, tick: Tick, learn: Callable[..., Any]) -> Job:
        asked, begun = self.asked, self.begun
        added, expansion = self.expanded(tick, learn) if self.more else ([], {})
        examples = [*self.lesson.examples, *added]
        pipe = Pipeline(begun.task, begun.plan, engines=Engines(begun.model))
        known = begun.task.references([e.reference for e in examples])
        judged, name = asked.judged
        part = evaluation(pipe, judging(pipe, list(judged), asked.sources[1], name, varied=False)) if judged else None
        if part is not None and not part.labelled:
            raise DataError(f"{name}: most rows have no label, so that nothing can be judged by them")
        values = [begun.task.normalise(e.input) for e in examples]
        held = (part.values, part.references or ()) if part else ((), ())
        never = expansion.get("never") or []
        said = [
            *([self.lesson.said] if self.lesson.said else []), *([pseudo.one_sided(never)] if never else []),
            *of_first_rows(asked, warnings(values, known, begun.model.labels, held[0], self.lesson.problem, held[1])),
        ]  # fmt: skip
        loss = loss_of(asked.settings, self.lesson.problem, known, begun.model)
        return Job(
            begun.module, pipe, self.feed(values, known), loss, asked.settings, self.question, (part, name), said, len(values),
            asked.read_s, expansion, self.back,
        )  # fmt: skip

    def feed(self, values: Sequence[Any], known: Sequence[Any]) -> Feed:
        wanted, batch = self.asked.settings, least_batch(self.begun.module, self.asked.settings)
        if self.asked.stream is not None:
            return Stream(self.asked.stream, self.learnt, batch=batch)
        return Rows(values, targets_of(known, self.begun.model), balance=wanted.balance, batch=batch)

    def learnt(self, examples: Sequence[Example], first: int) -> tuple[list[Any], Any]:
        """Values and targets of some rows of a stream, whose labels are read as those of its first rows were."""
        task, values, known = self.begun.task, [], []
        read = task.reader([e.reference for e in self.lesson.examples])
        for number, example in enumerate(examples, first + 1):
            try:
                if not labelled(example.reference, self.lesson.problem):
                    raise DataError("no label")
                known.append(read(example.reference))
                values.append(task.normalise(example.input))
            except DataError as error:
                del known[len(values) :]
                refuse(str(error), example, number, self.asked.sources[0], self.asked.name, "unknown label")
        return values, targets_of(known, self.begun.model)

    def expanded(self, tick: Tick, learn: Callable[..., Any]) -> tuple[list[Example], dict[str, Any]]:
        """Unlabelled examples with the labels of a first model, which learns from the labelled ones alone."""
        asked = self.asked

        def first(folder: Path, told: Tick) -> Any:
            alone = replace(asked, out=folder, examples=self.lesson.examples, unlabelled=None, read_s=0.0)
            return learn(Classification(alone), folder, progress=told)

        others = [*self.lesson.examples, *asked.judged[0]]
        return pseudo.labelled(first, asked.out, self.more, others, asked.pseudo_threshold, tick)


def loss_of(wanted: Settings, problem: str, references: Sequence[Any], model: Model) -> Loss:
    weights = None
    if wanted.class_weights == "balanced":
        if problem != "single_label_classification":
            raise InputError("balanced class weights are for single labels")
        weights = balanced(references, len(model.labels))
    return loss_for(problem, wanted.loss, label_smoothing=wanted.label_smoothing, class_weights=weights)


def _held_only(asked: Asked) -> None:
    """What needs all examples in memory does not go with a stream."""
    wanted = asked.settings
    needs = {
        "balance": wanted.balance, "balanced class weights": wanted.class_weights, "pseudo-labels": asked.unlabelled is not None,
        back_translation.NAME: wanted.augment.get(back_translation.NAME), "train linear": linear.is_linear(asked.model),
    }  # fmt: skip
    if found := [name for name, asked_for_ in needs.items() if asked_for_]:
        raise InputError(f"{found[0]} needs all examples in memory, and a stream is not held there; leave --stream out")
