"""From a text in one language to the token ids that a translating model reads, and how its answer must begin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from llm_moments.base.errors import PlanError, RowsTooLong
from llm_moments.core import Batch, Knob, Recorder, whole
from llm_moments.core.usage import numbers
from llm_moments.engines.foreign import quiet
from llm_moments.engines.generator import Prompt
from llm_moments.steps.overflow import OVERFLOW
from llm_moments.steps.truncate import LENGTHS

NLLB_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


class Languages:
    """What a model must be told about languages, in one place for all families.

    Marian of several targets wants `>>code<<` before the text, M2M100, NLLB and mBART a code in the source's tokens
    and one that the answer begins with, T5 a sentence before the text ("translate English to German: "); a Marian of
    one pair wants nothing.
    """

    def __init__(self, model: Any):
        with quiet():  # Marian's recommends a package that its tokens do not need
            self.tokenizer = model.tokenizer
        self.model = model
        specials = {str(token) for token in getattr(self.tokenizer, "added_tokens_encoder", {})}
        self.specials = {*specials, *map(str, self.tokenizer.all_special_tokens)} - {""}
        self.control = re.compile("|".join(map(re.escape, sorted(self.specials)))) if self.specials else None

    @cached_property
    def codes(self) -> list[str]:
        """The codes it knows, sorted; none where it has one pair, or is asked by a sentence."""
        known = getattr(self.tokenizer, "supported_language_codes", None)
        if known:
            return sorted(code.strip("><") for code in known)
        if known := getattr(self.tokenizer, "lang_code_to_id", None):
            return sorted(known)
        return sorted(token for token in self.specials if NLLB_CODE.fullmatch(token))

    @property
    def begins(self) -> bool:
        """Whether the answer must be begun with the target language's token."""
        return bool(self.codes) and not getattr(self.tokenizer, "supported_language_codes", None)

    @cached_property
    def sentences(self) -> dict[str, str]:
        """T5's own: `en to de` -> the sentence before a text."""
        found = self.model.config.get("task_specific_params") or {}
        told = {name.removeprefix("translation_").replace("_to_", " to "): value.get("prefix") for name, value in found.items() if name.startswith("translation_") and isinstance(value, dict)}  # fmt: skip
        return {name: str(prefix) for name, prefix in told.items() if prefix}

    def chosen(self, settings: Mapping[str, Any]) -> tuple[str, str, str]:
        """(source code, target code, text before each source); PlanError for what is missing or unknown."""
        source, target, prefix = (str(settings.get(k, "")) for k in ("source_lang", "target_lang", "prefix"))
        if self.codes:
            self._known(target, "target_lang")
            if self.begins:
                self._known(source, "source_lang")
            elif source:
                raise PlanError(
                    f"{self.model.name} finds the source language by itself; leave translate.source_lang out"
                )
            return source, target, prefix if self.begins else f">>{target}<< {prefix}"
        if prefix or not (source or target or self.sentences):
            if source or target:
                raise PlanError(
                    "translate.prefix says which languages are meant; leave source_lang and target_lang out"
                )
            return "", "", prefix
        if not self.sentences:
            raise PlanError(
                f"{self.model.name} translates one pair of languages; leave translate.source_lang and target_lang out"
            )
        if f"{source} to {target}" not in self.sentences:
            raise PlanError(
                f"{self.model.name} was not told which languages: translate.source_lang = {source!r}, target_lang = "
                f"{target!r}; it knows {', '.join(self.sentences)}. Or give the sentence before a text: translate.prefix"
            )
        return "", "", self.sentences[f"{source} to {target}"]

    def _known(self, code: str, name: str) -> None:
        if code in self.codes:
            return
        near = [known for known in self.codes if code and known.startswith(code)][:3]
        near = near or get_close_matches(code, self.codes, 3) or self.codes[:8]
        said = f"unknown language {code!r} for translate.{name}" if code else f"translate.{name} is missing"
        raise PlanError(
            f"{said}: {self.model.name} knows {len(self.codes)} codes, such as {', '.join(near)}; "
            f"--set translate.{name}={near[0]}"
        )

    def token(self, code: str) -> int:
        """The id that stands for a language in M2M100, NLLB and mBART."""
        numbers = getattr(self.tokenizer, "lang_code_to_id", None)
        return int(numbers[code] if numbers else self.tokenizer.convert_tokens_to_ids(code))

    def beginning(self, start: int, target: str) -> tuple[int, ...]:
        """Tokens an answer begins with: start and language; the language alone where a language is the start (mBART)."""
        starts = start in {self.token(code) for code in self.codes}
        return (self.token(target),) if starts else (start, self.token(target))

    @cached_property
    def closing(self) -> frozenset[int]:
        """Tokens that a source may end with."""
        end = self.tokenizer.eos_token_id
        return frozenset([*([] if end is None else [end]), *(self.token(code) for code in self.codes if self.begins)])

    def encode(self, texts: Sequence[str], source: str = "") -> list[list[int]]:
        """Token ids with the special ones that belong to them. What looks like a control token stays text."""
        if self.begins and source:
            self.tokenizer.src_lang = source
        with quiet():
            return self._encoded(texts)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        odd = [at for at, text in enumerate(texts) if self.has_control(text)]
        ids: list[list[int]] = [list(row) for row in self.tokenizer(list(texts))["input_ids"]]
        for at in odd:
            ids[at] = list(self.tokenizer(texts[at], split_special_tokens=True)["input_ids"])
        return ids

    def has_control(self, text: str) -> bool:
        return self.control is not None and bool(self.control.search(text))

    def answer(self, texts: Sequence[str], target: str = "") -> list[list[int]]:
        """Token ids of translations as the model should make them: the end token last, a language's first."""
        if self.begins and target:
            self.tokenizer.tgt_lang = target
        with quiet():
            return [list(row) for row in self.tokenizer(text_target=list(texts))["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def languages_of(model: Any) -> Languages:
    """One for each model: a tokenizer takes a moment to open."""
    if "_languages" not in model.__dict__:
        model.__dict__["_languages"] = Languages(model)
    return model.__dict__["_languages"]


def _text(value: Any) -> bool:
    return isinstance(value, str)


class Translate:
    """Writes `text`: each input with what this model must be told before it."""

    name = "translate"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("text",)
    knobs: tuple[Knob, ...] = (
        Knob("source_lang", "", (), False, _text, "code of the language that is translated, such as eng_Latn or en"),
        Knob("target_lang", "", (), False, _text, "code of the language that it is translated to"),
        Knob("prefix", "", (), False, _text, "a sentence before each text, such as 'translate English to German: '"),
    )

    def __init__(self, prefix: str, single: bool):
        self.prefix, self.single = prefix, single

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        return batch.with_(text=[self.prefix + self._plain(text) for text in batch["input"]])

    def _plain(self, text: str) -> str:
        """Marian's tokenizer would read `>>de<<` at the beginning of a source as a language."""
        return f" {text}" if self.single and text.startswith(">>") else text


class TokenizeSource:
    """Writes `ids`, special tokens included."""

    name = "tokenize"
    reads: tuple[str, ...] = ("text",)
    writes: tuple[str, ...] = ("ids",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, languages: Languages, source: str):
        self.languages, self.source = languages, source

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        ids = self.languages.encode(batch["text"], self.source)
        recorder.count(tokens=sum(map(len, ids)))
        return batch.with_(ids=ids)


class CutSource:
    """Writes `ids` of at most max_length tokens: of a longer source the end goes, the tokens that close it stay.

    Counts `cut_rows`, `cut_tokens`, which it tells of each row.
    """

    name = "truncate"
    reads: tuple[str, ...] = ("ids",)
    writes: tuple[str, ...] = ("ids",)
    knobs: tuple[Knob, ...] = (
        Knob("max_length", 512, LENGTHS, valid=whole(4), means="most tokens of a source, special ones included, >= 4"),
        OVERFLOW,
    )

    def __init__(self, most: int, closing: frozenset[int], keeps_end: bool = False, may_cut: bool = True):
        """closing: tokens that end a source, its language's among them where that comes last (mBART). keeps_end: the
        beginning goes instead, as a tokenizer's truncation_side may say."""
        self.most, self.closing, self.keeps_end, self.may_cut = most, closing, keeps_end, may_cut

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        ids, over = batch["ids"], [max(len(row) - self.most, 0) for row in batch["ids"]]
        recorder.count(cut_rows=sum(map(bool, over)), cut_tokens=sum(over))
        if any(over) and not self.may_cut:
            raise RowsTooLong({row: self.refusal(len(ids[row])) for row, more in enumerate(over) if more})
        return batch.with_(ids=[self.cut(row) for row in ids] if any(over) else ids).told(cut_tokens=numbers(over))

    def refusal(self, tokens: int) -> str:
        return (
            f"a source of {tokens:,} tokens, and {self.most:,} are taken (truncate.max_length); it may not be cut "
            "(truncate.on_overflow = fail)"
        )

    def cut(self, row: list[int]) -> list[int]:
        if len(row) <= self.most:
            return row
        if self.keeps_end:
            first = next((n for n, token in enumerate(row) if token not in self.closing), 0)
            return [*row[:first], *row[len(row) - self.most + first :]]
        last = next((n for n, token in enumerate(reversed(row)) if token not in self.closing), 0)
        return [*row[: self.most - last], *row[len(row) - last :]]


class SourcePrompts:
    """Writes `prompts`. begin: the tokens that every answer begins with, where the model wants some."""

    name = "batch"
    reads: tuple[str, ...] = ("ids", "text")
    writes: tuple[str, ...] = ("prompts",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, begin: tuple[int, ...]):
        self.begin = begin

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        recorder.count(tokens=sum(map(len, batch["ids"])))
        rows = zip(batch["ids"], batch["text"], strict=True)
        return batch.with_(prompts=[Prompt(tuple(ids), self.begin, text=text) for ids, text in rows])
