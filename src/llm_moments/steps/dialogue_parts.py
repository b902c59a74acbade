"""A prompt or a dialogue as its turns, notes, sentences or words, any of which can be left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llm_moments.core.parts import Part, Parts
from llm_moments.steps.text_parts import pieces

KINDS = ("pieces", "turns", "paragraphs", "sentences", "words")
FINER = ("paragraphs", "sentences", "words")
Messages = Sequence[tuple[str, str]]
BLOCK = re.compile(r".+?(?:\n[ \t]*(?:\n\s*)|\Z)", re.S)
LINE = re.compile(r"[^\n]*\n\s*|[^\n]+\Z")
LISTED = re.compile(r"\s*(?:[-*•–]|\(?\w{1,3}[.):\]])\s|.*[.!?:;。！？…][\"'”’)\]]*\s*$", re.S)


@dataclass(frozen=True)
class Span:
    """A stretch of a message's text."""

    turn: int
    start: int
    end: int
    asks: bool = False


def split(text: str, kind: str) -> list[tuple[int, int]]:
    """(first character, end) of each; they follow one another without a gap and are the whole text."""
    if not text.strip():
        return [(0, len(text))]
    if kind == "turns":
        return [(0, len(text))]
    found = _paragraphs(text) if kind == "paragraphs" else pieces(text, kind)
    starts = [0, *(start for start, _ in found[1:])]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def _paragraphs(text: str) -> list[tuple[int, int]]:
    """Blocks between empty lines; of a block whose lines are notes or whole sentences, the lines."""
    found = []
    for block in BLOCK.finditer(text):
        lines = [one for one in LINE.finditer(block[0]) if one[0].strip()]
        if len(lines) > 1 and 2 * sum(bool(LISTED.match(one[0])) for one in lines) >= len(lines):
            found += [(block.start() + one.start(), block.start() + one.end()) for one in lines]
        elif block[0].strip():
            found.append(block.span())
    return found


def prompt_parts(text: str, kind: str, empty: Any = "", asks: bool = True) -> Parts:
    """Of a plain text. empty: what is asked where nothing is left of it; asks: it may hold a question that is answered."""
    kinds = FINER if kind in ("pieces", "turns") else (kind,)
    spans, found = [Span(0, 0, len(text))], kinds[-1]
    for found in kinds:
        spans = [Span(0, *ends) for ends in split(text, found)]
        if len(spans) > 1:
            break
    return _Written(((None, text),), lambda kept: kept[0][1] if kept and kept[0][1].strip() else empty).parts(
        _asking(spans, text) if asks and found != "words" else spans, found
    )


def dialogue_parts(messages: Messages, kind: str, takes: Callable[[Messages], bool] = lambda some: True) -> Parts:
    """Of (role, content) messages, of which the last one stays, even if nothing is left of it.

    takes: whether the template writes such a dialogue down. Where it does not without one of the turns, a turn that is left
    out stays as an empty one."""
    last = len(messages) - 1
    if not last and kind in ("pieces", "turns"):
        inner = prompt_parts(messages[0][1], kind)
        spans = [Span(0, p.place[1], p.place[2], p.asks) for p in _whole(inner, messages[0][1])]
        return _written(messages, takes).parts(spans, inner.kind)
    spans = []
    for turn, (_, text) in enumerate(messages):
        if kind in ("pieces", "turns"):
            ends = split(text, "paragraphs" if kind == "pieces" else "turns")
        else:
            ends = split(text, kind)
        own = [Span(turn, *pair) for pair in ends]
        if turn == last and kind != "words":
            own = _asking(own, text, alone=True)
        spans += own
    return _written(messages, takes).parts(spans, kind)


def _whole(parts: Parts, text: str) -> list[Part]:
    """The parts with the space between them: they are the whole text."""
    starts = [0, *(part.place[1] for part in parts.parts[1:])]
    ends = [*starts[1:], len(text)]
    return [
        Part(part.name, (part.place[0], start, end), part.title, part.asks)
        for part, start, end in zip(parts.parts, starts, ends, strict=True)
    ]


def _asking(spans: list[Span], text: str, alone: bool = False) -> list[Span]:
    """The question among them: what ends with a question mark, the last such one; what stands alone at the end of a
    dialogue."""
    if len(spans) == 1:
        return [Span(one.turn, one.start, one.end, alone) for one in spans]
    asked = [at for at, one in enumerate(spans) if text[one.start : one.end].rstrip().endswith(("?", "？"))]
    marked = asked[-1] if asked else -1
    return [Span(one.turn, one.start, one.end, at == marked) for at, one in enumerate(spans)]


def _written(messages: Messages, takes: Callable[[Messages], bool]) -> _Written:
    def dropped(kept: Sequence[tuple[Any, str]]) -> Any:
        return tuple((str(role), text) for role, text in kept)

    droppable = len(messages) > 1 and all(
        takes([*messages[:at], *messages[at + 1 :]]) for at in range(len(messages) - 1)
    )
    return _Written(tuple(messages), dropped, stays=not droppable)


@dataclass(frozen=True)
class _Written:
    """Texts with their roles, and how an input is made of what is left of them. stays: a text of which nothing is left stays
    as an empty one."""

    texts: tuple[tuple[Any, str], ...]
    made: Callable[[Sequence[tuple[Any, str]]], Any]
    stays: bool = True

    def parts(self, spans: Sequence[Span], kind: str) -> Parts:
        return Parts(kind, tuple(map(self._part, spans)), partial(self._keep, spans), partial(self._inner, spans, kind))

    def _part(self, span: Span) -> Part:
        role, text = self.texts[span.turn]
        stretch = text[span.start : span.end]
        start = span.start + len(stretch) - len(stretch.lstrip())
        place = (
            "text" if role is None else f"turn {span.turn + 1}",
            start,
            max(span.start + len(stretch.rstrip()), start),
        )
        whole = role is not None and len(self.texts) > 1 and span.start == 0 and span.end == len(text)
        name = f"turn {span.turn + 1}" if role in ("user", "assistant", None) else f"{role} (turn {span.turn + 1})"
        return Part(stretch.strip(), place, name if whole else "", span.asks)

    def _keep(self, spans: Sequence[Span], kept: Sequence[bool]) -> Any:
        gone = [span for span, on in zip(spans, kept, strict=True) if not on]
        left = []
        for turn, (role, text) in enumerate(self.texts):
            cut, at = "", 0
            own = [span for span in gone if span.turn == turn]
            for span in own:
                cut, at = cut + text[at : span.start], span.end
            cut += text[at:]
            if self.stays or cut.strip() or not own or turn == len(self.texts) - 1:
                left.append((role, cut))
        return self.made(left)

    def _inner(self, spans: Sequence[Span], kind: str, at: int) -> Parts | None:
        span = spans[at]
        text = self.texts[span.turn][1][span.start : span.end]
        coarse = FINER.index(kind) + 1 if kind in FINER else 0
        for finer in FINER[coarse:]:
            found = [Span(span.turn, span.start + a, span.start + b) for a, b in split(text, finer)]
            if len(found) > 1:
                return self.parts(found, finer)
        return None
