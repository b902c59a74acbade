"""`train linear`: the small, honest baseline, by the same loop, losses and optimisers as any other model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_moments.core import Pipeline, Plan
from llm_moments.engines.base import Engines
from llm_moments.engines.linear import config_of, load_linear, make_module
from llm_moments.errors import InputError
from llm_moments.model import LINEAR, Model, checked_config
from llm_moments.steps.vectorize import Vectorizer
from llm_moments.tasks.linear_text import LinearText

NAME = "linear"  # what stands for a model folder where one is to be made from scratch
USUAL = {"epochs": 5, "learning_rate": 0.03}  # where they are not said: a convex loss, and sparse rows
FEATURES = {"kind": "tf-idf", "ngrams": 2, "most": 50_000}
WITHOUT = {
    "max_length": "it sees all words of a text (in a plan: vectorize.words)", "lora": "it has no layers for adapters",
    "freeze": "it has no blocks", "dropout": "it has no layers with one", "precision": "it is always fp32",
    "gradient_checkpointing": "it keeps no activations",
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
    model: Any, values: Sequence[Any], labels: list[str], problem: str, features: Mapping[str, Any]
) -> tuple[Any, Pipeline]:
    """The module and its pipeline: from scratch, with features of the training inputs, or those of a folder."""
    if str(model) == NAME:
        vectorizer = Vectorizer.fit(values, **{**FEATURES, **features})
        config = config_of(vectorizer, labels, problem)
        described = Model(Path(NAME), config, known_digest=_digest(config, vectorizer))
        described.__dict__["vectorizer"] = vectorizer
        return make_module(config, vectorizer), pipeline(described)
    if features:
        raise InputError(
            f"{', '.join(features)}: {model} has its features already; they are chosen with `train linear`"
        )
    old = Model(Path(model), checked_config(Path(model), False))
    if old.problem_type == problem and set(labels) <= set(old.labels) and problem != "regression":
        return load_linear(old).train(), pipeline(old)
    config = config_of(old.vectorizer, labels, problem)
    described = Model(old.path, config, known_digest=old.digest)
    described.__dict__["vectorizer"] = old.vectorizer
    return make_module(config, old.vectorizer), pipeline(described)


def pipeline(model: Model) -> Pipeline:
    task = LinearText()
    return Pipeline(task, model, Plan(task.stock(model)), engines=Engines(model))


def _digest(config: Mapping[str, Any], vectorizer: Vectorizer) -> str:
    digest = hashlib.sha256(json.dumps([config, vectorizer.vocabulary], sort_keys=True).encode())
    if vectorizer.idf is not None:
        digest.update(vectorizer.idf.tobytes())
    return digest.hexdigest()[:32]
