"""Text to token ids, without special tokens: those are set when the row is cut to its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_moments.core import Batch, Knob, Recorder
from llm_moments.errors import ModelError

SLACK = 4  # tokens a shortened text must have beyond the need, since its very last ones may differ


@dataclass(frozen=True)
class Template:
    """The special tokens that a tokenizer puts round one text, or round and between two."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]]

    @property
    def extra(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def build(self, first: list[int], second: list[int] | None) -> tuple[list[int], list[int]]:
        """Token ids and token type ids of a whole row."""
        t = self.types
        ids = [*self.before, *first]
        types = [*t[0], *[t[1]] * len(first)]
        if second is not None:
            ids += [*self.between, *second]
            types += [*t[2], *[t[3]] * len(second)]
        return ids + list(self.after), types + list(t[4])


class Encoder:
    """A Hugging Face tokenizer seen as: text -> content ids, plus a template of special tokens."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.backend = self._backend(tokenizer)
        self.names = tuple(tokenizer.model_input_names)
        self.pad_id = tokenizer.pad_token_id
        self.pad_type = getattr(tokenizer, "pad_token_type_id", 0) or 0
        self.pad_left = tokenizer.padding_side == "left"
        self._templates: dict[bool, Template] = {}

    @staticmethod
    def _backend(tokenizer: Any) -> Any:
        """A private copy of the Rust tokenizer that neither cuts nor pads; None for a Python one."""
        if not getattr(tokenizer, "is_fast", False):
            return None
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        return backend

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        if self.backend is None:
            return [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def template(self, pair: bool) -> Template:
        if pair not in self._templates:
            self._templates[pair] = self._probe(pair)
        return self._templates[pair]

    def _probe(self, pair: bool) -> Template:
        """Finds the special tokens by looking at rows that have them, and checks it on other rows."""
        found = self._read_template(("a", "b") if pair else ("a",))
        for texts in (("hello there", "two words more"), ("x", "y z, and 1"), ("Ä 漢字 .", "it's")):
            first, second = self.encode(texts)
            row = self.tokenizer(*(texts if pair else texts[:1]), return_token_type_ids=True)
            ids, types = found.build(first, second if pair else None)
            if list(row["input_ids"]) != ids or list(row["token_type_ids"]) != types:
                raise ModelError(
                    f"{type(self.tokenizer).__name__} does not put the same special tokens round every text; "
                    "such tokenizers are not supported"
                )
        return found

    def _read_template(self, texts: tuple[str, ...]) -> Template:
        contents = self.encode(texts)
        row = self.tokenizer(*texts, return_token_type_ids=True)
        ids, types = list(row["input_ids"]), list(row["token_type_ids"])
        start = _find(ids, contents[0], 0)
        end = start + len(contents[0])
        if len(texts) == 1:
            return Template(
                tuple(ids[:start]), (), tuple(ids[end:]),
                (tuple(types[:start]), types[start], (), 0, tuple(types[end:])),
            )  # fmt: skip
        start2 = _find(ids, contents[1], end)
        end2 = start2 + len(contents[1])
        return Template(
            tuple(ids[:start]), tuple(ids[end:start2]), tuple(ids[end2:]),
            (tuple(types[:start]), types[start], tuple(types[end:start2]), types[start2], tuple(types[end2:])),
        )  # fmt: skip


def _find(row: list[int], part: list[int], start: int) -> int:
    for at in range(start, len(row) - len(part) + 1):
        if row[at : at + len(part)] == part and part:
            return at
    raise ModelError("the tokenizer changes a text's tokens when it adds special ones; that is not supported")


class Tokenize:
    name = "tokenize"
    reads: tuple[str, ...] = ("text", "shortened", "input")
    writes: tuple[str, ...] = ("first", "second")
    knobs: tuple[Knob, ...] = ()

    def __init__(self, encoder: Encoder, needed: int):
        self.encoder, self.needed = encoder, needed

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        texts = batch["text"]
        pairs = [row for row, text in enumerate(texts) if not isinstance(text, str)]
        first = self.encoder.encode([t if isinstance(t, str) else t[0] for t in texts] if pairs else texts)
        second: list[list[int] | None] | None = None  # None for a row that is one text
        if pairs:
            second = [None] * len(texts)
            for row, ids in zip(pairs, self.encoder.encode([texts[row][1] for row in pairs]), strict=True):
                second[row] = ids
        short = [row for row in batch["shortened"] if len(first[row]) < self.needed + SLACK]
        if short:
            whole = self.encoder.encode([batch["input"][row] for row in short])
            for row, ids in zip(short, whole, strict=True):
                first[row] = ids
        if recorder.active:
            made = sum(map(len, first)) + sum(len(ids or ()) for ids in second or ())
            recorder.count(tokens=made, whole_again=len(short))
        return batch.with_(first=first, second=second)
