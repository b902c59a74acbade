"""A text as words or sentences, each with the space that follows it, so that any of them can be left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llm_moments.core.parts import Part, Parts

# Scripts that put no space between words: there every character is a part.
ALONE = r"[\u0e00-\u0e7f\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
WORD = re.compile(rf"{ALONE}\s*|(?:(?!{ALONE})\S)+\s*")
SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+|\n|\Z)\s*", re.S)
KINDS = {"words": WORD, "sentences": SENTENCE}


def pieces(text: str, kind: str) -> list[tuple[int, int]]:
    """(first character, end) of each, spaces that follow included; together with a beginning of spaces the whole text."""
    return [found.span() for found in KINDS[kind].finditer(text)]


def text_parts(value: str | tuple[str, str], kind: str) -> Parts:
    """Of a text, or of both texts of a pair, whose fields are called text and text_pair."""
    fields = (value,) if isinstance(value, str) else value
    spans = [(at, *span) for at, text in enumerate(fields) for span in pieces(text, kind)]
    names = ("text", "text_pair")
    parts = tuple(
        Part(fields[at][a:b].strip(), (names[at], a, a + len(fields[at][a:b].rstrip()))) for at, a, b in spans
    )

    def keep(kept: Sequence[bool]) -> Any:
        made = [
            "".join(fields[f][a:b] for (f, a, b), on in zip(spans, kept, strict=True) if on and f == at)
            for at in range(len(fields))
        ]
        return made[0] if isinstance(value, str) else tuple(made)

    return Parts(kind, parts, keep)
