"""From a question or a dialogue to the token ids that a language model reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_moments.base.errors import DataError, EngineError, ModelError, RowsTooLong
from llm_moments.core import Batch, Knob, Recorder, whole
from llm_moments.core.parts import Part
from llm_moments.core.usage import numbers
from llm_moments.steps.overflow import OVERFLOW, fails
from llm_moments.steps.template_bounds import bound_templates

Messages = tuple[tuple[str, str], ...]
ROLES = ("system", "user", "assistant", "tool")
SHARES = ("template_tokens", "system_tokens", "history_tokens", "user_tokens")  # of a prompt
PARTS = ("text", "input_text", "output_text")  # types of content parts that are texts
CALLS = ("tool_calls", "function_call")
MARK = "\ue0f3{}\ue0f4"  # private characters: no tokenizer has a special token of them


class Dialogue:
    """A tokenizer and its chat template: messages -> text -> token ids.

    What a user writes stays text: control tokens inside a message are not read as such.
    """

    def __init__(self, tokenizer: Any):
        bound_templates()
        self.tokenizer = tokenizer
        specials = {str(token) for token in getattr(tokenizer, "added_tokens_encoder", {})}
        specials |= set(map(str, tokenizer.all_special_tokens))
        self.control = (
            re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True)))) if specials else None
        )

    @property
    def has_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def nothing(self) -> list[int]:
        """What a text stands after that stands after nothing: the token that texts begin with or, where there is none, that
        ends the one before. EngineError without both."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [int(token)]
        raise EngineError(
            "this tokenizer has no token that texts begin or end with, so nothing can stand at a beginning"
        )

    def render(self, messages: Messages, begin: bool = True) -> str:
        """The dialogue as one text that ends where the answer begins, or, without begin, after its last message."""
        told = [{"role": role, "content": content} for role, content in messages]
        try:
            return str(self.tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=begin))
        except Exception as error:
            raise ModelError(f"this model's chat template does not take that dialogue: {error!s:.200}") from error

    def takes(self, messages: Sequence[tuple[str, str]]) -> bool:
        """Whether the template writes such a dialogue down."""
        try:
            self.render(tuple(messages))
        except ModelError:
            return False
        return True

    def encode(self, messages: Messages, begin: bool = True) -> list[int]:
        if not any(self.has_control(content) for _, content in messages):
            return self._ids(self.render(messages, begin))
        marked = tuple((role, MARK.format(at)) for at, (role, _) in enumerate(messages))
        ids: list[int] = []
        for piece in re.split(f"({MARK.format('[0-9]+')})", self.render(marked, begin)):
            if found := re.fullmatch(MARK.format("([0-9]+)"), piece):
                ids += self.encode_plain(messages[int(found[1])][1])
            elif piece:
                ids += self._ids(piece)
        return ids

    def has_control(self, text: str) -> bool:
        return self.control is not None and bool(self.control.search(text))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])  # the cut is told here

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is a control token."""
        if not self.has_control(text):
            return self._ids(text)
        split = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(split["input_ids"])

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with what the tokenizer puts before every text (BOS)."""
        ids = self.encode_plain(text)
        build = getattr(self.tokenizer, "build_inputs_with_special_tokens", None)
        whole_row = list(self.tokenizer("a")["input_ids"])
        start = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        at = next((i for i in range(len(whole_row)) if whole_row[i : i + len(start)] == start), 0)
        return whole_row[:at] + ids if at or build is None else ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def tokens_after(dialogue: Dialogue, ids: Sequence[int], prompt: str | None, text: str) -> list[int]:
    """Token ids of a text where it follows a prompt of these ids; prompt: its text, where it is a plain one: there the two
    are joined by a space where neither has white space at the joint, and the tokens are those of the whole."""
    if prompt is not None:
        text = text if prompt[-1:].isspace() or text[:1].isspace() else f" {text}"
        whole_text = dialogue.encode_prompt(prompt + text)
        if whole_text[: len(ids)] == list(ids) and len(whole_text) > len(ids):
            return whole_text[len(ids) :]
    found = dialogue.encode_plain(text)
    if not found:
        raise DataError(f"the text {text!r:.40} has no tokens, so it has no likelihood")
    return found


