"""A chain of models: what one answers is what the next one is asked, such as speech -> text -> intent. The last one judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Batch, Knob, Outputs, Pipeline, Plan, Recorder, Step, Task
from llm_moments.tasks.joined import Joined, JoinedModel, whole


class StageStep:
    """One stage: answers what came in, and hands the answers' texts or labels on; the last one's outputs are the chain's."""

    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("input", "outputs")
    knobs: tuple[Knob, ...] = ()

    def __init__(self, name: str, pipe: Pipeline, last: bool):
        self.name, self.pipe, self.last = name, pipe, last

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        task, parted = self.pipe.task, batch.fields.get("parted")
        values = [task.normalise(value) for value in batch["input"]]
        outputs = self.pipe.through(Batch(len(values), {"input": values}), recorder) if values else None
        if parted is None and outputs is not None:
            batch = _cut(batch, outputs)
        if self.last:
            return batch.with_(outputs=outputs if parted is None else task.regrouped(outputs, parted, self.pipe.plan))
        if outputs is None:
            return batch
        with recorder.step("hand on", items=len(values)):
            several = task.handed(values, outputs)
            if several is None:
                return batch.with_(input=[said(answer) for answer in task.answers(outputs)])
        recorder.count(handed=sum(map(len, several)))
        return batch.with_(input=[one for some in several for one in some], parted=outputs)


def _cut(batch: Batch, outputs: Outputs) -> Batch:
    """What a stage has cut is added to what those before it have."""
    told = [some["cut_tokens"] for some in (batch.details, outputs.details) if "cut_tokens" in some]
    return batch.told(cut_tokens=sum(told)) if told else batch


def said(answer: Any) -> str:
    """An answer as the next stage is asked it: the text that was made, or the label."""
    found = answer.text if hasattr(answer, "text") else answer.label
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


class Chain(Joined):
    name = "chain"

    def __init__(self, model: JoinedModel, metric: str | None = None):
        """InputError for stages that hand several things on to one that cannot put their answers together again."""
        super().__init__(model, metric)
        *before, last = model.parts.items()
        several = [stage for stage, part in before if type(part.task).handed is not Task.handed]
        if len(several) > 1:
            raise InputError(
                f"{several[1]}: only one stage of a chain may hand several things on, and {several[0]} does"
            )
        if several and type(last[1].task).regrouped is Task.regrouped:
            raise InputError(
                f"{several[0]} hands several things on for each row, and {last[0]} ({last[1].task.name}) cannot put answers to "
                "them together again: another stage must come last"
            )

    def normalise(self, value: Any) -> Any:
        return next(iter(self.model.parts.values())).task.normalise(value)

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        parts = self.parts(plan)
        return [StageStep(name, part, name == list(parts)[-1]) for name, part in parts.items()]


def chain(
    parts: Mapping[str, Pipeline], plan: Plan | None = None, *, source: str = "", path: Path = Path()
) -> Pipeline:
    """The pipelines one after the other. plan: of the chain, with sections by stage; else each as it is."""
    return whole(Chain, JoinedModel(parts, source, path), plan)
