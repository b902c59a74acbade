"""A pipeline in words: all that another process, or another machine with the same files, needs to open it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llm_moments.assembly.load import load
from llm_moments.base import schema
from llm_moments.base.errors import InputError
from llm_moments.core import Pipeline, Plan
from llm_moments.models.open import open_model


@dataclass(frozen=True)
class PipelineSpec:
    """source: what `load` takes. variants: folders of other weights, by the names that the plan gives them. cache: the
    folder of built graphs."""

    source: str
    plan: Mapping[str, Mapping[str, Any]]
    task: str = ""
    metric: str = ""
    device: str = "auto"
    trust_remote_code: bool = False
    variants: Mapping[str, str] = field(default_factory=dict)
    cache: str = ""

    @classmethod
    def of(cls, pipe: Pipeline) -> PipelineSpec:
        model, engines = pipe.model, pipe.engines
        chained = bool(pipe.task.parts(pipe.plan))
        if chained and not model.source:
            raise InputError(
                "a chain that was made in memory is nowhere that another process could open it: save it first"
            )
        return cls(
            model.source or str(model.path), pipe.plan.to_dict(), "" if chained else pipe.task.name,
            pipe.task.asked_metric, engines.device, model.trust_remote_code,
            {name: str(other.path) for name, other in engines.variants.items()}, str(engines.cache),
        )  # fmt: skip

    def open(self) -> Pipeline:
        pipe = load(
            self.source, task=self.task or None, metric=self.metric or None, plan=Plan(self.plan), device=self.device,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        pipe.engines.variants.update({name: open_model(path) for name, path in self.variants.items()})
        if self.cache:
            pipe.engines.cache = type(pipe.engines.cache)(self.cache)
        return pipe

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PipelineSpec:
        """DataError for what is no such description."""
        return schema.convert(schema.parse(text.encode()), cls)