def messages_of(value: Any) -> Messages:
    """(role, content) pairs of a dialogue as OpenAI's API writes it; DataError names what is wrong."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"messages are a list of {{'role': …, 'content': …}}, not {value!r:.80}")
    return tuple(_turn(at, message) for at, message in enumerate(value, 1))


def _turn(at: int, message: Any) -> tuple[str, str]:
    """Role and content of a message, the at-th. What a model of texts is not shown is refused, never left out."""
    if isinstance(message, tuple | list) and len(message) == 2:
        message = {"role": message[0], "content": message[1]}
    if not isinstance(message, Mapping):
        raise DataError(f"message {at} should be {{'role': …, 'content': a text}}, not {message!r:.80}")
    role, content = message.get("role"), message.get("content")
    if called := next((name for name in CALLS if message.get(name)), None):
        raise DataError(
            f"message {at} has {called}, which this model is not shown; write the call into its content as text"
        )
    if role == "developer":  # what OpenAI calls the system prompt of newer models
        role = "system"
    if role not in ROLES:
        raise DataError(f"message {at} has the role {role!r}; known are {', '.join(ROLES)}")
    if isinstance(content, list | tuple):
        content = "\n".join(_part(at, number, part) for number, part in enumerate(content, 1))
    if not isinstance(content, str):
        raise DataError(f"message {at} should be {{'role': …, 'content': a text}}, not {message!r:.80}")
    return str(role), content


def _part(at: int, number: int, part: Any) -> str:
    """The text of a content part, as OpenAI's API writes it; several stand on lines of their own, as in vLLM."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    what = f"of the type {kind!r}" if kind is not None and kind not in PARTS else repr(part)[:80]
    raise DataError(f"message {at}, part {number} is {what}, and this model takes texts: {{'type': 'text', 'text': …}}")


def with_system(value: str | Messages, system: str) -> Messages:
    """An input as a dialogue, with that system prompt where it has none of its own."""
    turns: Messages = (("user", value),) if isinstance(value, str) else value
    return (("system", system), *turns) if system and turns[0][0] != "system" else turns


class Template:
    """Writes `messages` and `text`: each input as a dialogue (with the plan's system prompt) and as one text."""

    name = "template"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("messages", "text")
    knobs: tuple[Knob, ...] = (
        Knob("system", "", (), False, lambda v: isinstance(v, str), "system prompt of dialogues that have none"),
    )

    def __init__(self, settings: Any, dialogue: Dialogue | None):
        self.system, self.dialogue = str(settings.get("system", "")), dialogue

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        messages, texts = [], []
        for value in batch["input"]:
            turns: Messages | None = None
            text = value
            if self.dialogue is not None:
                turns = with_system(value, self.system)
                text = "" if self.dialogue.has_control(str(turns)) else self.dialogue.render(turns)
            messages.append(turns)
            texts.append(text)
        return batch.with_(messages=messages, text=texts)


class TokenizePrompt:
    """Writes `ids`: the token ids of each prompt, before anything is cut."""

    name = "tokenize"
    reads: tuple[str, ...] = ("messages", "text")
    writes: tuple[str, ...] = ("ids",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, dialogue: Dialogue):
        self.dialogue = dialogue

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        encoded = [
            self.dialogue.encode_prompt(text) if turns is None else self.dialogue.encode(turns)
            for turns, text in zip(batch["messages"], batch["text"], strict=True)
        ]
        recorder.count(tokens=sum(map(len, encoded)))
        return batch.with_(ids=encoded)


