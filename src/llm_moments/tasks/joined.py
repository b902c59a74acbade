"""Several models that answer as one: what a chain of them and models side by side have in common.

Each stage is a pipeline of its own, with its task, model, engines and plan; the sections of the plan of all are named
by stage: `asr.forward`. One of the stages judges: the answers, and how they are scored, are those of its task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Change, Example, Knob, Outputs, Pipeline, Plan, Task

MOST = 8  # stages


class JoinedModel:
    """What shared code asks of a model, of all the stages' together."""

    format, is_linear, crossed = "chain", False, False
    between = " -> "

    def __init__(self, parts: Mapping[str, Pipeline], source: str = "", path: Path = Path()):
        self.parts, self.source, self.path = dict(parts), source, path
        self.config: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}

    @property
    def judge(self) -> Pipeline:
        """The stage whose labels and scores are those of all."""
        return list(self.parts.values())[-1]

    @property
    def name(self) -> str:
        return self.source or self.between.join(part.model.name for part in self.parts.values())

    @property
    def digest(self) -> str:
        told = "\0".join([*(f"{name}\0{part.model.digest}" for name, part in self.parts.items()), *self.told])
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def told(self) -> list[str]:
        """What else than the models decides answers."""
        return []

    @property
    def trust_remote_code(self) -> bool:
        return any(part.model.trust_remote_code for part in self.parts.values())

    @property
    def labels(self) -> list[str]:
        return list(self.judge.model.labels)

    @property
    def problem_type(self) -> str:
        return str(self.judge.model.problem_type)

    @property
    def weight_files(self) -> list[Path]:
        return [file for part in self.parts.values() for file in part.model.weight_files]


class JoinedEngines:
    """The pools of all stages; each stage asks its own."""

    def __init__(self, parts: Mapping[str, Pipeline]):
        self.pools = [part.engines for part in parts.values()]
        self.calibration: list[Any] = []
        self.variants: dict[str, Any] = {}

    @property
    def device(self) -> str:
        return str(self.pools[0].device)

    @property
    def cache(self) -> Path:
        return Path(self.pools[0].cache)

    @cache.setter
    def cache(self, folder: Path) -> None:
        for pool in self.pools:
            pool.cache = folder

    def get(self, settings: Any) -> Any:
        raise EngineError("several models have an engine each, and none together")

    lease = model_for = store = get

    def built(self, settings: Any) -> None:
        return None

    def close(self) -> None:
        for pool in self.pools:
            pool.close()


class Joined(Task):
    strategy = "greedy"
    layered = False

    def __init__(self, model: JoinedModel, metric: str | None = None):
        if metric is not None:
            raise InputError(f"a {self.name} is judged as one of its stages is; give that stage's metric in their file")
        super().__init__(model)
        first = next(iter(model.parts.values())).task
        self.sizes = replace(first.sizes, window=min(part.task.sizes.window for part in model.parts.values()))
        self.sorts = dict(self._all(lambda part: part.task.sorts))
        self.agrees, self.compared, self.files = self.judge.agrees, self.judge.compared, first.files
        self.modality, self.classifies = first.modality, self.judge.classifies

    @property
    def judge(self) -> Task:
        return self.model.judge.task  # type: ignore[no-any-return]

    def _all(self, told: Any) -> Iterator[tuple[str, Any]]:
        """(name with its stage, value) of what each stage tells of itself."""
        for stage, part in self.model.parts.items():
            for name, value in told(part).items():
                yield f"{stage}.{name}", value

    def of_stage(self, stage: str, plan: Plan) -> Pipeline:
        """The stage as the chain's plan has it."""
        part: Pipeline = self.model.parts[stage]
        return Pipeline(part.task, plan.section(stage), engines=part.engines)

    def parts(self, plan: Plan) -> Mapping[str, Pipeline]:
        return {stage: self.of_stage(stage, plan) for stage in self.model.parts}

    # -- the pipeline

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return dict(self._all(lambda part: part.task.knobs()))

    def stock(self) -> Mapping[str, Mapping[str, Any]]:
        return dict(self._all(lambda part: part.task.stock()))

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        raise InputError(f"a {self.name} is not learnt as a whole: train its stages")

    # -- what else may be chosen: of each stage what it would be offered alone

    def changes(self, plan: Plan) -> list[Change]:
        return self._of_stages(plan, lambda task, own: task.changes(own))

    def alternatives(self, plan: Plan) -> list[Change]:
        return self._of_stages(plan, lambda task, own: task.alternatives(own))

    def _of_stages(self, plan: Plan, told: Any) -> list[Change]:
        return [
            Change(
                f"{stage}: {one.name}",
                {f"{stage}.{k}": v for k, v in one.choices.items()},
                one.lossless,
                f"{stage}.{one.step}",
            )
            for stage, part in self.model.parts.items()
            for one in told(part.task, plan.section(stage))
        ]

    # -- answers and scores are those of one stage

    def answers(self, outputs: Outputs) -> list[Any]:
        return self.judge.answers(outputs)

    def metric(self) -> str:
        return self.judge.metric()

    def prepared(self, example: Example) -> Example:
        return example

    def has_label(self, value: Any) -> bool | None:
        return self.judge.has_label(value)

    def reader(self, column: Iterable[Any]) -> Any:
        return self.judge.reader(column)

    def references(self, raw: Iterable[Any]) -> list[Any]:
        return self.judge.references(raw)

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> Any:
        return self.judge.scores(outputs, references)

    def bounds(self) -> tuple[float, float] | None:
        return self.judge.bounds()

    def agreement(self, outputs: Outputs, baseline: Outputs) -> Any:
        return self.judge.agreement(outputs, baseline)

    def divergence(self, outputs: Outputs, others: Outputs) -> Any:
        return self.judge.divergence(outputs, others)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return self.judge.as_references(outputs)

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> Any:
        return self.judge.argmax_equal(outputs, others)

    def close(self, outputs: Outputs, others: Outputs, within: float) -> Any:
        return self.judge.close(outputs, others, within)

    def probabilities(self, outputs: Outputs) -> Any:
        return self.judge.probabilities(outputs)

    def beside(self, outputs: Outputs, references: Sequence[Any]) -> dict[str, float]:
        return self.judge.beside(outputs, references)


def whole(task: type[Joined], model: JoinedModel, plan: Plan | None = None) -> Pipeline:
    """All stages as one pipeline. plan: of all, with sections by stage; else each as it is."""
    parts = model.parts
    if not 2 <= len(parts) <= MOST:
        raise InputError(f"a {task.name} has 2 to {MOST} stages, not {len(parts)}")
    if wrong := next((name for name in parts if not name.isidentifier()), None):
        raise InputError(f"a stage is named by a word such as asr, not {wrong!r}")
    own = {f"{stage}.{step}": dict(knobs) for stage, part in parts.items() for step, knobs in part.plan.items()}
    return Pipeline(task(model), plan or Plan(own), engines=JoinedEngines(parts))
