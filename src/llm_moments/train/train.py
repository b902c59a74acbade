"""`train`: the arm of the loop that changes the model, on the same steps that later run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Pipeline
from llm_moments.engines.base import Engines
from llm_moments.evaluate.evaluation import evaluation, gather, judging, opened
from llm_moments.models.model import Model
from llm_moments.train import back_translation, linear, pseudo
from llm_moments.train.augment import check as check_augment
from llm_moments.train.data_checks import warnings
from llm_moments.train.fit import Job, Tick, Training, digest_of, fit, made_way, plain, run_folder
from llm_moments.train.loop import Loop
from llm_moments.train.losses import Loss, balanced, loss_for
from llm_moments.train.problem import lesson_of, targets_of
from llm_moments.train.settings import Settings
from llm_moments.train.start import head_of, start
from llm_moments.train.train_sequences import TASKS as SEQUENCES
from llm_moments.train.train_sequences import is_sequences, train_sequences


def train(
    model: str | Path,
    data: Any,
    out: str | Path,
    *,
    evaluate: Any = None,
    overwrite: bool = False,
    progress: Tick | None = None,
    device: str = "auto",
    on_update: Callable[[Loop], None] | None = None,
    read: Mapping[str, Any] | None = None,
    unlabelled: Any = None,
    pseudo_threshold: float = 0.95,
    task: str | None = None,
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
    try:
        wanted = Settings(**settings)
    except TypeError as error:
        raise InputError(str(error).replace("Settings.__init__() ", "train ")) from error
    begin = time.perf_counter()
    data, evaluate = opened(data, **(read or {})), opened(evaluate, **(read or {}))
    examples, name = gather(data)
    read_s = time.perf_counter() - begin
    judged = gather(evaluate) if evaluate is not None else ([], "")
    if wanted.early_stopping and not judged[0]:
        raise InputError("early stopping needs examples to judge by: --eval")
    out = Path(out)
    if is_sequences(model, data, task):
        if unlabelled is not None:
            raise InputError("labels for unlabelled rows are given by classifiers only")
        return train_sequences(
            model, examples, name, out, wanted, task=task, judged=judged, sources=(data, evaluate), read_s=read_s, overwrite=overwrite,
            progress=progress, device=device, on_update=on_update,
        )  # fmt: skip
    if task not in (None, "text-classification", "image-classification"):
        raise InputError(f"the task {task!r} is not learnt here; {', '.join(SEQUENCES)} and classification are")
    if wanted.pack or wanted.choices:
        raise InputError(
            "packing and choices of a plan are for models that make texts: --task chat, text-generation, translation"
        )
    back = back_translation.begun(wanted, run_folder(out))
    if back is not None and not wanted.augment.get(back_translation.NAME):
        raise InputError(f"two translating models say nothing without --augment {back_translation.NAME}=0.3")
    lesson = lesson_of(examples, name, None if wanted.new_head else head_of(model), data)
    examples, labels, problem, head = lesson.examples, lesson.labels, lesson.problem, lesson.said
    references = [e.reference for e in examples]
    begun = start(model, [e.input for e in examples], labels, problem, wanted)
    kind, module, described = begun.task, begun.module, begun.model
    check_augment(wanted.augment, wanted.balance, kind, problem)
    question = {"model": described.digest, "data": digest_of(examples, judged[0]), "settings": plain(asdict(wanted))}
    more = [] if unlabelled is None else pseudo.checked(unlabelled, pseudo_threshold, problem)
    if back is not None:
        question["translators"] = back.key
    if more:
        question["unlabelled"] = [digest_of(more), pseudo_threshold]
    if (finished := made_way(out, question, overwrite)) is not None:
        return finished
    expansion: dict[str, Any] = {}
    if more:

        def first(folder: Path, tick: Tick) -> Training:
            return train(
                model, labelled, folder, evaluate=judged[0] or None, device=device, progress=tick, **settings
            )  # fmt: skip

        labelled = examples
        added, expansion = pseudo.labelled(
            first, out, more, [*examples, *judged[0]], pseudo_threshold, progress or (lambda done, message: None)
        )
        examples = [*examples, *added]
        references = [e.reference for e in examples]
    pipe = Pipeline(kind, begun.plan, engines=Engines(described))
    known = kind.references(references)
    part = evaluation(pipe, judging(pipe, judged[0], evaluate, judged[1], varied=False)) if judged[0] else None
    if part is not None and not part.labelled:
        raise DataError(f"{judged[1]}: most rows have no label, so that nothing can be judged by them")
    values = [kind.normalise(e.input) for e in examples]
    held = (part.values, part.references or ()) if part else ((), ())
    never = expansion.get("never") or []
    said = (
        [head] * bool(head)
        + [pseudo.one_sided(never)] * bool(never)
        + warnings(values, known, described.labels, held[0], problem, held[1])
    )
    loss = loss_of(wanted, problem, known, described)
    job = Job(
        module,
        pipe,
        values,
        targets_of(known, described),
        loss,
        wanted,
        question,
        (part, judged[1]),
        said,
        read_s,
        expansion,
        back,
    )
    return fit(job, out, progress=progress, device=device, on_update=on_update)


def loss_of(wanted: Settings, problem: str, references: Sequence[Any], model: Model) -> Loss:
    weights = None
    if wanted.class_weights == "balanced":
        if problem != "single_label_classification":
            raise InputError("balanced class weights are for single labels")
        weights = balanced(references, len(model.labels))
    return loss_for(problem, wanted.loss, label_smoothing=wanted.label_smoothing, class_weights=weights)
