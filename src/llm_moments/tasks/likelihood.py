"""Quality by log-likelihood: how likely a model finds texts that are given, so that nothing needs to be made.

`likelihood`: mean log-probability per token (nats) of the reference, given the prompt. `accuracy`: of a row's
choices the one with the largest log-likelihood (sum over its tokens) is the answer; `normalised accuracy`: the one
with the largest per token, which does not favour short texts.

To a plain prompt a text is joined by a space where neither has white space at the joint, and the tokens are those of
the whole; in a dialogue it is the assistant's answer. The token that ends an answer does not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, InputError, PlanError
from llm_moments.core import Batch, Change, Example, Knob, Outputs, Plan, Ragged, Recorder, Step
from llm_moments.core.parts import AnswerToken, Parts, Support
from llm_moments.core.task import Task
from llm_moments.core.usage import numbers
from llm_moments.core.usage import told as detail
from llm_moments.data import labels
from llm_moments.steps.prompt import Dialogue, Messages, tokens_after
from llm_moments.tasks.chat import Chat, TextGeneration, dialogue_of
from llm_moments.tasks.generation import whole_text

SAME = 1e-3  # nats per token: differences below are rounding, and the answer counts as the same
MOST = 1000  # choices of a row
DECODING = ("decode.", "batch.", "forward.streams", "forward.prefix_reuse", "forward.draft")  # a likelihood takes none


@dataclass(frozen=True, slots=True)
class Given:
    """A prompt or dialogue, and the texts whose likelihood is asked for."""

    input: str | Messages
    texts: tuple[str, ...]

    def __str__(self) -> str:
        turns = (self.input,) if isinstance(self.input, str) else (f"{role}: {text}" for role, text in self.input)
        return "\n".join([*turns, *(f"- {text}" for text in self.texts)])


@dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """label: the number of the likeliest choice, from 0; score: its share among the choices; scores: log-likelihoods.
    cut_tokens: of prompt and choices that the model never saw, no part of the answer."""

    label: str
    score: float | None
    scores: dict[str, float]
    cut_tokens: int | None = field(default=None, compare=False)


class LogLikelihood:
    """Writes `outputs`, ragged, for each text of a row: `logprob`, the sum of the log-probabilities of its tokens (nats), and
    `tokens`, how many those are. A text is cut where the context ends."""

    name = "likelihood"
    reads: tuple[str, ...] = ("ids", "messages", "text", "given")
    writes: tuple[str, ...] = ("outputs",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, settings: Mapping[str, Any], engines: Any, dialogue: Dialogue, window: int):
        self.settings, self.engines, self.dialogue, self.window = dict(settings), engines, dialogue, window

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        with self.engines.lease(self.settings, recorder) as engine:
            return self._by(engine, batch, recorder)

    def _by(self, engine: Any, batch: Batch, recorder: Recorder) -> Batch:
        rows = batch["given"]
        sums: list[list[float]] = []
        counts: list[list[int]] = []
        cut: list[int] = []
        for asked, turns, row in zip(batch["ids"], batch["messages"], rows, strict=True):
            ids = asked or self.dialogue.nothing
            told = [
                tokens_after(self.dialogue, ids, None if turns is not None else row.input, text) for text in row.texts
            ]
            kept = [tokens[: self.window - len(ids)] for tokens in told]
            cut.append(sum(map(len, told)) - sum(map(len, kept)))
            sums.append([likelihood(engine, ids, tokens) if tokens else -np.inf for tokens in kept])
            counts.append([len(tokens) for tokens in kept])
        recorder.count(tokens=sum(map(sum, counts)), cut_tokens=sum(cut))
        outputs = Outputs({"logprob": Ragged.of(sums, np.float64), "tokens": Ragged.of(counts, np.int64)})
        return batch.with_(outputs=outputs).told(cut_tokens=numbers(cut) + batch.details.get("cut_tokens", 0))


def likelihood(engine: Any, ids: Sequence[int], told: Sequence[int]) -> float:
    """Sum of the log-probabilities of the tokens `told` after `ids`, in nats."""
    table = engine.logprobs([*ids, *told], len(ids))
    return float(table[np.arange(len(told)), np.asarray(told)].sum(dtype=np.float64))


class Split:
    """Writes `given`, and the prompt alone as `input`, as the steps after it take it."""

    name = "read"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("given", "input")
    knobs: tuple[Knob, ...] = ()

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        rows = batch["input"]
        return batch.with_(given=rows, input=[row.input for row in rows])


class _Likelihood(TextGeneration):
    """Mixed into a task of prompts: it has that task's steps up to the tokens, then `LogLikelihood`."""

    default_metric = "likelihood"
    by_token = False
    agrees = ""

    def __init__(self, model: Any, metric: str | None = None):
        super().__init__(model)
        self.asked_metric = metric or ""
        self.metric_name = metric or self.default_metric

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        if self.model.format == "remote":
            raise PlanError("a server does not tell the log-probability of every token; judge it by another metric")
        before = [step for step in super().steps(plan, engines) if step.name not in ("batch", "decode")]
        last = LogLikelihood(plan.settings("forward"), engines, dialogue_of(self.model), self.model.max_length)
        return [Split(), *before, last]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        """Nothing is decoded: knobs of decoding may be set and have no value that is worth a try."""
        known = super().knobs()
        return {
            step: [replace(k, values=()) if f"{step}.{k.name}".startswith(DECODING) else k for k in knobs]
            for step, knobs in known.items()
        }

    def changes(self, plan: Plan) -> list[Change]:
        return _without_decoding(super().changes(plan))

    def alternatives(self, plan: Plan) -> list[Change]:
        return _without_decoding(super().alternatives(plan))

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        return self.argmax_equal(outputs, baseline).astype(np.float64)

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n]: mean distance of the texts' log-probabilities per token, in nats."""
        return np.asarray(np.nanmean(_apart(outputs, others), axis=1))

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        return np.asarray(np.nanmax(_apart(outputs, others), axis=1) <= max(within, SAME))


