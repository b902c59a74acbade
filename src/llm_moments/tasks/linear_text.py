"""Text classification by a linear model: vectorize, batch, forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_moments.core import Change, Knob, Pipeline, Plan, Step
from llm_moments.core.parts import Part
from llm_moments.models.vectorizer import beyond, words
from llm_moments.steps.forward import Forward
from llm_moments.steps.sparse import SparseBatches, linear_steps
from llm_moments.steps.vectorize import Vectorize
from llm_moments.tasks.extents import TOKEN_RUNGS, WORDS
from llm_moments.tasks.text_classification import CASCADE, TextClassification


class LinearText(TextClassification):
    """The same answers, references and scores; other steps on the way to them."""

    extent = WORDS
    heals = False  # there is nothing smaller to teach

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        return linear_steps(self.model, plan, engines)

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return {
            "vectorize": Vectorize.knobs,
            "batch": SparseBatches.knobs,
            "forward": Forward.knobs,
            "cascade": CASCADE,
        }

    def stock(self) -> dict[str, dict[str, Any]]:
        return {
            "vectorize": {"words": 0, "ngrams": 0},
            "batch": {"order": "input", "size": 32},
            "forward": {"engine": "torch", "precision": "fp32"},
        }

    def changes(self, plan: Plan) -> list[Change]:
        return [Change(f"the first {n} words", {WORDS.knob: n}) for n in (256, 128, 64, 32, 16)]

    def rungs(self, pipe: Any, values: Sequence[Any]) -> list[int]:
        """Numbers of words that cut some of these rows, fewest first, and 0 for all of them."""
        texts = [text for value in values for text in ([value] if isinstance(value, str) else value)]
        longest = max((len(words(text)) for text in texts), default=0)
        return [*(n for n in TOKEN_RUNGS if n < longest), 0]

    def unseen(self, pipe: Pipeline, value: Any) -> list[Part]:
        texts = (value,) if isinstance(value, str) else value
        ends = [beyond(text, WORDS.of(pipe.plan)) for text in texts]
        told = zip(("text", "text_pair"), texts, ends, strict=False)
        return [Part(text[end:], (name, end, len(text))) for name, text, end in told if text[end:].strip()]

    def inputs(self, pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
        now = WORDS.of(pipe.plan)
        for count in self.rungs(pipe, values):
            if count and (not now or count < now):
                yield Change(f"the first {count} words", {WORDS.knob: count})
        for choices in self.others(pipe, pipe.plan, values):
            yield Change("single words only", dict(choices))

    def others(self, pipe: Any, plan: Plan, values: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        return [*WORDS.others] if pipe.model.vectorizer.ngrams > 1 else []

    def by_hand(self, plan: Plan) -> int:
        return WORDS.of(plan)

    def calibrating(self) -> dict[str, Any] | None:
        return None  # no engine in int8 takes it

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        """Nothing beside the weights: the vocabulary is in them."""
