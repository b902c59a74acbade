"""What an answer loses when parts of its input are left out: the model is asked again, in batches, on the plan that answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.core import Outputs, Pipeline
from llm_moments.core.parts import Parts, Support

MOST_AT_ONCE = 256  # inputs that are asked together


@dataclass
class Bill:
    """Times that a model was asked, tokens that went through it for that, and those that had not to be read again."""

    asked: int = 0
    read: int = 0
    spared: int = 0

    def add(self, asked: int, found: Support) -> None:
        self.asked, self.read, self.spared = self.asked + asked, self.read + found.read, self.spared + found.spared


class Ablation:
    """Inputs that keep some parts, asked once each. A set of parts is a tuple of bool, True for those that are kept."""

    def __init__(
        self, pipe: Pipeline, parts: Parts, answer: Outputs, late: Callable[[], bool] = lambda: False,
        maker: Pipeline | None = None,
    ):  # fmt: skip
        """answer: the outputs [1] that are explained. pipe: the one that is asked. late: whether the time for it is over.
        maker: the pipeline that makes answers, where it is another one."""
        self.pipe, self.parts, self.answer, self.late, self.maker = pipe, parts, answer, late, maker or pipe
        self.bill = Bill()
        self.pace = pipe.task.pace
        self._tokens: dict[tuple[bool, ...], np.ndarray] = {}
        self._support: dict[tuple[bool, ...], float] = {}
        self._same: dict[tuple[bool, ...], bool] = {}
        self.whole = (True,) * len(parts)

    def without(self, some: Iterable[int]) -> tuple[bool, ...]:
        left_out = set(some)
        return tuple(at not in left_out for at in range(len(self.parts)))

    def only(self, some: Iterable[int]) -> tuple[bool, ...]:
        """Those alone, and the question."""
        kept = set(some)
        return tuple(at in kept or part.asks for at, part in enumerate(self.parts.parts))

    def support(self, kept: Sequence[tuple[bool, ...]]) -> np.ndarray:
        """float64 [sets]: how far the model speaks for the answer where it is given those parts alone, in the task's unit."""
        self._ask(kept)
        return np.array([self._support[one] for one in kept], np.float64)

    def same(self, kept: Sequence[tuple[bool, ...]]) -> np.ndarray:
        """bool [sets]: whether the answer stays what it was."""
        self._ask([one for one in kept if one not in self._same])
        new = [one for one in dict.fromkeys(kept) if one not in self._same]
        for one in new:  # it is made anew
            outputs = self.maker.outputs([self.parts.keep(one)])
            self._same[one] = self.maker.task.told(outputs)[0] == self.maker.task.told(self.answer)[0]
        return np.array([self._same[one] for one in kept], bool)

    def tokens(self, kept: tuple[bool, ...]) -> np.ndarray | None:
        """float64 [tokens]: what each token of the answer has of it; None where it has none."""
        self._ask([kept])
        return self._tokens.get(kept)

    def most_of_a_token(self, some: Iterable[int]) -> float | None:
        """The most that a single token of the answer loses without those parts."""
        whole, left = self.tokens(self.whole), self.tokens(self.without(some))
        return None if whole is None or left is None or not len(whole) else float((whole - left).max())

    @property
    def asked(self) -> int:
        return self.bill.asked

    def known(self, kept: tuple[bool, ...]) -> bool:
        """Whether it was asked already."""
        return kept in self._support

    def within(self, inner: Parts) -> Ablation:
        """Of one of the parts taken apart: the whole input is the same one."""
        found = Ablation(self.pipe, inner, self.answer, self.late, self.maker)
        found.bill = self.bill
        self._ask([self.whole])
        found._support[found.whole] = self._support[self.whole]
        if self.whole in self._tokens:
            found._tokens[found.whole] = self._tokens[self.whole]
        return found

    def _ask(self, kept: Sequence[tuple[bool, ...]]) -> None:
        new = [one for one in dict.fromkeys(kept) if one not in self._support]
        for at in range(0, len(new), MOST_AT_ONCE):
            some = new[at : at + MOST_AT_ONCE]
            values: list[Any] = [self.parts.keep(one) for one in some]
            found = self.pipe.task.support(self.pipe, values, self.answer)
            self._support.update(zip(some, map(float, found.support), strict=True))
            if found.same is not None:
                self._same.update(zip(some, map(bool, found.same), strict=True))
            if found.tokens is not None:
                self._tokens.update(zip(some, found.tokens, strict=True))
            self.bill.add(len(some), found)
