"""`train linear`: the small, honest baseline, by the same loop, losses and optimisers as any other model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Plan
from llm_moments.models.linear import LINEAR, config_of, load_linear, make_module
from llm_moments.models.model import Model, checked_config
from llm_moments.models.vectorizer import Vectorizer
from llm_moments.tasks.linear_text import LinearText
from llm_moments.tasks.text_classification import text_input

NAME = "linear"  # what stands for a model folder where one is to be made from scratch
USUAL = {"epochs": 5, "learning_rate": 0.03}  # where they are not said: a convex loss, and sparse rows
FEATURES = {"features": "tf-idf", "ngrams": 2, "vocabulary": 50_000}
OPTIONS = {"features": "kind", "ngrams": "ngrams", "vocabulary": "most"}
WITHOUT = {
    "max_length": "it sees all words of a text (in a plan: vectorize.words)", "lora": "it has no layers for adapters",
    "freeze": "it has no blocks", "dropout": "it has no layers with one", "precision": "it is always fp32",
    "gradient_checkpointing": "it keeps no activations", "image_size": "it reads texts",
}  # fmt: skip


def is_linear(model: Any) -> bool:
    """`linear` itself (a folder of that name is ./linear), or a folder with such a model."""
    if str(model) == NAME:
        return True
    file = Path(model) / "config.json"
    return file.is_file() and f'"{LINEAR}"' in file.read_text(encoding="utf-8", errors="replace")


def settings_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is usual for a linear model where nothing is said; InputError for what cannot be said of it."""
    for name, why in WITHOUT.items():
        if given.get(name) not in (None, False, 0, (), []) and not (name == "precision" and given[name] != "bf16"):
            raise InputError(f"{name.replace('_', '-')} says nothing about a linear model: {why}")
    return {**USUAL, **given}


def begun(
    model: Any,
    inputs: Sequence[Any],
    labels: list[str],
    problem: str,
    options: Mapping[str, Any],
    *,
    own_labels: bool = True,
) -> tuple[LinearText, Any, Model, Plan]:
    """From scratch, with features of the training inputs, or with those of a folder. options: features (tf-idf or
    hashed), ngrams, vocabulary (most features)."""
    if str(model) == NAME:
        vectorizer = Vectorizer.fit(map(text_input, inputs), **_checked(options))
        config = config_of(vectorizer, labels, problem)
        described = Model(Path(NAME), config, known_digest=_digest(config, vectorizer))
        module = make_module(config, vectorizer)
    else:
        if options:
            raise InputError(f"{', '.join(options)}: {model} has its features already; `train linear` chooses them")
        described = Model(Path(model), checked_config(Path(model), False))
        vectorizer, module = described.vectorizer, None
        kept = own_labels and described.problem_type == problem and problem != "regression"
        if kept and set(labels) <= set(described.labels):
            module = load_linear(described)
        else:
            described = replace(described, config=config_of(vectorizer, labels, problem), known_digest=described.digest)
            module = make_module(described.config, vectorizer)
    described.__dict__["vectorizer"] = vectorizer
    task = LinearText(described)
    return task, module, described, Plan(task.stock())


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := [name for name in options if name not in OPTIONS]:
        raise InputError(f"unknown model option {unknown[0]!r}; a linear model has {', '.join(OPTIONS)}")
    return {OPTIONS[name]: options.get(name, value) for name, value in FEATURES.items()}


def _digest(config: Mapping[str, Any], vectorizer: Vectorizer) -> str:
    digest = hashlib.sha256(json.dumps([config, vectorizer.vocabulary], sort_keys=True).encode())
    if vectorizer.idf is not None:
        digest.update(vectorizer.idf.tobytes())
    return digest.hexdigest()[:32]
