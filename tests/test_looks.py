"""A slow candidate in thirds: asked once for each row, stopped when it is proved or hopeless, never more than 5% false."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments import stats
from llm_moments.core import Outputs
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.improve.looks import portions, sequential_look
from llm_moments.stats.sequential import boundaries


def part_of(n: int, bounds: tuple[float, float] = (0, 1), units: Any = None) -> Evaluation:
    """Outputs are the scores themselves."""
    task = SimpleNamespace(scores=lambda outputs, references: np.asarray(outputs["score"]), bounds=lambda: bounds)
    return Evaluation(SimpleNamespace(task=task, model=None), list(range(n)), [0] * n, units)  # type: ignore[arg-type]


class Candidate:
    def __init__(self, scores: np.ndarray):
        self.scores, self.asked = scores, []

    def __call__(self, rows: list[int], at: int = 0) -> np.ndarray:
        self.asked += rows
        return Outputs({"score": self.scores[rows]})


def test_a_perfect_candidate_is_proved_early_and_a_bad_one_given_up() -> None:
    part, before = part_of(900), np.ones(900)
    good = Candidate(np.ones(900))
    found = sequential_look(part, Candidate(before), good, "good", 0.02)
    assert (found.why, found.at, found.look.passed) == ("passed", 2, True)
    assert len(good.asked) == len(set(good.asked)) == 600
    assert found.rows == good.asked
    assert found.look.drop_high < 0.02
    bad = Candidate((np.arange(900) % 10 > 0).astype(float))
    found = sequential_look(part, Candidate(before), bad, "bad", 0.02)
    assert (found.why, found.at, found.look.passed) == ("futile", 1, False)
    assert found.look.drop_high >= 0.02
    assert len(bad.asked) == 300


def test_data_sorted_by_label_is_seen_evenly() -> None:
    """All harm in the last third of the file."""
    after = np.r_[np.ones(600), (np.arange(300) % 4 > 0).astype(float)]
    assert not sequential_look(part_of(900), Candidate(np.ones(900)), Candidate(after), "late", 0.05).look.passed
    for rows in portions(part_of(900), (300, 600, 900)):
        assert 60 < sum(row >= 600 for row in rows) < 140


def test_units_are_seen_whole_and_count_once() -> None:
    units = np.repeat(np.arange(60, dtype=np.uint64), 20)
    part = part_of(1200, units=units)
    parts = portions(part, boundaries(60, 0.1).n)
    assert sorted(row for rows in parts for row in rows) == list(range(1200))
    assert [len(set(units[rows].tolist())) for rows in parts] == [20, 20, 20]
    found = sequential_look(part, Candidate(np.ones(1200)), Candidate(np.ones(1200)), "same", 0.04)
    assert not found.look.passed
    assert found.look.needs == stats.needed_examples(0.04, 0.0, 0.0)
    assert sequential_look(part, Candidate(np.ones(1200)), Candidate(np.ones(1200)), "same", 0.06).look.passed


@pytest.mark.parametrize("kind", ["flips", "scores", "units"])
def test_at_most_five_percent_pass_that_lose_the_whole_budget(kind: str) -> None:
    rng, studies, budget, n = np.random.default_rng(4), 120, 0.05, 120
    units = np.repeat(np.arange(n // 3, dtype=np.uint64), 3) if kind == "units" else None
    part, passed = part_of(n, units=units), 0
    for _ in range(studies):
        if kind == "flips":
            after = 1 - (rng.random(n) < budget).astype(float)
        elif kind == "scores":
            after = 1 - 0.7 * (rng.random(n) < budget / 0.7)
        else:
            after = 1 - (rng.random(n) < np.repeat(rng.beta(0.2, 0.2 * 19, n // 3), 3)).astype(float)
        passed += sequential_look(part, Candidate(np.ones(n)), Candidate(after), "edge", budget).look.passed
    assert passed / studies <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_giving_up_costs_few_that_would_have_passed() -> None:
    rng, kept, given_up = np.random.default_rng(6), 0, 0
    for _ in range(40):
        after = np.where(rng.random(400) < 0.02, 0.0, 1.0)
        found = sequential_look(part_of(400), Candidate(np.ones(400)), Candidate(after), "fair", 0.05)
        kept += found.look.passed
        if found.why == "futile":
            h = int((after == 0).sum())
            given_up += boundaries(400, 0.05).passes(h, 0, 2)
    assert kept > 24
    assert given_up <= 2


def test_scores_without_a_least_value_say_what_is_assumed() -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(0, 1, 300)
    found = sequential_look(part_of(300, (-np.inf, np.inf)), Candidate(before), Candidate(before - 0.001), "near", 0.5)
    assert found.look.passed
    assert "no least value" in found.look.assumes
