"""Timing in turn: what is compared is what a plan does when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments.core import SampleSizes
from llm_moments.evaluate.measure import blocks, interleaved, rows_of


class Fake:
    """A pipeline that notes how many rows it was given at a time."""

    def __init__(self, streams: int = 1):
        self.task = SimpleNamespace(sizes=SampleSizes(block=4, warm=2))
        self.engine_settings = {"streams": streams}
        self.engines = SimpleNamespace(get=lambda settings: object(), keep=6)
        self.seen: list[int] = []

    @property
    def parts(self) -> dict[tuple[str, ...], Fake]:
        return {(): self}

    @property
    def stages(self) -> list[Fake]:
        return [self]

    def outputs(self, values: Sequence[Any]) -> np.ndarray:
        return np.zeros(len(values))

    def run(self, values: Sequence[Any]) -> Iterator[Any]:
        self.seen.append(len(values))
        return iter(values)


def test_a_plan_that_answers_many_together_is_timed_with_as_many() -> None:
    plans: dict[str, Any] = {"one": Fake(), "together": Fake(32)}
    found = interleaved(plans, ["text"] * 100, "throughput", costs={"one": 0.4, "together": 0.4}, rounds=3, seconds=1)
    assert plans["one"].seen == [4, 4, 4]
    assert plans["together"].seen == [32, 32, 32]
    assert [len(times) for times in found.values()] == [3, 3]


@pytest.mark.parametrize(("cost", "rows"), [(1.0, 32), (0.01, 96), (1e-9, 500)])
def test_rows_of_a_turn_are_whole_blocks_and_no_more_than_there_are(cost: float, rows: int) -> None:
    assert rows_of(cost, 1.0, 500) == rows


def test_turns_take_stretches_of_all_lengths() -> None:
    values = ["x" * (n // 4) for n in range(160)]
    turns = blocks(values, 16, 5, 4)
    assert [len(turn) for turn in turns] == [16] * 5
    for turn in turns:  # one stretch of each quarter of the lengths, 0 to 39
        assert sorted({len(row) // 10 for row in turn}) == [0, 1, 2, 3]


@pytest.mark.parametrize(("weights", "kept"), [(0, 3), (2**60, 2)])
def test_engines_that_are_timed_in_turn_stay_open_meanwhile(weights: int, kept: int) -> None:
    file = SimpleNamespace(stat=lambda: SimpleNamespace(st_size=weights))
    pool = SimpleNamespace(keep=2, get=lambda settings: object(), model=SimpleNamespace(weight_files=[file]))
    seen = set()

    class Kept(Fake):
        def run(self, values: Sequence[Any]) -> Iterator[Any]:
            seen.add(pool.keep)
            return super().run(values)

    plans: dict[str, Any] = {str(streams): Kept(streams) for streams in (1, 2, 3)}
    for pipe in plans.values():
        pipe.engines = pool
    interleaved(plans, ["text"] * 20, "throughput", costs=dict.fromkeys(plans, 0.4), rounds=1, seconds=1)
    assert seen == {kept}  # not where there is no memory for it
    assert pool.keep == 2
