"""Rows that hang together count once: what is certified of them is false at most 5% of the time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llm_moments import stats

STUDIES, BUDGET = 250, 0.05
ALLOWED = 0.05 + 3 * np.sqrt(0.05 * 0.95 / STUDIES)
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def copies(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """100 texts, each 20 times: all rows of a text flip, or none. The drop is just the budget."""
    units = np.repeat(np.arange(100), 20)
    return units, 1 - (rng.random(100) < BUDGET).astype(float)[units]


def unlike(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """120 users with 1 to 24 rows, each with a share of its own that flips; by user the drop is the budget."""
    units = np.repeat(np.arange(120), rng.integers(1, 25, 120))
    share = rng.beta(0.2, 0.2 * (1 - BUDGET) / BUDGET, 120)
    return units, 1 - (rng.random(len(units)) < share[units]).astype(float)


def scores(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """80 documents of 10 rows, any score: some lose nearly all of it."""
    units = np.repeat(np.arange(80), 10)
    lost = 0.8 * (rng.random(80) < BUDGET / 0.8)
    return units, 1 - np.clip(lost[units] + rng.normal(0, 0.02, 800) * (lost[units] > 0), 0, 1)


@pytest.mark.parametrize("draw", [copies, unlike, scores])
def test_units_are_certified_falsely_at_most_as_often_as_is_allowed(draw: Draw) -> None:
    rng, by_unit, by_row = np.random.default_rng(3), 0, 0
    for _ in range(STUDIES):
        units, after = draw(rng)
        before = np.ones(len(after))
        by_unit += stats.unit_drop_bound(before, after, units, bounds=(0, 1)).high < BUDGET
        by_row += stats.drop_pvalue(before, after, BUDGET, bounds=(0, 1)) < 0.05
    assert by_unit / STUDIES <= ALLOWED
    assert by_row / STUDIES > 2 * ALLOWED  # what the simulation would show if rows counted


def test_a_plan_that_loses_twice_the_budget_is_not_certified_by_copies() -> None:
    """40 texts x 30, two points lost at a budget of one: by rows 44% were certified."""
    rng = np.random.default_rng(5)
    units, by_row = np.repeat(np.arange(40), 30), 0
    for _ in range(100):
        after = 1 - (rng.random(40) < 0.02).astype(float)[units]
        assert stats.unit_drop_bound(np.ones(1200), after, units, bounds=(0, 1)).high >= 0.01
        by_row += stats.drop_bound(np.ones(1200), after, bounds=(0, 1)).high < 0.01
    assert by_row > 30


def test_rows_of_their_own_are_bounded_as_ever() -> None:
    rng = np.random.default_rng(2)
    for before in (np.ones(300), rng.random(300)):
        after = np.where(rng.random(300) < 0.05, 0.0, before)
        found = stats.unit_drop_bound(before, after, np.arange(300), bounds=(0, 1))
        assert found == stats.drop_bound(before, after, bounds=(0, 1))


def test_a_unit_counts_once_however_many_rows_it_has() -> None:
    before, after = np.ones(302), np.r_[np.zeros(3), np.ones(299)]
    bound = stats.unit_drop_bound(before, after, np.r_[0, 0, 0, np.arange(1, 300)])
    assert bound == stats.paired_flip_bound(1, 0, 300)
    assert bound.n == 300
    assert stats.unit_means([0, 1, 1, 5], [7, 7, 7, 2]).tolist() == [5, pytest.approx(2 / 3)]
    with pytest.raises(ValueError, match="example 1 is 1.5"):
        stats.unit_drop_bound([0.5, 1.5], [0.5, 0.5], [0, 0], bounds=(0, 1))
