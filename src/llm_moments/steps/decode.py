"""Prompts to answers, token by token, by a generating engine: prefill once, then a step a token."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError, PlanError, Unfinished
from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.core.outputs import Column, Outputs, texts
from llm_moments.core.usage import numbers
from llm_moments.engines.generator import GENERATORS, Decoding, Generated, Prompt, settle
from llm_moments.models.generation_settings import tell
from llm_moments.steps.logprobs import told_logprobs

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8-bf16", "int4", "as-is")


def share(low: float, high: float) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high


def _indices(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and i >= 0 for i in value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


def _word(value: Any) -> bool:
    return isinstance(value, str)


FORWARD = (
    Knob("engine", "transformers", tuple(GENERATORS), True, one_of(*GENERATORS), f"one of {', '.join(GENERATORS)}"),
    Knob("precision", "fp32", PRECISIONS, False, one_of(*PRECISIONS), f"of the weights, one of {', '.join(PRECISIONS)}; as-is: as the file has them"),
    Knob("kv_precision", "", ("", "bf16", "int8"), False, one_of("", "fp32", "bf16", "fp16", "int8", "int4"), "of the KV cache; '': the engine's own"),
    Knob("threads", 0, (1, 2, 4, 8), True, whole(0, 1024), "threads of one forward pass; 0: all cores"),
    Knob("streams", 1, (1, 4, 8, 16), True, whole(1, 1024), "prompts decoded together", bounds="rows"),
    Knob("prefix_reuse", False, (False, True), True, one_of(False, True), "true or false: the cache of a shared beginning is kept"),
    Knob("draft", "", (), True, _word, "folder of a smaller model whose guesses this one checks (speculative decoding)"),
    Knob("skip_layers", [], (), False, _indices, "a list of layer numbers, such as [2, 3]"),
    Knob("weights", "", (), False, lambda v: isinstance(v, str) and (not v or bool(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", v))), "other weights for the same task, a folder name in the model's weights/"),
)  # fmt: skip


SEED = (
    "of drawn tokens: with the same one, the same engine and machine draw the same answer to a prompt (transformers with "
    "forward.streams above 1: to the same prompts together). Sample n of several is that of seed + n"
)


def is_schema(value: Any) -> bool:
    """A JSON schema as a text of JSON, or '' for none."""
    try:
        return isinstance(value, str) and (not value or isinstance(json.loads(value), dict))
    except (ValueError, RecursionError):
        return False


class Decode:
    """Writes `outputs`, a text a row (`<U` array [n]), and `generated`, what the engine told of each row."""

    name = "decode"
    reads: tuple[str, ...] = ("prompts",)
    writes: tuple[str, ...] = ("outputs", "generated")
    knobs: tuple[Knob, ...] = (
        Knob("max_new_tokens", 256, (64, 128, 256, 512), False, whole(1, 1_000_000), "most tokens of an answer, >= 1", bounds="answer"),
        Knob("temperature", 0.0, (), False, share(0, 100), "0: the likeliest token; above: drawn, more freely the higher"),
        Knob("top_p", 1.0, (), False, share(1e-6, 1), "drawn from the likeliest tokens that have this share together"),
        Knob("top_k", 0, (), False, whole(0), "drawn from so many likeliest tokens; 0: all"),
        Knob("repetition_penalty", 1.0, (), False, share(0.01, 100), "above 1: tokens that were there are less likely"),
        Knob("beams", 1, (1, 2, 4, 5), False, whole(1, 64), "answers that are followed at a time"),
        Knob("length_penalty", 1.0, (0.6, 1.0), False, share(-10, 10), "of beams: above 0 longer answers are better", {"beams": 1}),
        Knob("seed", 0, (), False, whole(0), SEED),
        Knob("stop", [], (), False, _texts, "texts that end an answer, not part of it"),
        Knob("logprobs", -1, (), False, whole(-1, 100), "also tell the log-probability of each token, and of so many alternatives; -1: neither"),
        Knob("json_schema", "", (), False, is_schema, "a JSON schema, as a text of JSON, that every answer keeps to"),
        Knob("lookup", 0, (0, 3, 5, 10), True, whole(0, 64), "tokens guessed from the prompt at a time (prompt lookup); the answer is the same"),
    )  # fmt: skip

    def __init__(
        self, forward: Any, decode: Any, engines: Any, text: Callable[[Sequence[int]], str], by_length: bool,
        start: tuple[int, ...] = (),
    ):  # fmt: skip
        """start: tokens that an encoder-decoder's answer begins with, where a prompt does not say."""
        self.settings, self.engines, self.text, self.by_length = dict(forward), engines, text, by_length
        self.decoding, self.start, self.logprobs = Decoding.of(decode), start, int(decode.get("logprobs", -1))
        if self.decoding.json_schema and self.decoding.stop:
            raise PlanError(
                "a text that ends an answer could cut JSON in two: take decode.stop or decode.json_schema back"
            )
        self.on_text: Callable[[int, str], None] | None = None

    @property
    def engine(self) -> Any:
        return self.engines.get(self.settings)

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        asked = time.perf_counter()
        with self.engines.lease(self.settings, recorder) as engine:
            return self._by(engine, batch, recorder, time.perf_counter() - asked)

    def _by(self, engine: Any, batch: Batch, recorder: Recorder, load_s: float) -> Batch:
        prompts, waited_s = batch["prompts"], time.perf_counter() - batch.begun
        decoding = settle(self.decoding, engine)
        tell(self.engines.model_for(self.settings), engine, decoding)
        order = sorted(range(len(prompts)), key=lambda i: -size(prompts[i])) if self.by_length else range(len(prompts))
        told = self.on_text and (lambda at, piece: self.on_text(order[at], piece))  # type: ignore[misc]
        made: list[Any] = [None] * len(prompts)
        try:
            results = engine.generate([prompts[i] for i in order], decoding, recorder, told)
        except Unfinished as cut:
            done = [] if self.by_length else cut.done
            bills = {**_first(batch.details, len(done)), **self.bills(prompts, done, load_s, waited_s)}
            cut.outputs = self.texts(done).told(bills)
            raise
        for at, one in zip(order, results, strict=True):
            made[at] = one
        bills = self.bills(prompts, made, load_s, waited_s)
        if self.logprobs >= 0:
            with recorder.step("logprobs", items=len(made)):
                bills |= told_logprobs(engine, prompts, made, self.logprobs, self.start)
        return batch.with_(outputs=self.texts(made), generated=made).told(**bills)

    def bills(
        self, prompts: Sequence[Prompt], made: Sequence[Generated], load_s: float, waited_s: float
    ) -> dict[str, Column]:
        """What core/usage.py tells of each answer, as far as the engine does. load_s: until it was open; waited_s: from the
        moment the inputs were there until it was asked."""
        return {
            "prompt_tokens": numbers(one.read or len(p.ids) or None for p, one in zip(prompts, made, strict=False)),
            "cached_tokens": numbers(one.reused for one in made),
            "completion_tokens": numbers(new_tokens(one) for one in made),
            "finish_reason": np.array(["stop" if self.stopped(one) else one.finish for one in made], np.str_),
            "stop_string": np.array([self.stopped(one) for one in made], np.str_),
            "draft_tokens": numbers(one.drafted for one in made),
            "draft_accepted": numbers(one.accepted for one in made),
            "load_s": np.full(len(made), load_s),
            "prefill_s": numbers(one.first_s for one in made),
            "ttft_s": numbers(None if one.first_s is None else waited_s + one.first_s for one in made),
            "tpot_s": numbers(map(each_s, made)),
        }

    def stopped(self, one: Generated) -> str:
        """The stop string that ended the answer; '' if none did."""
        if not self.decoding.stop:
            return ""
        whole_text = one.text if one.text is not None else self.text(one.ids or ())
        found = [(at, word) for word in self.decoding.stop if (at := whole_text.find(word)) >= 0]
        return min(found)[1] if found else ""

    def texts(self, made: Sequence[Generated]) -> Outputs:
        return texts([finished(one, self.text, self.decoding.stop) for one in made])


def new_tokens(one: Generated) -> int | None:
    return one.new if one.ids is None else len(one.ids)


def each_s(one: Generated) -> float | None:
    """Seconds of a token after the first; None where there is none, or the engine does not tell."""
    later = (new_tokens(one) or 0) - 1
    return one.later_s / later if one.later_s is not None and later > 0 else None


def _first(details: Mapping[str, Any], rows: int) -> dict[str, Any]:
    return {name: column[:rows] for name, column in details.items()}


def size(prompt: Prompt) -> int:
    return len(prompt.ids) if prompt.features is None else prompt.features.shape[-1]


def finished(one: Generated, text: Callable[[Sequence[int]], str], stop: Sequence[str]) -> str:
    """The answer's text up to the first stop string. NULs would not survive in an array of texts."""
    if one.ids is None and one.text is None:
        raise EngineError("the engine gave neither text nor tokens")
    whole_text = one.text if one.text is not None else text(one.ids or ())
    ends = [at for word in stop if (at := whole_text.find(word)) >= 0]
    return (whole_text[: min(ends)] if ends else whole_text).replace("\x00", "")
