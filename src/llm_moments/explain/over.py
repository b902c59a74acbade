"""`explain` over data: each row's answer opened up, one after the other, for as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llm_moments.base.budget import seconds
from llm_moments.base.errors import DataError
from llm_moments.core import Example
from llm_moments.data.readers import source_of
from llm_moments.explain.explain import BUDGET as ROW_BUDGET
from llm_moments.explain.explain import explain
from llm_moments.explain.explanation import Explanation

BUDGET = "10m"
Tick = Callable[[float | None, str], None]


class Over:
    """Explanations of many examples of one pipeline. left: whether the budget ended before the examples did."""

    def __init__(
        self, pipe: Any, source: Any, *, parts: str | None = None, depth: int = 1, budget: float | str = BUDGET
    ) -> None:
        """source: where the examples come from; with its on_error "skip" a row that is refused is counted there."""
        self.pipe, self.source, self.parts, self.depth = pipe, source_of(source), parts, depth
        self.begin, self.allowed = time.monotonic(), seconds(budget)
        self.left = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def __call__(self, examples: Iterable[Any], tick: Tick | None = None) -> Iterator[tuple[Example, Explanation]]:
        """(example, explanation), without the recordings; raises DataError naming the row that is refused."""
        row_s = seconds(ROW_BUDGET)
        for number, example in enumerate(examples):
            rest = self.allowed - self.seconds
            if number and rest < self.seconds / number:  # nothing is begun that will not end
                self.left = True
                return
            if tick:
                tick(None, f"row {number + 1:,}")
            value = example.input if isinstance(example, Example) else example
            try:
                found = explain(
                    self.pipe,
                    value,
                    parts=self.parts,
                    depth=self.depth,
                    budget=max(min(rest, row_s), 0.001),
                    recorded=False,
                )
            except DataError as error:
                self._refused(example, error)
                continue
            yield (example if isinstance(example, Example) else Example(example, id=number + 1)), found

    def _refused(self, example: Any, error: DataError) -> None:
        why = f"row {getattr(example, 'id', None)}: {error}"
        if self.source.on_error != "skip":
            raise DataError(f"{self.source.path}, {why}") from error
        self.source.skipped("refused", why)
