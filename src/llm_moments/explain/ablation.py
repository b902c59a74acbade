"""What an answer loses when parts of its input are left out: the model is asked again, in batches, on the plan that answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llm_moments.core import Outputs, Pipeline
from llm_moments.core.parts import Parts

MOST_AT_ONCE = 256  # inputs that are asked together


class Ablation:
    """Inputs that keep some parts, asked once each. A set of parts is a tuple of bool, True for those that are kept."""

    def __init__(self, pipe: Pipeline, parts: Parts, answer: Outputs):
        """answer: the outputs [1] that are explained."""
        self.pipe, self.parts, self.answer = pipe, parts, answer
        self.asked = 0
        self._support: dict[tuple[bool, ...], float] = {}
        self._same: dict[tuple[bool, ...], bool] = {}
        self.whole = (True,) * len(parts)

    def without(self, some: Iterable[int]) -> tuple[bool, ...]:
        left_out = set(some)
        return tuple(at not in left_out for at in range(len(self.parts)))

    def only(self, some: Iterable[int]) -> tuple[bool, ...]:
        kept = set(some)
        return tuple(at in kept for at in range(len(self.parts)))

    def support(self, kept: Sequence[tuple[bool, ...]]) -> np.ndarray:
        """float64 [sets]: how far the model speaks for the answer where it is given those parts alone, in the task's unit."""
        self._ask(kept)
        return np.array([self._support[one] for one in kept], np.float64)

    def same(self, kept: Sequence[tuple[bool, ...]]) -> np.ndarray:
        """bool [sets]: whether the answer stays what it was."""
        self._ask(kept)
        return np.array([self._same[one] for one in kept], bool)

    def _ask(self, kept: Sequence[tuple[bool, ...]]) -> None:
        new = [one for one in dict.fromkeys(kept) if one not in self._support]
        for at in range(0, len(new), MOST_AT_ONCE):
            some = new[at : at + MOST_AT_ONCE]
            values: list[Any] = [self.parts.keep(one) for one in some]
            support, same = self.pipe.task.support(self.pipe, values, self.answer)
            self._support.update(zip(some, map(float, support), strict=True))
            self._same.update(zip(some, map(bool, same), strict=True))
            self.asked += len(some)
