"""Vectors of sentences: what an encoder makes of a text, pooled as its folder says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, ModelError
from llm_moments.base.notes import note
from llm_moments.core import Knob, Outputs, Plan, Step, Task
from llm_moments.core.parts import Support
from llm_moments.core.usage import told
from llm_moments.models.sentence_folder import Recipe
from llm_moments.steps.forward import Forward
from llm_moments.steps.prefix import Prefix
from llm_moments.tasks.text_classification import TextClassification, kept_side, text_input

SAME = 0.999  # cosine of vectors that count as the same


@dataclass(frozen=True, slots=True)
class Embedding:
    """embedding: the numbers of the text's vector. cut_tokens: of the text that the model never saw."""

    embedding: list[float]
    cut_tokens: int | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """As a person is shown it."""
        return f"[{', '.join(f'{value:.4f}' for value in self.embedding[:6])}, …] {len(self.embedding)} numbers"


class SentenceEmbedding(TextClassification):
    """`feature-extraction`. Outputs: `logits`, the vectors, float32 [n, numbers]. Steps and plan are a text classifier's, but
    that a prompt may stand before each text; a score is the cosine with the reference's vector (without one: the baseline's)."""

    name = "feature-extraction"
    heals = classifies = False
    part_kinds = ()

    def __init__(self, model: Any, metric: str | None = None):
        if model.format != "transformers" or model.is_linear:
            raise ModelError(
                f"{model.name}: vectors of texts are made by an encoder's folder in the Hugging Face layout"
            )
        super().__init__(replace(model, config={**model.config, "sentence": vars(Recipe.of(model.path))}), metric)
        if not self.recipe.said:
            note(
                f"{model.name} does not say how its tokens' vectors become a sentence's (modules.json): their mean is taken"
            )

    @property
    def recipe(self) -> Recipe:
        return Recipe(**self.model.config["sentence"])

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        return [Prefix(plan.settings("prefix"), self.recipe.lower), *super().steps(plan, engines)]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        inherited = {step: knobs for step, knobs in super().knobs().items() if step != "cascade"}
        return {"prefix": Prefix.knobs, **inherited, "forward": Forward.knobs}

    def stock(self) -> dict[str, dict[str, Any]]:
        """What sentence-transformers does, 32 at a time."""
        most = min(self.recipe.most or self.model.max_length, self.model.max_length)
        base = {**super().stock(), "truncate": {"max_length": most, "side": kept_side(self.model)}}
        return {"prefix": {"prompt": self.recipe.prompt}, **base} if self.recipe.prompt else base

    def normalise(self, value: Any) -> Any:
        if isinstance(found := text_input(value), tuple):
            raise DataError("two texts a row, and a vector is made of one: name its column with --text-column")
        return found

    # -- answers and scores

    def metric(self) -> str:
        return "cosine"

    def has_margins(self) -> bool:
        return False

    def answers(self, outputs: Outputs) -> list[Any]:
        rows = zip(outputs["logits"].tolist(), told(outputs, "cut_tokens"), strict=True)
        return [Embedding(row, cut) for row, cut in rows]

    def has_label(self, value: Any) -> bool | None:
        return None

    def reader(self, column: Iterable[Any]) -> Any:
        return Task.reader(self, column)

    def references(self, raw: Iterable[Any]) -> list[Any]:
        found = []
        for row, value in enumerate(raw, 1):
            try:
                found.append(np.asarray(value, np.float64).reshape(-1))
            except (TypeError, ValueError):
                raise DataError(f"row {row}: the reference {value!r:.40} is no vector, a list of numbers") from None
            if not len(found[-1]) or not np.isfinite(found[-1]).all() or len(found[-1]) != len(found[0]):
                raise DataError(f"row {row}: a reference is as many finite numbers as the first one")
        return found

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        """float64 [n]: cosines with the references; 0 where one of both is all zeros."""
        own = outputs["logits"].astype(np.float64)
        wanted = np.asarray(references, np.float64).reshape(len(own), -1)
        if own.shape != wanted.shape:
            raise DataError(f"references have {wanted.shape[1]} numbers, and this model's vectors {own.shape[1]}")
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(wanted, axis=1)
        return np.clip((own * wanted).sum(1) / np.where(lengths > 0, lengths, 1.0), -1.0, 1.0)

    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return list(outputs["logits"].astype(np.float64))

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n]: 1 - cosine."""
        return 1 - self.agreement(outputs, others)

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """bool [n]: whether the vectors point the same way, to within a cosine of 0.999."""
        return self.agreement(outputs, others) >= SAME

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        """bool [n]: whether no number is further off than that share of the largest."""
        ours, theirs = (one["logits"].astype(np.float64) for one in (outputs, others))
        return np.abs(ours - theirs).max(1) <= within * np.maximum(np.abs(theirs).max(1), 1e-12)

    def probabilities(self, outputs: Outputs) -> np.ndarray:
        return Task.probabilities(self, outputs)

    def margins(self, outputs: Outputs) -> np.ndarray:
        return Task.margins(self, outputs)

    def support(self, pipe: Any, values: Sequence[Any], answer: Outputs) -> Support:
        return Task.support(self, pipe, values, answer)

    def divided(self, value: Any, kind: str) -> Any:
        return Task.divided(self, value, kind)
