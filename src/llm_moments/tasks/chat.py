"""Dialogue and text generation: a causal language model answers messages, or goes on with a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_moments.core import Batch, Knob, Plan, Recorder, Step
from llm_moments.engines.generator import Prompt
from llm_moments.errors import DataError
from llm_moments.steps.decode import Decode
from llm_moments.steps.prompt import Context, Dialogue, Template, TokenizePrompt, messages_of, with_system
from llm_moments.tasks.generation import (
    Generation,
    decoding_tries,
    engine_tries,
    first_engine,
    is_pair,
    whole_text,
)


class TextGeneration(Generation):
    """`text-generation`: prompts are gone on with as they are."""

    name = "text-generation"
    templated = False

    def steps(self, model: Any, plan: Plan, engines: Any) -> list[Step]:
        if model.format == "remote":  # the server has template, tokenizer and context
            ask = Decode(plan.settings("forward"), plan.settings("decode"), engines, str, False)
            return [Messages(plan.settings("template") if self.templated else None), ask]
        dialogue = dialogue_of(model)
        new = int(plan.settings("decode").get("max_new_tokens", 256))
        return [
            Template(plan.settings("template"), dialogue if self.templated else None),
            TokenizePrompt(dialogue),
            Context(plan.settings("context"), dialogue, model.max_length, new),
            MakePrompts(),
            Decode(
                plan.settings("forward"), plan.settings("decode"), engines, dialogue.decode,
                plan.settings("batch").get("order") == "length",
            ),
        ]  # fmt: skip

    def knobs(self, model: Any) -> Mapping[str, Sequence[Knob]]:
        template = {"template": Template.knobs} if self.templated else {}
        return {**template, "tokenize": (), "context": Context.knobs, **self.base_knobs()}

    def stock(self, model: Any) -> dict[str, dict[str, Any]]:
        """transformers' `generate`, one prompt a call, greedy: what others are held against."""
        return {
            "forward": {"engine": first_engine(model), "precision": "as-is" if model.format == "remote" else "fp32"},
            "decode": {"max_new_tokens": min(256, max(model.max_length // 2, 1)), "temperature": 0.0},
        }

    def tries(self, model: Any, plan: Plan) -> list[tuple[str, dict[str, Any], bool]]:
        """What a search may change: (name, changes, whether the answers stay the same)."""
        return [*engine_tries(model), *decoding_tries(plan, model)]

    def priced_changes(self, model: Any, plan: Plan) -> list[tuple[str, dict[str, Any], bool]]:
        """What `weigh` prices, each alone on top of this plan."""
        new = int(plan.settings("decode").get("max_new_tokens", 256))
        shorter = [(f"at most {n} tokens", {"decode.max_new_tokens": n}, False) for n in (32, 64, 128) if n < new]
        room = min(int(plan.settings("context").get("max_tokens", 0)) or model.max_length, model.max_length)
        less = [
            (f"a context of {n} tokens", {"context.max_tokens": n}, False) for n in (512, 1024, 2048) if new < n < room
        ]
        found = [*self.tries(model, plan), *shorter, *less]
        return [one for one in found if plan.with_(**one[1]) != plan]

    def normalise(self, value: Any) -> Any:
        if isinstance(value, Mapping) and "prompt" in value:
            value = value["prompt"]
        if isinstance(value, Mapping) and "text" in value:
            value = value["text"]
        if not whole_text(value, "a prompt").strip():
            raise DataError("a prompt is empty")
        return value


class Chat(TextGeneration):
    """`chat`: messages in the model's own template; a plain text is one message of the user."""

    name = "chat"
    templated = True

    def normalise(self, value: Any) -> Any:
        if isinstance(value, Mapping) and "messages" in value:
            value = value["messages"]
        if isinstance(value, Mapping | str) or is_pair(value):
            return super().normalise(value)
        turns = messages_of(value)
        for _, content in turns:
            whole_text(content, "a message")
        if turns[-1][0] == "assistant":
            raise DataError("a dialogue ends with the user's message, not with an answer")
        return turns


class MakePrompts:
    """Writes `prompts`: what a generating engine takes."""

    name = "batch"
    reads: tuple[str, ...] = ("ids", "messages", "text")
    writes: tuple[str, ...] = ("prompts",)
    knobs: tuple[Knob, ...] = ()

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        rows = zip(batch["ids"], batch["messages"], batch["text"], strict=True)
        recorder.count(tokens=sum(map(len, batch["ids"])))
        return batch.with_(prompts=[Prompt(tuple(ids), messages=turns or (), text=text) for ids, turns, text in rows])


class Messages:
    """Writes `prompts` for a server that renders and counts by itself. settings: of the template; None: plain prompts."""

    name = "template"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("prompts",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, settings: Any):
        self.settings = settings

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        if self.settings is None:
            return batch.with_(prompts=[Prompt(text=text) for text in batch["input"]])
        turns = [with_system(value, str(self.settings.get("system", ""))) for value in batch["input"]]
        return batch.with_(prompts=[Prompt(messages=told) for told in turns])


def dialogue_of(model: Any) -> Dialogue:
    """One for each model: a tokenizer takes a moment to open."""
    if "_dialogue" not in model.__dict__:
        model.__dict__["_dialogue"] = Dialogue(model.tokenizer)
    return model.__dict__["_dialogue"]
