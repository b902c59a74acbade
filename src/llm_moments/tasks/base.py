"""The contract of a task, and which task a model is for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm_moments.core import Knob, Plan, Step
from llm_moments.errors import InputError, ModelError

TASKS = {
    "text-classification": "text_classification:TextClassification",
    "image-classification": "image_classification:ImageClassification",
}
LINEAR_TEXT = "linear_text:LinearText"  # the same task, by a model that takes other steps


class Task(Protocol):
    """How examples become model inputs and outputs become answers.

    A score is given for each example, since every test here is paired; `metric(model)` names their mean.
    """

    name: str

    def metric(self, model: Any) -> str: ...

    def steps(self, model: Any, plan: Plan, engines: Any) -> list[Step]: ...
    def knobs(self, model: Any) -> Mapping[str, Sequence[Knob]]: ...
    def stock(self, model: Any) -> Mapping[str, Mapping[str, Any]]:
        """The plan that transformers' own pipeline follows."""
        ...

    def save_inputs(self, model: Any, plan: Plan, folder: Path) -> None:
        """Writes what a model folder needs beside its weights to prepare inputs: tokenizer, image sizes."""
        ...

    def normalise(self, value: Any) -> Any:
        """A plain input (string, pair, dict) as the steps take it; raises DataError."""
        ...

    def answers(self, outputs: np.ndarray, model: Any) -> list[Any]: ...
    def references(self, raw: Iterable[Any], model: Any) -> list[Any]:
        """References as the model's own labels; raises DataError naming row and value."""
        ...

    def scores(self, outputs: np.ndarray, references: Sequence[Any], model: Any) -> np.ndarray:
        """float64 [n], higher is better."""
        ...

    def agreement(self, outputs: np.ndarray, baseline: np.ndarray, model: Any) -> np.ndarray:
        """float64 [n]: the score when the baseline's answers are taken as references."""
        ...

    def divergence(self, outputs: np.ndarray, others: np.ndarray, model: Any) -> np.ndarray:
        """float64 [n], 0 for the same outputs: how far apart two models are, example by example."""
        ...

    def as_references(self, outputs: np.ndarray, model: Any) -> list[Any]:
        """What the outputs answer, as references: what a model without labels is held against."""
        ...

    def has_margins(self, model: Any) -> bool:
        """Whether the outputs say how sure they are: of a model without, no cascade is made."""
        ...

    def margins(self, outputs: np.ndarray, model: Any) -> np.ndarray:
        """float [n], how sure an answer is: a cascade asks the dear plan where this is low."""
        ...

    def probabilities(self, outputs: np.ndarray, model: Any) -> np.ndarray: ...


def task_for(model: Any, name: str | None = None) -> Task:
    """The task of that name, or the one that the model's architecture is for."""
    if name is None:
        architectures = [str(a) for a in model.config.get("architectures") or []]
        if any("ImageClassification" in a for a in architectures) or "pretrained_cfg" in model.config:
            name = "image-classification"
        elif not any("SequenceClassification" in a for a in architectures):
            raise ModelError(
                f"{model.name} has no classification head (architectures: {architectures or 'none given'}). "
                "Fine-tune it first: moments train MODEL --data FILE --out DIR"
            )
        else:
            name = "text-classification"
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    place = LINEAR_TEXT if name == "text-classification" and model.is_linear else TASKS[name]
    module, _, cls = place.partition(":")
    return getattr(importlib.import_module(f"llm_moments.tasks.{module}"), cls)()
