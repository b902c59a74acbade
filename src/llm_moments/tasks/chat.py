"""Dialogue and text generation: a causal language model answers messages, or goes on with a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_moments.base.errors import DataError, EngineError, ModelError, PlanError
from llm_moments.base.notes import note
from llm_moments.core import NULL, Batch, Change, Knob, Outputs, Plan, Recorder, Step
from llm_moments.core.parts import Part, Parts
from llm_moments.engines.generator import Prompt
from llm_moments.models.generation_settings import asked_by, decoding_of
from llm_moments.steps.decode import Decode
from llm_moments.steps.dialogue_parts import KINDS, dialogue_parts, prompt_parts
from llm_moments.steps.overflow import fails
from llm_moments.steps.prompt import (
    Context,
    Dialogue,
    Template,
    TokenizePrompt,
    messages_of,
    tokens_after,
    with_system,
)
from llm_moments.tasks.generation import decoding_changes, engine_changes, first_engine, is_pair, whole_text
from llm_moments.tasks.text_support import TextSupport

UNBOUNDED = 10**9
NEW_TOKENS = 256  # as transformers' pipeline has it where a folder does not say


class TextGeneration(TextSupport):
    """`text-generation`: prompts are gone on with as they are."""

    name = "text-generation"
    prompted = True
    by_token = True
    templated = False

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        if self.model.format == "remote":  # the server has template, tokenizer and context
            if fails(plan.settings("context")):
                raise PlanError("a server has the context and does not say what it cuts; take context.on_overflow back")
            if plan.settings("decode").get("logprobs", -1) >= 0:
                raise PlanError(
                    "log-probabilities are told by engines that run here, not by a server; take decode.logprobs back"
                )
            ask = Decode(plan.settings("forward"), plan.settings("decode"), engines, str, False)
            return [Messages(plan.settings("template") if self.templated else None), ask]
        makes_text(self.model, self.name)
        dialogue, asked = dialogue_of(self.model), asked_by(self.model)
        if self.templated and not dialogue.has_template:
            raise ModelError(
                f"{self.model.name} has no chat template, so it cannot be talked with: let it go on with a text (`moments run MODEL TEXT "
                "--task text-generation`), or put the template it was trained with beside it (chat_template.jinja)"
            )
        new = int(plan.settings("decode").get("max_new_tokens", 256))
        whole = 0 if "max_new_tokens" in asked else asked.get("max_length", 0)  # the first of them holds
        # What a folder asks for may be all of the context: a prompt has half of that, and its answer what it leaves.
        folders = {"max_new_tokens", "max_length"} & set(asked) and new == new_tokens(asked, self.model.max_length)
        return [
            Template(plan.settings("template"), dialogue if self.templated else None),
            TokenizePrompt(dialogue),
            Context(plan.settings("context"), dialogue, self.model.max_length, min(new, self.model.max_length // 2) if folders else new),
            MakePrompts(whole if folders else 0, self.model.max_length if folders else 0, cut_at(self.model, new)),
            Decode(
                plan.settings("forward"), plan.settings("decode"), engines, dialogue.decode,
                plan.settings("batch").get("order") == "length",
            ),
        ]  # fmt: skip

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        template = {"template": Template.knobs} if self.templated else {}
        return {**template, "tokenize": (), "context": Context.knobs, **self.base_knobs()}

    def stock(self) -> dict[str, dict[str, Any]]:
        """transformers' `generate` as the folder asks for it, one prompt a call, but greedy: what others are held against."""
        makes_text(self.model, self.name)
        asked = asked_by(self.model)
        return {
            "forward": {
                "engine": first_engine(self.model),
                "precision": "as-is" if self.model.format == "remote" else "fp32",
            },
            "decode": {
                "temperature": 0.0,
                **decoding_of(asked),
                "max_new_tokens": new_tokens(asked, self.model.max_length),
            },
        }

    def amounts(self, pipe: Any, values: Sequence[Any], outputs: Outputs) -> dict[str, int]:
        found = {"rows": len(values)}
        if self.model.format == "remote":
            return found
        dialogue, new = dialogue_of(self.model), int(pipe.plan.settings("decode").get("max_new_tokens", 256))
        # A text's own tokens may be fewer than those that made it, and the token that ends it is one more.
        answers = [len(dialogue.encode_plain(str(text))) + 2 for text in outputs["text"]]
        return {**found, "answer": max(answers, default=0), "context": max(map(len, prompt_ids(pipe, values))) + new}

    def quick(self, plan: Plan, engines: Any) -> Mapping[str, Any]:
        from llm_moments.engines.quickest import quickest

        return quickest(engines, plan.settings("forward"), plan.settings("decode"))

    def changes(self, plan: Plan) -> list[Change]:
        return [*engine_changes(self.model), *decoding_changes(plan, self.model)]

    def alternatives(self, plan: Plan) -> list[Change]:
        new = int(plan.settings("decode").get("max_new_tokens", 256))
        shorter = [Change(f"at most {n} tokens", {"decode.max_new_tokens": n}, False) for n in (32, 64, 128) if n < new]
        room = min(int(plan.settings("context").get("max_tokens", 0)) or self.model.max_length, self.model.max_length)
        less = [
            Change(f"a context of {n} tokens", {"context.max_tokens": n}, False)
            for n in (512, 1024, 2048)
            if new < n < room
        ]
        found = [*self.changes(plan), *shorter, *less]
        return [one for one in found if plan.with_(**one.choices) != plan]

    def normalise(self, value: Any) -> Any:
        if isinstance(value, Mapping) and "prompt" in value:
            value = value["prompt"]
        if isinstance(value, Mapping) and "text" in value:
            value = value["text"]
        if not whole_text(value, "a prompt").strip():
            raise DataError("a prompt is empty")
        return value

    # -- what an answer rests on

    part_kinds: tuple[str, ...] = tuple(kind for kind in KINDS if kind != "turns")

    def divided(self, value: Any, kind: str) -> Parts:
        return prompt_parts(value, kind)

    def before(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.ids or tuple(dialogue_of(self.model).nothing)

    def tokens_of(self, prompt: Prompt, text: str) -> list[int]:
        return tokens_after(dialogue_of(self.model), prompt.ids, None if self.templated else prompt.text, text)

    def text_of(self, tokens: Sequence[int]) -> str:
        return dialogue_of(self.model).decode(tokens)

    def tokens_along(self, pipe: Any, value: Any, answer: Outputs) -> tuple[list[int], list[int]] | None:
        prompt: Prompt = self._through(pipe, [value])["prompts"][0]
        return list(prompt.ids), answer["told"].row(0).tolist()[: self._length(answer)]

    def unseen(self, pipe: Any, value: Any) -> list[Part]:
        """Turns, and beginnings of messages, that the context had no room for."""
        context = next((step for step in pipe.steps if isinstance(step, Context)), None)
        if context is None:
            return []  # a server cuts by itself
        batch = Batch(1, {"input": [value]})
        for step in pipe.steps[: pipe.steps.index(context)]:
            batch = step(batch, NULL)
        return context.lost(batch["messages"][0], batch["text"][0], list(batch["ids"][0]), self.asked_in(value))

    def asked_in(self, value: Any) -> Any:
        """The prompt or dialogue of an input."""
        return value

    def widest(self, pipe: Any, value: Any) -> Mapping[str, Any] | None:
        return {"context.max_tokens": 0} if pipe.plan.settings("context").get("max_tokens") else None


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

    part_kinds: tuple[str, ...] = KINDS

    def divided(self, value: Any, kind: str) -> Parts:
        if isinstance(value, str):
            return prompt_parts(value, kind, empty=(("user", ""),))
        return dialogue_parts(value, kind, dialogue_of(self.model).takes)


def new_tokens(asked: Mapping[str, Any], window: int) -> int:
    """Most new tokens: as the folder says, but for a max_length of a whole context; else 256, or half of the context."""
    told = asked.get("max_new_tokens") or min(asked.get("max_length", 0) - 1, NEW_TOKENS)
    return max(min(int(told), window - 1) if told > 0 else min(NEW_TOKENS, window // 2), 1)


def cut_at(model: Any, new: int) -> str:
    """What is to be told where answers have fewer tokens than the folder would let them have, and nobody chose that."""
    asked = asked_by(model)
    more = next((f"{name} = {asked[name]}" for name in ("max_new_tokens", "max_length") if name in asked), "")
    if (
        not more
        or new != new_tokens(asked, model.max_length)
        or new >= asked.get("max_new_tokens", asked.get("max_length", 1) - 1)
    ):
        return ""
    return f"{model.name}: an answer has at most {new} tokens here; its folder asks for {more}: --set decode.max_new_tokens=N"


def makes_text(model: Any, task: str) -> None:
    """ModelError for a folder whose architecture is known to be for something else."""
    names = [str(name) for name in model.config.get("architectures") or []]
    if any(end in name for name in names for end in ("CausalLM", "LMHeadModel")):
        return
    if any("Classification" in name for name in names) or "num_mel_bins" in model.config:
        raise ModelError(
            f"{model.name} ({', '.join(names)}) makes no text, so {task} is not for it: `moments run MODEL INPUT` "
            "without --task gives its answers"
        )
    if any("ForConditionalGeneration" in name or name == "MarianMTModel" for name in names):
        raise ModelError(
            f"{model.name} ({', '.join(names)}) reads a text and writes another: its task is translation, not {task}"
        )
    if names and not model.trust_remote_code and all(name.endswith(("Model", "MaskedLM")) for name in names):
        raise ModelError(
            f"{model.name} ({', '.join(names)}) has no head that makes text, so {task} is not for it. Take a causal language "
            "model (…ForCausalLM), or train a classifier on it: moments train MODEL --data FILE --out DIR"
        )


class MakePrompts:
    """Writes `prompts`: what a generating engine takes. whole: most tokens of prompt and answer together, where the
    folder says that (max_length); window: tokens of the context, where an answer might go beyond; said: a note, told
    once there is a prompt."""

    name = "batch"
    reads: tuple[str, ...] = ("ids", "messages", "text")
    writes: tuple[str, ...] = ("prompts",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, whole: int = 0, window: int = 0, said: str = ""):
        self.whole, self.window, self.said = whole, window, said

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        if self.said:
            note(self.said)
        rows = zip(batch["ids"], batch["messages"], batch["text"], strict=True)
        recorder.count(tokens=sum(map(len, batch["ids"])))
        prompts = [
            Prompt(tuple(ids), messages=turns or (), text=text, most=self.most(ids)) for ids, turns, text in rows
        ]
        return batch.with_(prompts=prompts)

    def most(self, ids: Sequence[int]) -> int:
        if self.whole and len(ids) >= self.whole:
            raise DataError(
                f"a prompt of {len(ids)} tokens leaves no room for an answer: the model's folder asks for at most "
                f"{self.whole} of both together (max_length in generation_config.json). Shorten it, or mend it there"
            )
        most = min(self.whole or UNBOUNDED, self.window or UNBOUNDED)
        return most - len(ids) if most < UNBOUNDED else 0


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


def prompt_ids(pipe: Any, values: Sequence[Any]) -> list[list[int]]:
    """Token ids of the prompts, by the pipeline's own steps before the engine."""
    batch = Batch(len(values), {"input": [pipe.task.normalise(value) for value in values]})
    for step in pipe.steps:
        if step.name == "batch":
            break
        batch = step(batch, NULL)
    if "ids" not in batch.fields:
        raise EngineError(f"{pipe.model.name} has its tokenizer elsewhere; its tokens are not known here")
    return [list(ids) for ids in batch["ids"]]
