"""A chain of models: what one answers is what the next one is asked, such as speech -> text -> intent.

Each stage is a pipeline of its own, with its task, model, engines and plan; the sections of the chain's plan are named
by stage: `asr.forward`. The answers, and how they are judged, are those of the last stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Batch, Change, Example, Knob, Outputs, Pipeline, Plan, Recorder, Step, Task

MOST = 8  # stages


class ChainModel:
    """What shared code asks of a model, of all the stages' together."""

    format, is_linear, crossed = "chain", False, False

    def __init__(self, parts: Mapping[str, Pipeline], source: str = "", path: Path = Path()):
        self.parts, self.source, self.path = dict(parts), source, path
        self.config: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}

    @property
    def last(self) -> Pipeline:
        return list(self.parts.values())[-1]

    @property
    def name(self) -> str:
        return self.source or " -> ".join(part.model.name for part in self.parts.values())

    @property
    def digest(self) -> str:
        told = "\0".join(f"{name}\0{part.model.digest}" for name, part in self.parts.items())
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def trust_remote_code(self) -> bool:
        return any(part.model.trust_remote_code for part in self.parts.values())

    @property
    def labels(self) -> list[str]:
        return list(self.last.model.labels)

    @property
    def problem_type(self) -> str:
        return str(self.last.model.problem_type)

    @property
    def weight_files(self) -> list[Path]:
        return [file for part in self.parts.values() for file in part.model.weight_files]


class ChainEngines:
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
        raise EngineError("a chain has an engine for each of its stages, and none of its own")

    lease = model_for = store = get

    def built(self, settings: Any) -> None:
        return None

    def close(self) -> None:
        for pool in self.pools:
            pool.close()


class StageStep:
    """One stage: answers what came in, and hands the answers' texts or labels on; the last one's outputs are the chain's."""

    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("input", "outputs")
    knobs: tuple[Knob, ...] = ()

    def __init__(self, name: str, pipe: Pipeline, last: bool):
        self.name, self.pipe, self.last = name, pipe, last

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        values = [self.pipe.task.normalise(value) for value in batch["input"]]
        outputs = self.pipe.through(Batch(len(values), {"input": values}), recorder)
        if self.last:
            return batch.with_(outputs=outputs)
        return batch.with_(input=[said(answer) for answer in self.pipe.task.answers(outputs)])


def said(answer: Any) -> str:
    """An answer as the next stage is asked it: the text that was made, or the label."""
    found = answer.text if hasattr(answer, "text") else answer.label
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


class Chain(Task):
    name = "chain"
    strategy = "greedy"
    layered = False

    def __init__(self, model: ChainModel, metric: str | None = None):
        if metric is not None:
            raise InputError("a chain is judged as its last stage is; give that stage's metric in the chain's file")
        super().__init__(model)
        first = next(iter(model.parts.values())).task
        self.sizes = replace(first.sizes, window=min(part.task.sizes.window for part in model.parts.values()))
        self.sorts = dict(self._all(lambda part: part.task.sorts))
        self.agrees, self.compared, self.files = self.last.agrees, self.last.compared, first.files
        self.modality, self.classifies = first.modality, self.last.classifies

    @property
    def last(self) -> Task:
        return self.model.last.task  # type: ignore[no-any-return]

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

    def normalise(self, value: Any) -> Any:
        return next(iter(self.model.parts.values())).task.normalise(value)

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        parts = self.parts(plan)
        return [StageStep(name, part, name == list(parts)[-1]) for name, part in parts.items()]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return dict(self._all(lambda part: part.task.knobs()))

    def stock(self) -> Mapping[str, Mapping[str, Any]]:
        return dict(self._all(lambda part: part.task.stock()))

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        raise InputError("a chain is not learnt as a whole: train its stages")

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

    # -- answers and scores are the last stage's

    def answers(self, outputs: Outputs) -> list[Any]:
        return self.last.answers(outputs)

    def metric(self) -> str:
        return self.last.metric()

    def prepared(self, example: Example) -> Example:
        return example

    def has_label(self, value: Any) -> bool | None:
        return self.last.has_label(value)

    def reader(self, column: Iterable[Any]) -> Any:
        return self.last.reader(column)

    def references(self, raw: Iterable[Any]) -> list[Any]:
        return self.last.references(raw)

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> Any:
        return self.last.scores(outputs, references)

    def bounds(self) -> tuple[float, float] | None:
        return self.last.bounds()

    def agreement(self, outputs: Outputs, baseline: Outputs) -> Any:
        return self.last.agreement(outputs, baseline)

    def divergence(self, outputs: Outputs, others: Outputs) -> Any:
        return self.last.divergence(outputs, others)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return self.last.as_references(outputs)

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> Any:
        return self.last.argmax_equal(outputs, others)

    def close(self, outputs: Outputs, others: Outputs, within: float) -> Any:
        return self.last.close(outputs, others, within)

    def probabilities(self, outputs: Outputs) -> Any:
        return self.last.probabilities(outputs)

    def beside(self, outputs: Outputs, references: Sequence[Any]) -> dict[str, float]:
        return self.last.beside(outputs, references)


def chain(
    parts: Mapping[str, Pipeline], plan: Plan | None = None, *, source: str = "", path: Path = Path()
) -> Pipeline:
    """The pipelines one after the other. plan: of the chain, with sections by stage; else each as it is."""
    if not 2 <= len(parts) <= MOST:
        raise InputError(f"a chain has 2 to {MOST} stages, not {len(parts)}")
    if wrong := next((name for name in parts if not name.isidentifier()), None):
        raise InputError(f"a stage is named by a word such as asr, not {wrong!r}")
    model = ChainModel(parts, source, path)
    own = {f"{stage}.{step}": dict(knobs) for stage, part in parts.items() for step, knobs in part.plan.items()}
    return Pipeline(Chain(model), plan or Plan(own), engines=ChainEngines(parts))
