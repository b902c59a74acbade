"""What an input is made of, for those who ask which part of it an answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Part:
    """name: as it is shown. place: where it stands: ("text", first character, end) of a field of texts; ("turn 2", first
    character, end) of a message; ("image", left, top, right, bottom) in pixels; ("audio", second, end). title: what it is
    called where that says more than its text, such as "turn 2". asks: it is the question itself, which no answer rests on."""

    name: str
    place: tuple[Any, ...]
    title: str = ""
    asks: bool = False


@dataclass(frozen=True)
class Parts:
    """An input as its parts. kind: what they are (words, sentences, patches …); keep: the input with those parts alone
    for which it is told True. inner: one of them taken apart further, all else kept; None where it cannot be."""

    kind: str
    parts: tuple[Part, ...]
    keep: Callable[[Sequence[bool]], Any]
    inner: Callable[[int], Parts | None] = lambda at: None

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def given(self) -> list[int]:
        """The numbers of those that an answer may rest on: all but the question."""
        return [at for at, part in enumerate(self.parts) if not part.asks]


@dataclass(frozen=True)
class Alternative:
    """Another token that might have stood there, and how probable it was."""

    text: str
    probability: float


@dataclass(frozen=True)
class AnswerToken:
    """probability: of this token after all before it; entropy: of what might have come, nats; alternatives: the likeliest
    tokens; loses: by the number of the input's parts what its log-probability loses without each, nats."""

    text: str
    probability: float
    entropy: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    loses: tuple[float | None, ...] = ()


class Support(NamedTuple):
    """How far a model speaks for an answer, asked about each of n inputs. support: float64 [n], in the task's unit; same:
    bool [n], whether it gives that answer. tokens: float64 [n, tokens], what each token of the answer has of it, where it has
    tokens. read: tokens that went through the model; spared: those that had not to be read again."""

    support: np.ndarray
    same: np.ndarray | None
    tokens: np.ndarray | None = None
    read: int = 0
    spared: int = 0


@dataclass(frozen=True)
class Pace:
    """How often a model is asked for one explanation. alone: parts up to which each is left out alone, more are halved, group
    by group: groups of them first, then the width most telling ones. orders: by chance; sizes: parts that are left out
    together along one; near: parts that are tried beside those before them, together of them; pairs: parts whose pairs are
    tried; longest: parts that a smallest set may have; at_once: parts that are left out between two looks at the clock."""

    alone: int = 256
    groups: int = 32
    width: int = 16
    orders: int = 19
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    near: int = 12
    together: int = 4
    pairs: int = 0
    longest: int = 32
    at_once: int = 256
