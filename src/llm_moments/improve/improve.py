"""`improve`: which cheaper plan keeps the answers? One artefact with a certificate, or the baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_moments.assembly.load import load
from llm_moments.base.budget import seconds
from llm_moments.base.errors import InputError
from llm_moments.core import Pipeline
from llm_moments.data.readers import Data
from llm_moments.evaluate.evaluation import gather, split, split_to_ask
from llm_moments.evaluate.measure import OBJECTIVES
from llm_moments.improve import prefilter
from llm_moments.improve import questions as asked
from llm_moments.improve.asks import Asks
from llm_moments.improve.heal import without
from llm_moments.improve.improvement import Improvement
from llm_moments.improve.place import STUDY, make_way
from llm_moments.improve.run import Run
from llm_moments.improve.study import Study

Tick = Callable[[float | None, str], None]


def improve(
    model: Any,
    data: Any,
    *,
    max_drop: float = 0.01,
    objective: str = "throughput",
    budget: float | str = "10m",
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Tick | None = None,
    device: str = "auto",
    heal: Any = False,
    first: str | None = None,
    unlabelled: Any = None,
    questions: int = 100,
    answers: str | Path | None = None,
    **read: Any,
) -> Improvement:
    """Searches plans of a pipeline, model folder or artefact on the user's examples and certifies one.

    heal: also teach models of a third or half of the layers to answer as the baseline does, on a part of the examples, or,
    where heal is itself data (a path or examples, without labels if you like), on those.

    first: what is offered to the search as the cheap stage of a cascade: before a classifier of texts a linear model of
    words, trained on what the search judges by (each row is judged by weights that have not seen it), or "none".

    unlabelled: examples to certify on whose labels are asked for where the answers of both plans differ, and nowhere else:
    at most so many questions, in out/questions.csv. The same call goes on once they are answered there, or in the file
    `answers`. data may then be None, too.

    max_drop: most that the mean score may drop (1 = all). budget: seconds, or "90s", "10m", "1h".
    out: folder for the artefact; the study in it is gone on with by the same call after an interruption.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"unknown objective {objective!r}; known are {', '.join(OBJECTIVES)}")
    if not 0 < max_drop < 1:
        raise InputError(f"max_drop is a share between 0 and 1, such as 0.01, not {max_drop!r}")
    pipe = load(model, device=device).settled()
    if heal is not False and not pipe.task.heals:
        raise InputError(f"healing is for classifiers of texts and images that have layers, not for {pipe.task.name}")
    if first is not None:
        prefilter.check(first, pipe, objective)
    if data is None and unlabelled is None:
        raise InputError("give examples (--data), or some without labels to be asked about (--unlabelled)")
    examples, source = gather(data, judge=pipe, **read) if data is not None else ([], "")
    tick = progress or (lambda done, message: None)
    question = _question(pipe, examples, max_drop, objective)
    if heal is not False:
        question["heal"] = (
            "a part of the data" if heal is True else str(heal.path if isinstance(heal, Data) else heal)[:200]
        )
    if first is not None:
        question["first"] = first
    folder, asks = Path(out) if out is not None else None, None
    if unlabelled is not None:
        asks = _asks(pipe, folder, questions, answers)
        rows, asked_of = gather(unlabelled, **read)
        question |= {"unlabelled": _digest(rows), "questions": questions}
        source = " and ".join(filter(None, (source, asked_of)))
    if folder is not None:
        make_way(folder, overwrite)
    study = Study(folder / STUDY if folder else None, question)
    parts = (
        split(pipe, examples, heal=heal is True)
        if asks is None
        else split_to_ask(pipe, examples, rows, heal=heal is True)
    )
    whole = dict(parts)
    apart = parts.pop("heal", None)
    run = Run(pipe, parts, study, max_drop, objective, seconds(budget), tick, source, folder)
    run.asks = asks
    if heal is not False:
        taught = (
            apart.values
            if heal is True and apart is not None
            else [pipe.task.normalise(e.input) for e in gather(heal)[0]]
        )
        run.taught = without(taught, [*parts["search"].values, *parts["certify"].values])
    if first != prefilter.NONE and objective in prefilter.OBJECTIVES and prefilter.possible(pipe):
        run.first = prefilter.First(pipe, study, whole, folder and folder / STUDY, tick)
    return run.finish()


def _asks(pipe: Pipeline, folder: Path | None, most: int, answers: str | Path | None) -> Asks:
    asked.check(pipe)
    if folder is None:
        raise InputError("questions need a place: name one (--out)")
    if most < 1:
        raise InputError(f"at least one question must be allowed, not {most}")
    if answers is not None and not Path(answers).is_file():
        raise InputError(f"{answers}: there is no such file of answers")
    return Asks(folder / asked.FILE, most, Path(answers) if answers is not None else None)


def _digest(examples: Any) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.input, example.reference], default=str).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _question(pipe: Pipeline, examples: Any, max_drop: float, objective: str) -> dict[str, Any]:
    return {
        "model": pipe.model.digest, "plan": pipe.plan.key, "data": _digest(examples), "n": len(examples),
        "max_drop": max_drop, "objective": objective,
    }  # fmt: skip
