"""The contract of a task, and which task a model is for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm_moments.core import Knob, Pace, Plan, Step
from llm_moments.errors import InputError, ModelError

TASKS = {
    "text-classification": "text_classification:TextClassification",
    "image-classification": "image_classification:ImageClassification",
    "chat": "chat:Chat",
    "text-generation": "chat:TextGeneration",
    "multiple-choice": "likelihood:TextChoice",
    "translation": "translation:Translation",
    "automatic-speech-recognition": "speech:SpeechRecognition",
}
BY_LIKELIHOOD = ("likelihood", "accuracy", "normalised accuracy")  # metrics for which no text is made
# What an architecture's name ends with, and the task that is meant where none is named; the first that fits.
MEANT = (
    ("SequenceClassification", "text-classification"),
    ("ImageClassification", "image-classification"),
    ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
    ("ForCausalLM", "chat"), ("LMHeadModel", "chat"),
    ("MarianMTModel", "translation"), ("ForConditionalGeneration", "translation"),
)  # fmt: skip
OF_MODELS = {"linear-text": "linear_text:LinearText"}  # the same task, by a model that takes other steps


class Task(Protocol):
    """How examples become model inputs and outputs become answers.

    A score is given for each example, since every test here is paired; `metric(model)` names their mean.
    """

    name: str
    pace: Pace
    sorts: Mapping[str, Any]  # changes of a plan that put rows of like length together: no answer changes by them

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

    def bounds(self, model: Any) -> tuple[float, float]:
        """The least and the highest score that an example can have, also one not seen; an end may be infinite."""
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

    def argmax_equal(self, outputs: np.ndarray, others: np.ndarray, model: Any) -> np.ndarray:
        """bool [n]: whether the answers are the same."""
        ...

    def close(self, outputs: np.ndarray, others: np.ndarray, model: Any, within: float) -> np.ndarray:
        """bool [n]: whether the answers are the same and their probabilities, if any, no further apart than that."""
        ...

    def has_margins(self, model: Any) -> bool:
        """Whether the outputs say how sure they are: of a model without, no cascade is made."""
        ...

    def margins(self, outputs: np.ndarray, model: Any) -> np.ndarray:
        """float [n], how sure an answer is: a cascade asks the dear plan where this is low."""
        ...

    def probabilities(self, outputs: np.ndarray, model: Any) -> np.ndarray: ...


def task_for(model: Any, name: str | None = None, metric: str | None = None) -> Task:
    """The task of that name, or the one that the model's architecture is for."""
    name = name or _meant(model)
    if name == "text-classification" and model.is_linear:
        name = "linear-text"
    known = {**TASKS, **OF_MODELS}
    if name not in known:
        raise InputError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    module, _, cls = known[name].partition(":")
    made = getattr(importlib.import_module(f"llm_moments.tasks.{module}"), cls)
    if metric in BY_LIKELIHOOD and name in ("chat", "text-generation"):
        return importlib.import_module("llm_moments.tasks.likelihood").judged(name, metric)
    if metric is None:
        return made()
    if not hasattr(made, "default_metric"):
        raise InputError(f"answers of {name} are judged in one way only; leave out the metric {metric!r}")
    return made(metric)


def _meant(model: Any) -> str:
    architectures = [str(a) for a in model.config.get("architectures") or []]
    if "pretrained_cfg" in model.config:  # timm's own layout
        return "image-classification"
    for end, task in MEANT:
        if any(end in name for name in architectures):
            if task == "chat" and not _templated(model):
                return "text-generation"
            return task
    raise ModelError(
        f"{model.name} has no head for a task that is known (architectures: {architectures or 'none given'}). "
        "Fine-tune it as a classifier: moments train MODEL --data FILE --out DIR"
    )


def _templated(model: Any) -> bool:
    return model.format == "remote" or bool(getattr(model.tokenizer, "chat_template", None))
