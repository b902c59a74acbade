"""A tokenizer seen as text -> content ids, and the template of special tokens that it puts round them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_moments.base.errors import ModelError


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

    def __init__(self, tokenizer: Any, config: Mapping[str, Any] | None = None):
        """config: of the model, which says by which token it finds padding."""
        self.tokenizer = tokenizer
        self.backend = self._backend(tokenizer)
        self.names = tuple(tokenizer.model_input_names)
        self.pad_id = pad_token(tokenizer, config or {})
        self.pad_type = getattr(tokenizer, "pad_token_type_id", 0) or 0
        self.keeps_end = tokenizer.truncation_side == "left"
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

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each of its tokens stands; of a tokenizer that does not say: as if all were as long."""
        if self.backend is not None:
            return list(self.backend.encode(text, add_special_tokens=False).offsets)
        n = len(self.encode([text])[0])
        ends = [round(len(text) * at / n) for at in range(n + 1)] if n else []
        return list(zip(ends, ends[1:], strict=False))

    @cached_property
    def splits_at_spaces(self) -> bool:
        """Whether no token reaches from a word across the space after it, so that a text may be cut there.

        A Python tokenizer may look at the whole text (Japanese word splitters do): no.
        """
        if self.backend is None:
            return False
        normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
        if splitter is None and type(self.backend.model).__name__ not in ("BPE", "Unigram"):
            return False
        seen = normalizer.normalize_str("x y") if normalizer else "x y"
        if splitter is not None:
            seen = "".join(piece for piece, _ in splitter.pre_tokenize_str(seen))
        marks = "".join({" ", *seen} - {"x", "y"})  # how a space is written in the vocabulary
        across = re.compile(f"[^{re.escape(marks)}][{re.escape(marks)}]")
        return not any(across.search(piece) for piece in self.backend.get_vocab(with_added_tokens=True))

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


def pad_token(tokenizer: Any, config: Mapping[str, Any]) -> int | None:
    """The model's own padding token, else the tokenizer's; None where neither has one that the model can read."""
    inner = config.get("text_config")
    told = {**(inner if isinstance(inner, Mapping) else {}), **config}
    own = told["pad_token_id"] if "pad_token_id" in told else _usual_pad(told.get("model_type"))
    words = told.get("vocab_size")
    most = words if isinstance(words, int) else float("inf")
    return next((t for t in (own, tokenizer.pad_token_id) if isinstance(t, int) and 0 <= t < most), None)


def _usual_pad(kind: Any) -> int | None:
    """What transformers takes where config.json of this kind says nothing."""
    from transformers import CONFIG_MAPPING

    try:
        found = CONFIG_MAPPING[kind]().pad_token_id
    except Exception:  # an unknown kind, or one that cannot be made without being told its sizes
        return None
    return found if isinstance(found, int) else None


def _find(row: list[int], part: list[int], start: int) -> int:
    for at in range(start, len(row) - len(part) + 1):
        if row[at : at + len(part)] == part and part:
            return at
    raise ModelError("the tokenizer changes a text's tokens when it adds special ones; that is not supported")
