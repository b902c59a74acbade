"""What an input is made of, for those who ask which part of it an answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """name: as it is shown. place: where it stands: ("text", first character, end) of a field of texts; ("image", left,
    top, right, bottom) in pixels; ("audio", second, end)."""

    name: str
    place: tuple[Any, ...]


@dataclass(frozen=True)
class Parts:
    """An input as its parts. kind: what they are (words, sentences, patches …); keep: the input with those parts alone
    for which it is told True."""

    kind: str
    parts: tuple[Part, ...]
    keep: Callable[[Sequence[bool]], Any]

    def __len__(self) -> int:
        return len(self.parts)
