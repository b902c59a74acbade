"""Classifiers side by side: each answers the same row, and the mean of their probabilities decides.

The first of them judges; the others may know the same labels in another order. Where a row has several columns (`text`,
`image`), a stage may be given one of them: `input = "image"`. A search may leave stages out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Batch, Change, Knob, Outputs, Pipeline, Plan, Recorder, Step
from llm_moments.data.labels import MULTI, REGRESSION
from llm_moments.tasks.joined import Joined, JoinedModel, whole

FUSE = "fuse"
LEAST = 1e-30  # a probability that a float32 logarithm still holds


class FusionModel(JoinedModel):
    """weights: of the stages' probabilities, by stage; inputs: the column of a row that a stage is given, by stage."""

    between = " + "

    def __init__(
        self, parts: Mapping[str, Pipeline], source: str = "", path: Path = Path(), *,
        weights: Mapping[str, float] | None = None, inputs: Mapping[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(parts, source, path)
        self.weights = {stage: float((weights or {}).get(stage, 1.0)) for stage in parts}
        self.inputs = {stage: column for stage, column in (inputs or {}).items() if column}
        for told, what in ((weights, "weight"), (inputs, "input")):
            if unknown := [stage for stage in told or () if stage not in parts]:
                raise InputError(f"{what} of {unknown[0]!r}: there is no such stage")
        if self.inputs and (left := [stage for stage in parts if stage not in self.inputs]):
            raise InputError(f"{left[0]} is given no column of a row, and others are: name the input of each stage")
        if wrong := [stage for stage, weight in self.weights.items() if not (np.isfinite(weight) and weight > 0)]:
            raise InputError(f"the weight of {wrong[0]} is a number above 0, not {self.weights[wrong[0]]!r}")

    @property
    def judge(self) -> Pipeline:
        return next(iter(self.parts.values()))

    @property
    def told(self) -> list[str]:
        return [f"{stage} {self.weights[stage]!r} {self.inputs.get(stage, '')}" for stage in self.parts]


class Side:
    """One stage of several: writes its outputs beside those of the others."""

    reads: tuple[str, ...] = ("input",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, name: str, pipe: Pipeline, column: str):
        self.name, self.pipe, self.column = name, pipe, column
        self.writes: tuple[str, ...] = (f"of {name}",)

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        values = [given(value, self.column) for value in batch["input"]]
        values = [self.pipe.task.normalise(value) for value in values]
        return batch.with_(**{f"of {self.name}": self.pipe.through(Batch(len(values), {"input": values}), recorder)})


class Fuse:
    """Writes `outputs`: float32 logits [n, classes] of the weighted mean of probabilities, in the judge's order of labels;
    of a regression the mean of the numbers."""

    name = FUSE
    writes: tuple[str, ...] = ("outputs",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, model: FusionModel, parts: Mapping[str, Pipeline]):
        self.parts, self.kind = parts, model.problem_type
        self.reads = tuple(f"of {stage}" for stage in parts)
        self.weights = np.array([model.weights[stage] for stage in parts])
        self.orders = {
            stage: [list(part.model.labels).index(name) for name in model.labels] for stage, part in parts.items()
        }

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        told = [
            part.task.probabilities(batch[f"of {stage}"])[:, self.orders[stage]] for stage, part in self.parts.items()
        ]
        mean = np.average(told, axis=0, weights=self.weights)
        if self.kind == MULTI:
            mean = np.log(mean.clip(LEAST)) - np.log((1 - mean).clip(LEAST))
        elif self.kind != REGRESSION:
            mean = np.log(mean.clip(LEAST))
        return batch.with_(outputs=Outputs({"logits": mean.astype(np.float32)}))


def given(value: Any, column: str) -> Any:
    """What a stage is given of a row. DataError for a row without its column."""
    if not column:
        return value
    if not isinstance(value, Mapping) or column not in value:
        raise DataError(f"there is no {column!r} in the row {value!r:.80}")
    return value[column]


class Fusion(Joined):
    name = "fusion"

    def __init__(self, model: FusionModel, metric: str | None = None):
        super().__init__(model, metric)
        judge = model.judge.model
        for stage, part in model.parts.items():
            if not part.task.classifies:
                raise InputError(
                    f"{stage}: models side by side are classifiers, and {part.model.name} is for {part.task.name}"
                )
            if part.model.problem_type != model.problem_type or sorted(part.model.labels) != sorted(judge.labels):
                raise InputError(f"{stage}: {part.model.name} has other labels than {judge.name}")

    def normalise(self, value: Any) -> Any:
        """Of rows with columns those that the stages are given, else what all of them take."""
        parts, inputs = self.model.parts, self.model.inputs
        if not inputs:
            return self.judge.normalise(value)
        return {column: parts[stage].task.normalise(given(value, column)) for stage, column in inputs.items()}

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        stages = list(self.model.parts)

        def some(value: Any) -> bool:
            return (
                isinstance(value, list) and bool(value) and len(set(value)) == len(value) and set(value) <= set(stages)
            )

        return {**super().knobs(), FUSE: (Knob("stages", stages, (), False, some, f"some of {stages}"),)}

    def parts(self, plan: Plan) -> Mapping[str, Pipeline]:
        """The stages that are not left out, in their order."""
        wanted = plan.settings(FUSE).get("stages") or list(self.model.parts)
        return {stage: part for stage, part in super().parts(plan).items() if stage in wanted}

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        parts = self.parts(plan)
        sides: list[Step] = [Side(stage, part, self.model.inputs.get(stage, "")) for stage, part in parts.items()]
        return [*sides, Fuse(self.model, parts)]

    def changes(self, plan: Plan) -> list[Change]:
        """Stages left out first: nothing makes a plan as much cheaper."""
        there = list(self.parts(plan))
        fewer = [
            Change(f"without {stage}", {f"{FUSE}.stages": [one for one in there if one != stage]}, False, FUSE)
            for stage in there
            if len(there) > 1
        ]
        return [*fewer, *(c for c in super().changes(plan) if _stage(c) in there)]

    def alternatives(self, plan: Plan) -> list[Change]:
        there = list(self.parts(plan))
        own = [change for change in self.changes(plan) if change.kind == FUSE]
        return [*own, *(c for c in super().alternatives(plan) if _stage(c) in there)]


def _stage(change: Change) -> str:
    return next(iter(change.choices)).partition(".")[0]


def fusion(
    parts: Mapping[str, Pipeline], plan: Plan | None = None, *, weights: Mapping[str, float] | None = None,
    inputs: Mapping[str, str] | None = None, source: str = "", path: Path = Path(),
) -> Pipeline:  # fmt: skip
    """The pipelines side by side. plan: of all, with sections by stage; weights, inputs: as `FusionModel` has them."""
    return whole(Fusion, FusionModel(parts, source, path, weights=weights, inputs=inputs), plan)