def _without_decoding(changes: list[Change]) -> list[Change]:
    return [one for one in changes if not any(name.startswith(DECODING) for name in one.choices)]


def per_token(outputs: Outputs) -> np.ndarray:
    """float64 [n, texts]: log-probability per token; NaN where there is no text."""
    sums, tokens = outputs["logprob"].filled(-np.inf), outputs["tokens"].filled(0)
    return np.divide(sums, tokens, out=np.full(sums.shape, np.nan), where=tokens > 0)


def _apart(outputs: Outputs, others: Outputs) -> np.ndarray:
    """float64 [n, texts]: how far log-probabilities per token are apart."""
    return np.abs(per_token(outputs) - per_token(others))


class _OfReference(_Likelihood):
    """Every example needs a reference; its score is the mean log-probability per token of it."""

    joins = True
    part_kinds: tuple[str, ...] = ()  # no answer is made that could be explained

    def divided(self, value: Any, kind: str) -> Parts:
        raise InputError(f"inputs of {self.name} by likelihood cannot be taken apart: no answer is made")

    def prepared(self, example: Example) -> Example:
        if not isinstance(example.reference, str) or not example.reference:
            raise DataError(
                f"row {example.id}: the metric likelihood needs a reference text, not {example.reference!r:.60}"
            )
        return replace(example, input={"given": example.input, "texts": [example.reference]})

    def normalise(self, value: Any) -> Any:
        if isinstance(value, Given):
            return value
        if not isinstance(value, Mapping) or "given" not in value:
            raise DataError("the metric likelihood judges rows that have references; this input has none")
        return Given(super().normalise(value["given"]), tuple(whole_text(t, "a reference") for t in value["texts"]))

    def bounds(self) -> tuple[float, float]:
        return (-np.inf, 0.0)

    def answers(self, outputs: Outputs) -> list[Any]:
        return [float(value) for value in per_token(outputs)[:, 0]]

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        return per_token(outputs)[:, 0]

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return self.close(outputs, others, SAME)

    def as_references(self, outputs: Outputs) -> list[Any]:
        raise PlanError("likelihoods are no references; choose another metric")