class Context:
    """Makes prompts fit into the context: the oldest turns go first, the system prompt stays; where the last
    message alone is too long its beginning goes. Of a plain prompt the beginning goes, too.

    Counts and tells of each row `cut_tokens` and how the context is shared: `system_tokens`, `history_tokens`,
    `user_tokens` (contents), `template_tokens` (all else). Counts `cut_rows`, `cut_turns`.
    """

    name = "context"
    reads: tuple[str, ...] = ("messages", "ids")
    writes: tuple[str, ...] = ("ids", "messages")
    knobs: tuple[Knob, ...] = (
        Knob("max_tokens", 0, (256, 512, 1024, 2048, 4096), False, whole(0), "most tokens of prompt and answer; 0: all the model has", bounds="context"),
        OVERFLOW,
    )  # fmt: skip

    def __init__(self, settings: Any, dialogue: Dialogue, window: int, new_tokens: int):
        self.new_tokens, self.may_cut = new_tokens, not fails(settings)
        most = min(int(settings.get("max_tokens", 0)) or window, window)
        self.room = most - new_tokens
        if self.room < 1:
            raise DataError(
                f"decode.max_new_tokens = {new_tokens} leaves no room for a prompt in a context of {most} tokens; make it smaller"
            )
        self.dialogue = dialogue

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        ids, messages = list(batch["ids"]), list(batch["messages"])
        long = [row for row, tokens in enumerate(ids) if len(tokens) > self.room]
        if long and not self.may_cut:
            raise RowsTooLong({row: self.refusal(len(ids[row])) for row in long})
        turns_cut, cut = 0, [0] * batch.size
        for row in long:
            turns, tokens = messages[row], ids[row]
            messages[row], ids[row] = self.fitted(turns, tokens)
            cut[row] = len(tokens) - len(ids[row])
            turns_cut += len(turns or ()) - len(messages[row] or ())
        shares = [self.shares(turns, tokens) for turns, tokens in zip(messages, ids, strict=True)]
        columns = {name: [one[name] for one in shares] for name in SHARES}
        recorder.count(cut_rows=len(long), cut_turns=turns_cut, cut_tokens=sum(cut))
        recorder.count(**{name: sum(column) for name, column in columns.items()})
        details = {name: numbers(column) for name, column in columns.items()}
        return batch.with_(ids=ids, messages=messages).told(cut_tokens=numbers(cut), **details)

    def refusal(self, tokens: int) -> str:
        return (
            f"a prompt of {tokens:,} tokens, and there is room for {self.room:,} beside an answer of {self.new_tokens:,} "
            "(context.max_tokens, decode.max_new_tokens); it may not be cut (context.on_overflow = fail)"
        )

    def fitted(self, turns: Messages | None, tokens: list[int]) -> tuple[Messages | None, list[int]]:
        if turns is None:
            return None, tokens[-self.room :]
        first = 1 if turns[0][0] == "system" else 0
        kept = list(turns)
        while len(tokens) > self.room and len(kept) > first + 1:
            kept.pop(first)
            while len(kept) > first + 1 and kept[first][0] != "user":  # an answer without its question
                kept.pop(first)
            tokens = self.dialogue.encode(tuple(kept))
        while len(tokens) > self.room:
            role, content = kept[-1]
            own = self.dialogue.encode_plain(content)
            over = len(tokens) - self.room
            if over >= len(own):
                raise DataError(
                    f"the system prompt and the template alone are longer than the {self.room} tokens that there is room for"
                )
            kept[-1] = (role, self.dialogue.decode(own[over:]))
            shorter = self.dialogue.encode(tuple(kept))
            if len(shorter) >= len(tokens):  # decoding and encoding again gave more tokens than were cut
                raise DataError("the last message cannot be cut to the context; shorten it")
            tokens = shorter
        return tuple(kept), tokens

    def lost(self, turns: Messages | None, text: str, tokens: list[int], given: str | Messages) -> list[Part]:
        """What of a prompt there is no room for: whole turns, and the beginning of the last message. given: the input, whose
        turns are counted."""
        if len(tokens) <= self.room:
            return []
        kept, ids = self.fitted(turns, tokens)
        if turns is None or kept is None:
            gone = self.dialogue.decode(tokens[: len(tokens) - len(ids)])
            return [Part(gone, ("text", 0, min(len(gone), len(text))))]
        first = 1 if turns[0][0] == "system" else 0
        dropped, own = len(turns) - len(kept), 1 if isinstance(given, str) else len(given)
        shift = len(turns) - own  # the plan's system prompt
        found = [
            Part(content, (f"turn {at + 1 - shift}", 0, len(content)), f"turn {at + 1 - shift}")
            for at, (_, content) in enumerate(turns)
            if first <= at < first + dropped
        ]
        whole_last, last = turns[-1][1], kept[-1][1]
        if last != whole_last:
            cut = len(whole_last) - len(last)
            found.append(Part(whole_last[:cut], ("text" if isinstance(given, str) else f"turn {own}", 0, cut)))
        return found

    def shares(self, turns: Messages | None, ids: Sequence[int]) -> dict[str, int]:
        """Tokens of the prompt by whose they are."""
        told = dict.fromkeys(SHARES, 0)
        if turns is None:
            return told | {"user_tokens": len(ids)}
        for at, (role, content) in enumerate(turns):
            place = "user" if at == len(turns) - 1 else "system" if role == "system" else "history"
            told[f"{place}_tokens"] += len(self.dialogue.encode_plain(content))
        return told | {"template_tokens": max(len(ids) - sum(told.values()), 0)}
