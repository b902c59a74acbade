"""The registry of tasks, and which task a model is for."""

from __future__ import annotations

import importlib
from typing import Any

from llm_moments.base.errors import InputError, ModelError
from llm_moments.base.registry import resolve
from llm_moments.core import Task

TASKS = {
    "text-classification": "text_classification:TextClassification",
    "image-classification": "image_classification:ImageClassification",
    "chat": "chat:Chat",
    "text-generation": "chat:TextGeneration",
    "multiple-choice": "likelihood:TextChoice",
    "translation": "translation:Translation",
    "automatic-speech-recognition": "speech:SpeechRecognition",
    "text-detection": "text_lines:TextDetection",
    "text-recognition": "text_lines:TextRecognition",
    "feature-extraction": "embedding:SentenceEmbedding",
}
BY_LIKELIHOOD = ("likelihood", "accuracy", "normalised accuracy")  # metrics for which no text is made
# What an architecture's name ends with, and the task that is meant where none is named; the first that fits.
MEANT = (
    ("SequenceClassification", "text-classification"),
    ("ImageClassification", "image-classification"),
    ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
    ("TextDetection", "text-detection"), ("TextRecognition", "text-recognition"),
    ("ForCausalLM", "chat"), ("LMHeadModel", "chat"),
    ("MarianMTModel", "translation"), ("ForConditionalGeneration", "translation"),
)  # fmt: skip
OF_MODELS = {"linear-text": "linear_text:LinearText"}  # the same task, by a model that takes other steps


def task_for(model: Any, name: str | None = None, metric: str | None = None) -> Task:
    """The task of that name, or the one that the model's architecture is for."""
    name = name or _meant(model)
    if name == "text-classification" and model.is_linear:
        name = "linear-text"
    known = {**TASKS, **OF_MODELS}
    if name not in known:
        raise InputError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    made: type[Task] = resolve(known[name], "tasks")
    if metric in BY_LIKELIHOOD and name in ("chat", "text-generation"):
        return importlib.import_module("llm_moments.tasks.likelihood").judged(name, model, metric)
    return made(model, metric)


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
        "Fine-tune it as a classifier: moments train MODEL --data FILE --out DIR; an encoder's vectors: moments embed MODEL"
    )


def _templated(model: Any) -> bool:
    return model.format == "remote" or bool(getattr(model.tokenizer, "chat_template", None))
