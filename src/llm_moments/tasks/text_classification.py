"""Text classification: single label, multi-label, regression; one text or a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.core import Change, Knob, Pipeline, Plan, Step, whole
from llm_moments.core.parts import Part, Parts
from llm_moments.engines.base import available, engine_class, put_on
from llm_moments.engines.padding import side_of
from llm_moments.steps.batch import MakeBatches
from llm_moments.steps.forward import Forward
from llm_moments.steps.precut import Precut
from llm_moments.steps.sparse import linear_steps
from llm_moments.steps.text_parts import text_parts
from llm_moments.steps.tokenize import Tokenize
from llm_moments.steps.truncate import Truncate, cut_places
from llm_moments.tasks.classification import CASCADE, Answer, Classification
from llm_moments.tasks.extents import TOKEN_RUNGS, TOKENS, shorter

__all__ = ["Answer", "TextClassification"]

CALIBRATION_LENGTH = 128


class TextClassification(Classification):
    name = "text-classification"
    sorts: Mapping[str, Any] = {"batch.order": "length", "batch.size": 64, "batch.tokens": 8192, "batch.reuse": True}

    extent = TOKENS
    heals = True  # a smaller model can be taught in `improve`

    # -- the pipeline

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        forward = plan.settings("forward")
        if forward.get("weights") and (own := engines.model_for(forward)).is_linear:  # with features of its own
            return linear_steps(own, plan, engines)
        encoder = self.model.encoder
        cut = plan.settings("truncate")
        length, side = int(cut.get("max_length", self.model.max_length)), cut.get("side", kept_side(self.model))
        return [
            Precut(plan.settings("precut"), encoder, length, side),
            Tokenize(encoder, length),
            Truncate({**cut, "max_length": length, "side": side}, encoder),
            MakeBatches(
                plan.settings("batch"),
                encoder,
                self.model.max_length,
                lambda: side_of(self.model, engines, forward, encoder),
            ),
            Forward(forward, engines),
        ]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return {
            "precut": Precut.knobs,
            "tokenize": Tokenize.knobs,
            "truncate": tuple(self._bounded(k, self.model) for k in Truncate.knobs),
            "batch": MakeBatches.knobs,
            "forward": Forward.knobs,
            "cascade": CASCADE,
        }

    @staticmethod
    def _bounded(knob: Knob, model: Any) -> Knob:
        if knob.name == "on_overflow":
            return knob
        if knob.name == "side":
            return replace(knob, default=kept_side(model))
        most = model.max_length
        lengths = tuple(v for v in knob.values if v < most) + (most,)
        return Knob(
            knob.name, most, lengths, valid=whole(4, most), means=f"{knob.means}; this model takes at most {most}"
        )

    def stock(self) -> dict[str, dict[str, Any]]:
        """What `transformers.pipeline(batch_size=32)` does."""
        return {
            "truncate": {"max_length": self.model.max_length, "side": kept_side(self.model)},
            "batch": {"order": "input", "size": 32},
            "forward": {"engine": "torch", "precision": "fp32"},
        }

    # -- what a search tries

    def changes(self, plan: Plan) -> list[Change]:
        """As a stage of a chain, whose search is greedy; alone it is searched along its lengths."""
        found = [Change("rows of like length together", dict(self.sorts), True)]
        for engine in [name for name in available() if name != "torch.compile"]:
            kinds = [kind for kind in engine_class(engine).precisions if kind in ("fp32", "bf16")]
            found += [Change(f"{engine} {kind}", put_on(engine, kind), kind == "fp32") for kind in kinds]
        now = TOKENS.of(plan) if plan.get_choice(TOKENS.knob) else self.model.max_length
        found += [Change(f"cut at {n} tokens", {TOKENS.knob: n}) for n in (256, 128, 64, 32, 16) if n < now]
        return found

    def rungs(self, pipe: Any, values: Sequence[Any]) -> list[int]:
        """Lengths below the model's limit that cut some of these rows, shortest first, and the limit."""
        texts = [v if isinstance(v, str) else " ".join(v) for v in values]
        longest = max(map(len, pipe.model.encoder.encode(texts))) + 4
        most = pipe.model.max_length
        return sorted({n for n in TOKEN_RUNGS if n < min(most, longest)} | {most})

    def others(self, pipe: Any, plan: Plan, values: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        if TOKENS.of(plan) >= pipe.model.max_length:
            return []
        now = plan.settings("truncate").get("side", kept_side(pipe.model))
        return [{"truncate.side": side} for side in ("head+tail", "tail", "head") if side != now]

    def by_hand(self, plan: Plan) -> int:
        """The length that a careful engineer would cut at: where the model was trained, if that is known."""
        return int(min(self.model.trained_length or self.model.max_length, self.model.max_length))

    def calibrating(self) -> dict[str, Any] | None:
        """Changes by which int8 is calibrated: one row at a time, so that no padding counts."""
        length = min(CALIBRATION_LENGTH, self.model.max_length)
        return {"truncate.max_length": length, "batch.size": 1, "batch.order": "input"}

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        self.model.tokenizer.save_pretrained(folder)

    def normalise(self, value: Any) -> Any:
        return text_input(value)

    # -- what an answer rests on

    part_kinds: tuple[str, ...] = ("words", "sentences")

    def divided(self, value: Any, kind: str) -> Parts:
        return text_parts(value, kind)

    def unseen(self, pipe: Pipeline, value: Any) -> list[Part]:
        forward, cut = pipe.plan.settings("forward"), pipe.plan.settings("truncate")
        if forward.get("weights") and pipe.engines.model_for(forward).is_linear:
            return []  # whatever the plan cuts at, a linear model in front reads every word
        side = cut.get("side", kept_side(self.model))
        return cut_places(self.model.encoder, value, int(cut.get("max_length", self.model.max_length)), side)

    def inputs(self, pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
        if "truncate" in pipe.plan:
            yield from shorter(pipe, max(int(a["attention_mask"].sum(1).max()) for a in pipe.arrays(values)))


def text_input(value: Any) -> Any:
    """A text, or a pair of texts as a tuple, of what may be given as one."""
    if isinstance(value, Mapping):
        first, second = value.get("text"), value.get("text_pair")
        value = (first, second) if second is not None else first
    if isinstance(value, str):
        return _whole_text(value)
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, str) for v in value):
        return tuple(map(_whole_text, value))
    raise DataError(f"an input is a text, a pair of texts, or {{'text': …, 'text_pair': …}}, not {value!r:.80}")


def _whole_text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            broken = text[error.start]
            raise DataError(f"an input holds {broken!r}, half a character: it was not decoded rightly") from None
    return text


def kept_side(model: Any) -> str:
    """What the tokenizer keeps of a text that is too long, as its truncation_side says."""
    return "tail" if model.encoder.keeps_end else "head"