class _OfChoices(_Likelihood):
    """Rows hold `choices`; a reference is the number of the right one, from 0, or its text."""

    default_metric = "accuracy"
    joins = True

    def prepared(self, example: Example) -> Example:
        answer, texts = example.reference, self.normalise(example.input).texts
        if labels.missing(answer):
            return example
        named = _names(example.input["choices"] if isinstance(example.input, Mapping) else None)
        return replace(example, reference=_number(answer, texts, example.id, named))

    def normalise(self, value: Any) -> Any:
        if isinstance(value, Given):
            return value
        if not isinstance(value, Mapping) or "choices" not in value:
            raise DataError("multiple choice needs rows with `choices`, a list of texts, beside the prompt")
        texts = _texts(value["choices"])
        return Given(super().normalise({k: v for k, v in value.items() if k != "choices"}), texts)

    def references(self, raw: Iterable[Any]) -> list[Any]:
        found = list(raw)
        for row, value in enumerate(found, 1):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise DataError(f"row {row}: the answer {value!r:.60} is no number of a choice")
        return found

    def by(self, outputs: Outputs) -> np.ndarray:
        """float64 [n, choices]: what the largest of is the answer: the sum or, where so named, per token."""
        sums = outputs["logprob"].filled(-np.inf)
        by = per_token(outputs) if self.metric_name.startswith("normalised") else sums
        return np.asarray(np.where(np.isnan(by), -np.inf, by))

    def best(self, outputs: Outputs) -> np.ndarray:
        """int [n]: the chosen one."""
        return np.asarray(self.by(outputs).argmax(axis=1))

    # -- what an answer rests on: the prompt, beside which all choices stay

    def divided(self, value: Any, kind: str) -> Parts:
        return _beside(value.texts, super().divided(value.input, kind))

    def explained(self, pipe: Any, value: Any, given: str | None = None) -> Outputs:
        return Task.explained(self, pipe, value, given)

    def judging(self, pipe: Any) -> tuple[Any, str]:
        return pipe, ""  # who tells likelihoods of choices tells them of these

    def support(self, pipe: Any, values: Sequence[Any], answer: Outputs) -> Support:
        """How much likelier the chosen text is than the next one."""
        outputs, best = pipe.outputs(values), int(self.best(answer)[0])
        by = self.by(outputs)
        others = np.delete(by, best, axis=1).max(axis=1)
        return Support(by[:, best] - others, self.best(outputs) == best)

    def answer_tokens(self, pipe: Any, value: Any, answer: Outputs) -> list[AnswerToken]:
        return []

    def tokens_along(self, pipe: Any, value: Any, answer: Outputs) -> None:
        return None

    def told(self, outputs: Outputs) -> tuple[str, float | None]:
        answer = self.answers(outputs)[0]
        return f"choice {answer.label}", answer.score

    def asked_in(self, value: Any) -> Any:
        return value.input

    # -- answers and scores

    def answers(self, outputs: Outputs) -> list[Any]:
        sums, cut = outputs["logprob"], detail(outputs, "cut_tokens")
        return [_choice(sums.row(at), int(best), cut[at]) for at, best in enumerate(self.best(outputs))]

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        return np.asarray(self.best(outputs) == np.asarray(references), np.float64)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return [int(best) for best in self.best(outputs)]

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return self.best(outputs) == self.best(others)

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        return super().close(outputs, others, within) & self.argmax_equal(outputs, others)


def _beside(choices: tuple[str, ...], parts: Parts) -> Parts:
    """Parts of a prompt that is kept with its choices."""

    def inner(at: int) -> Parts | None:
        found = parts.inner(at)
        return None if found is None else _beside(choices, found)

    return Parts(parts.kind, parts.parts, lambda kept: Given(parts.keep(kept), choices), inner)


def _choice(sums: np.ndarray, best: int, cut: int | None) -> ChoiceAnswer:
    whole = np.logaddexp.reduce(sums)
    share = float(np.exp(sums[best] - whole)) if np.isfinite(whole) else None
    return ChoiceAnswer(str(best), share, {str(i): float(s) for i, s in enumerate(sums)}, cut)


def _texts(choices: Any) -> tuple[str, ...]:
    if isinstance(choices, str):  # a table has them as JSON
        try:
            choices = json.loads(choices)
        except ValueError:
            raise DataError(f"choices are a list of texts, not {choices!r:.60}") from None
    if isinstance(choices, Mapping) and "text" in choices:  # ARC's {"text": […], "label": […]}
        choices = choices["text"]
    if not isinstance(choices, Sequence | np.ndarray) or not 2 <= len(choices) <= MOST:
        raise DataError(f"choices are a list of 2 to {MOST} texts, not {choices!r:.60}")
    return tuple(whole_text(text, "a choice") for text in choices)


def _names(choices: Any) -> list[Any]:
    """What a row calls its choices, as ARC does: {"text": […], "label": ["A", "B", …]}."""
    return list(choices["label"]) if isinstance(choices, Mapping) and "label" in choices else []


def _number(answer: Any, texts: Sequence[str], row: Any, names: Sequence[Any] = ()) -> int:
    """The choice that an answer means: its text first, then what the row calls it, then its number, however written."""
    if isinstance(answer, str) and answer in texts:
        return texts.index(answer)
    if names:
        called = [at for at, name in enumerate(names) if labels.spelt(name) == labels.spelt(answer)]
        found = Decimal(called[0]) if len(called) == 1 else None
    else:
        found = labels.number(getattr(answer, "number", answer))
    if found is not None and found == found.to_integral_value() and 0 <= found < len(texts):
        return int(found)
    raise DataError(
        f"row {row}: the answer {answer!r:.60} is none of its {len(texts)} choices (a number from 0, or the text)"
    )


class ChatReference(_OfReference, Chat):
    pass


class ChatChoice(_OfChoices, Chat):
    pass


class TextReference(_OfReference, TextGeneration):
    pass


class TextChoice(_OfChoices, TextGeneration):
    pass


KINDS = {
    ("chat", "likelihood"): ChatReference, ("chat", "accuracy"): ChatChoice,
    ("text-generation", "likelihood"): TextReference, ("text-generation", "accuracy"): TextChoice,
}  # fmt: skip


def judged(task: str, model: Any, metric: str) -> Any:
    """The task of that name with its examples judged by likelihood."""
    return KINDS[task, metric.removeprefix("normalised ")](model, metric)
