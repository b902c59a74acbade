"""Pipeline: a task bound to its model, and a plan. No engine is imported here."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, InputError, PlanError, RowsFailed, Unfinished
from llm_moments.core.example import Batch, Example
from llm_moments.core.knob import Knob, Step, UsesEngine
from llm_moments.core.outputs import Outputs, concat
from llm_moments.core.plan import Plan, closest
from llm_moments.core.recorder import NULL, Recorder
from llm_moments.core.task import Task

MOST_STAGES = 3  # of a cascade
SEVERAL = "list(pipe.run(inputs)) answers each of them"


def _at(rows: np.ndarray, outputs: Callable[[], Outputs]) -> Outputs:
    """The outputs of some rows; those that the model fails on by their places among all."""
    try:
        return outputs()
    except RowsFailed as failed:
        raise failed.moved(lambda row: int(rows[row])) from failed


class Pipeline:
    """A task of a model, and a plan. Immutable: `with_` gives another one that shares the loaded engines."""

    def __init__(self, task: Task, plan: Plan, *, engines: Any, steps: list[Step] | None = None):
        self.task, self.model, self.plan = task, task.model, plan
        self.engines = engines
        plan.check(task.knobs())
        if "cascade" in plan:
            self._check_cascade(plan["cascade"])
        self._steps = steps
        self._cheap: Pipeline | None = None

    def _check_cascade(self, choices: Mapping[str, Any], stages: int = 2) -> None:
        if not self.task.has_margins():
            raise PlanError(f"{self.model.name} is no model for a cascade: its answers do not say how sure they are")
        if stages > MOST_STAGES:
            raise PlanError(f"a cascade has at most {MOST_STAGES} stages")
        missing = [name for name in ("cheap", "threshold") if not choices.get(name) and choices.get(name) != 0]
        if missing:
            raise PlanError(
                f"a [cascade] needs {' and '.join(missing)}: cheap = {{'truncate.max_length' = 16}}, threshold = 1.5"
            )
        if wrong := [name for name in choices["cheap"] if "." not in name]:
            raise PlanError(
                f"impossible change {wrong[0]!r} in cascade.cheap: it holds quoted names such as 'truncate.max_length' = 16"
            )
        inner = {knob: choices["cheap"].get(f"cascade.{knob}") for knob in ("threshold", "cheap")}
        if any(value is not None for value in inner.values()):  # a stage before that one
            self._check_cascade(inner, stages + 1)
        self.plan.without("cascade").with_(**choices["cheap"]).check(self.task.knobs())

    def __repr__(self) -> str:
        return f"Pipeline({self.task.name}, {self.model.name}, {self.plan.to_dict()})"

    @property
    def steps(self) -> list[Step]:
        if self._steps is None:
            self._steps = self.task.steps(self.plan, self.engines)
        return list(self._steps)

    def with_(self, plan: Plan | None = None, /, **changes: Any) -> Pipeline:
        return Pipeline(self.task, (plan or self.plan).with_(**changes), engines=self.engines)

    def settled(self) -> Pipeline:
        """The same, with engine, precision and extent (tokens, pixels) in its plan where that leaves them to their
        defaults: who changes a plan one choice at a time must know what there is."""
        stock = Plan(self.task.stock())
        known = {f"forward.{knob.name}": knob.default for knob in self.task.knobs().get("forward", ())}
        names = ["forward.engine", "forward.precision"]
        if (extent := self.task.extent) is not None and stock.get_choice(extent.knob) is not None:
            known[extent.knob] = stock.get_choice(extent.knob)
            names.append(extent.knob)
        missing = {name: known[name] for name in names if name in known and self.plan.get_choice(name) is None}
        return self.with_(**missing) if missing else self

    def replace(self, name: str, step: Step) -> Pipeline:
        """The pipeline with another step in the place of the one called `name`."""
        steps = [step if old.name == name else old for old in self._named(name)]
        return Pipeline(self.task, self.plan, engines=self.engines, steps=steps)

    def without(self, name: str) -> Pipeline:
        steps = [old for old in self._named(name) if old.name != name]
        return Pipeline(self.task, self.plan, engines=self.engines, steps=steps)

    def _named(self, name: str) -> list[Step]:
        if name not in [step.name for step in self.steps]:
            raise InputError(f"no step {name!r}{closest(name, [s.name for s in self.steps])}")
        return self.steps

    @property
    def cheap(self) -> Pipeline | None:
        """What comes before the last stage of a cascade, if the plan has one: the same model with cheaper choices."""
        choices = self.plan.settings("cascade")
        if choices and self._cheap is None:
            self._cheap = self.with_(self.plan.without("cascade"), **choices["cheap"])
        return self._cheap

    def __call__(self, value: Any) -> Any:
        """The answer to one input. InputError for several of them, which `run` takes."""
        if isinstance(value, list) and len(value) and all(isinstance(one, str) for one in value):
            raise InputError(f"one input, not a list of {len(value)}: {SEVERAL}. A pair of texts is a tuple")
        try:
            return next(self.run([value]))
        except DataError as error:
            if isinstance(value, list | tuple):
                raise DataError(f"{error}. Were several inputs meant: {SEVERAL}") from error
            raise

    def stream(self, value: Any) -> Any:
        """The answer to one input as an iterator of its pieces (`record.stream.Stream`); together they are its text, and
        `close` ends it early. InputError for a task that makes no text."""
        return import_module("llm_moments.record.stream").Stream(self, value)

    @property
    def window(self) -> int:
        """How many inputs `run` holds at a time: they are tokenized, sorted and batched together."""
        held = int(self.plan.settings("batch").get("window", self.task.sizes.window))
        return max(held, int(self.plan.settings("forward").get("streams", 1)))

    def run(self, inputs: Iterable[Any], recorder: Recorder = NULL, window: int | None = None) -> Iterator[Any]:
        """Answers in the order of the inputs, which may be endless; `window` bounds what is held."""
        source, window, before = iter(inputs), window or self.window, 0
        while True:
            with recorder.step("read") as _:
                values = [x.input if isinstance(x, Example) else x for x in itertools.islice(source, window)]
                recorder.count(items=len(values))
            if not values:
                return
            try:
                outputs = self.outputs(values, recorder)
            except Unfinished as cut:  # what was answered until then is not lost
                if len(cut.outputs):
                    yield from self.task.answers(cut.outputs)
                raise
            except RowsFailed as failed:
                raise failed.moved(partial(operator.add, before)) from failed
            with recorder.step("postprocess", items=len(values)):
                answers = self.task.answers(outputs)
            yield from answers
            before += len(values)

    def outputs(self, values: Sequence[Any], recorder: Recorder = NULL) -> Outputs:
        """What the model says of each input, before it is made an answer: `logits` float32 [n, classes], or `text`."""
        values = [self.task.normalise(value) for value in values]
        return self.through(Batch(len(values), {"input": values}), recorder)

    def through(self, batch: Batch, recorder: Recorder) -> Outputs:
        """The outputs of a batch of inputs as the steps take them."""
        return self._staged(batch, recorder)[0]

    def _staged(self, batch: Batch, recorder: Recorder) -> tuple[Outputs, np.ndarray]:
        """Outputs, and the rows that came as far as the last stage: a stage after it would ask about those alone."""
        if self.cheap is None:
            return self._through(batch, recorder), np.arange(batch.size)
        with recorder.step("cascade", items=batch.size):
            outputs, open_ = self.cheap._staged(batch, recorder)
            asked = open_[self.task.margins(outputs[open_]) < self.plan["cascade"]["threshold"]]
            recorder.count(asked=len(asked))
        if len(asked):
            outputs = outputs.put(asked, _at(asked, partial(self.full.through, batch.take(asked), recorder)))
        return outputs, asked

    def _through(self, batch: Batch, recorder: Recorder) -> Outputs:
        """All steps, one after the other; some rows at a time where a task cannot hold them all (images)."""
        most = self.task.rows_at_once(batch, self.plan)
        if batch.size > most:
            parts = (np.arange(at, min(at + most, batch.size)) for at in range(0, batch.size, most))
            return concat([_at(r, partial(self._through_steps, batch.take(r), recorder)) for r in parts])
        return self._through_steps(batch, recorder)

    def _through_steps(self, batch: Batch, recorder: Recorder) -> Outputs:
        for step in self.steps:
            with recorder.step(step.name, items=batch.size):
                batch = step(batch, recorder)
        outputs: Outputs = batch["outputs"]
        return outputs.told(batch.details)

    def arrays(self, values: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """The padded arrays that the forward step would be given: one dict a batch."""
        batch = Batch(len(values), {"input": [self.task.normalise(value) for value in values]})
        for step in self.steps:
            if step.name == "forward":
                break
            batch = step(batch, NULL)
        return [fields for _, fields in batch["batches"]]

    @property
    def engine_settings(self) -> dict[str, Any]:
        """What the engine of its forward step is opened with: the plan's choices, and what the task adds to them."""
        for step in self.steps:
            if step.name == "forward" and isinstance(step, UsesEngine):
                return dict(step.settings)
        return self.plan.settings("forward")

    @cached_property
    def full(self) -> Pipeline:
        """The pipeline without its cascade: the stage that is asked where the cheap one is unsure."""
        if self.cheap is None:
            return self
        return self.with_(self.plan.without("cascade"))

    @property
    def stages(self) -> list[Pipeline]:
        """The pipelines without a cascade that a row may come to, in that order."""
        return [self] if self.cheap is None else [*self.cheap.stages, self.full]

    @property
    def parts(self) -> dict[tuple[str, ...], Pipeline]:
        """The pipelines that have one engine each, by where their steps lie in a recording: the stages of a cascade below
        as many `cascade`s as come after them, those of a chain below its name."""
        found = self.task.parts(self.plan)
        if found:
            return {(name, *where): one for name, part in found.items() for where, one in part.parts.items()}
        last = len(self.stages) - 1
        return {("cascade",) * (last - at): stage for at, stage in enumerate(self.stages)}

    def save(self, path: Any, *, overwrite: bool = False) -> Any:
        return import_module("llm_moments.assembly.artefact").save(self, path, overwrite=overwrite)

    def close(self) -> None:
        self.engines.close()


def knobs_of(pipe: Pipeline) -> dict[str, Knob]:
    """Every knob of the pipeline's task by its whole name, in the order of the steps."""
    return {f"{step}.{knob.name}": knob for step, knobs in pipe.task.knobs().items() for knob in knobs}


def chosen(pipe: Pipeline, knobs: Mapping[str, Knob]) -> dict[str, Any]:
    """What the plan says of each knob or, where it says nothing, the knob's default."""
    said = {name: pipe.plan.get_choice(name) for name in knobs}
    return {name: knobs[name].default if value is None else value for name, value in said.items()}
