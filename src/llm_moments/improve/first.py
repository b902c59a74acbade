"""A linear model in front: trained within a search on examples set apart, offered as the cheap stage of a cascade.

It is other weights for the same task (`forward.weights`) that bring their own features along, so that a cascade's
cheap stage can be a whole other model, and the plan stays plain data.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_moments.core import Pipeline
from llm_moments.engines.base import Engines
from llm_moments.errors import InputError, MomentsError
from llm_moments.evaluation import Evaluation
from llm_moments.improve.study import Study
from llm_moments.model import NOTES, open_model
from llm_moments.train import linear
from llm_moments.train.fit import Job, fit, made_way
from llm_moments.train.fit import plain as plain_data
from llm_moments.train.loop import Settings
from llm_moments.train.losses import loss_for
from llm_moments.train.problem import targets_of
from llm_moments.train.weather import plain

NAME = "linear"  # of the weights, and of what may be put first


def check(first: Any, pipe: Pipeline) -> None:
    """InputError where no such stage can be put before this model."""
    if first != NAME:
        raise InputError(f"what can be put first is {NAME}, not {first!r}")
    if pipe.task.name != "text-classification" or pipe.model.is_linear:
        raise InputError(
            f"a linear model of words can be put before a classifier of texts, not before {pipe.model.name}"
        )
    if not pipe.task.has_margins(pipe.model):
        raise InputError("a regression says nothing of how sure it is, so that no model can be put first")


class First:
    """Called, it trains the linear model and makes it known to the pipeline; gives the name of the weights, or
    nothing where it could not be made. folder: where they stay with the study; without one they go with the process.
    """

    def __init__(
        self, pipe: Pipeline, study: Study, taught: Evaluation, judged: list[Evaluation], folder: Path | None,
        tick: Callable[[float | None, str], None],
    ):  # fmt: skip
        self.pipe, self.study, self.tick = pipe, study, tick
        known = {plain(value) for part in judged for value in part.values}
        self.taught = taught.take([at for at, value in enumerate(taught.values) if plain(value) not in known])
        self._scratch = None if folder else tempfile.TemporaryDirectory(prefix="llm-moments-")
        self.folder = (folder or Path(self._scratch.name if self._scratch else "")) / "weights" / NAME
        self._known()

    def __call__(self, teacher: Pipeline) -> str:
        """teacher: answers where the examples have no labels."""
        begin = time.monotonic()
        try:
            if not self._known():
                self._learnt(teacher)
        except MomentsError as error:
            self.study.note("first", f"no linear model was put first: {error}")
            return ""
        seconds = round(time.monotonic() - begin, 1)
        self.study.note("first", {"seconds": seconds, "examples": len(self.taught)})
        return NAME if self._known() else ""

    def _learnt(self, teacher: Pipeline) -> None:
        """With the labels of the model that it is put before, in their order, even those that no example has."""
        references, model = self.taught.references, self.pipe.model
        if references is None:
            references = self.pipe.task.as_references(teacher.outputs(self.taught.values), model)
        wanted = Settings(**linear.settings_for({}))
        task, module, described, plan = linear.begun(
            NAME, self.taught.values, model.labels, model.problem_type, {}, own_labels=False
        )
        pipe = Pipeline(task, described, plan, engines=Engines(described))
        question = {"model": described.digest, "settings": plain_data(asdict(wanted)), "before": model.digest}
        if made_way(self.folder, question, self.folder.exists()) is None:
            job = Job(
                module, pipe, self.taught.values, targets_of(references, described), loss_for(model.problem_type), wanted,
                question,
            )  # fmt: skip
            fit(job, self.folder, device="cpu", progress=lambda _, said: self.tick(None, f"a linear model: {said}"))

    def _known(self) -> bool:
        if not (self.folder / NOTES).exists():
            return False
        model = open_model(self.folder)
        self.pipe.engines.variants[NAME] = model
        return True
