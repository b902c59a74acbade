"""Text classification by a linear model: vectorize, batch, forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_moments.core import Knob, Plan, Step
from llm_moments.steps.forward import Forward
from llm_moments.steps.sparse import SparseBatches, linear_steps
from llm_moments.steps.vectorize import Vectorize
from llm_moments.tasks.text_classification import CASCADE, TextClassification


class LinearText(TextClassification):
    """The same answers, references and scores; other steps on the way to them."""

    def steps(self, model: Any, plan: Plan, engines: Any) -> list[Step]:
        return linear_steps(model, plan, engines)

    def knobs(self, model: Any) -> Mapping[str, Sequence[Knob]]:
        return {
            "vectorize": Vectorize.knobs,
            "batch": SparseBatches.knobs,
            "forward": Forward.knobs,
            "cascade": CASCADE,
        }

    def stock(self, model: Any) -> dict[str, dict[str, Any]]:
        return {
            "vectorize": {"words": 0, "ngrams": 0},
            "batch": {"order": "input", "size": 32},
            "forward": {"engine": "torch", "precision": "fp32"},
        }

    def save_inputs(self, model: Any, plan: Plan, folder: Path) -> None:
        """Nothing beside the weights: the vocabulary is in them."""
