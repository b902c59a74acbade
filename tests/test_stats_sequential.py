"""Looks at a third, two thirds and all rows: at most 5% false passes in all, whatever the rates; fewer rows when good."""

from __future__ import annotations

import numpy as np
import pytest

from llm_moments import stats
from llm_moments.stats.sequential import boundaries, crossing_chance, grid, spent

CASES = [(30, 0.2), (100, 0.1), (150, 0.05), (299, 0.01)]


@pytest.mark.parametrize(("n", "drop"), CASES)
def test_false_passes_are_at_most_five_percent_at_every_rate(n: int, drop: float) -> None:
    """On a grid twice as fine as the one by which the limits were set; the edge of the hypothesis is the worst."""
    plan = boundaries(n, drop)
    worst = max(crossing_chance(plan, rate, rate + drop)[-1] for rate in grid(n, drop, 2.0))
    assert 0.02 < worst <= 0.05
    assert all(crossing_chance(plan, rate, rate + 1.3 * drop)[-1] <= 0.05 for rate in (0.0, 0.01, 0.1))


def naive_chance(plan: object, rate: float, harmful: float) -> float:
    """Every path of flips, row by row."""
    n, state, passed = plan.n[-1], {(0, 0): 1.0}, 0.0
    for row in range(1, n + 1):
        new: dict[tuple[int, int], float] = {}
        for (h, b), chance in state.items():
            for step, p in (((h + 1, b), harmful), ((h, b + 1), rate), ((h, b), 1 - rate - harmful)):
                new[step] = new.get(step, 0.0) + chance * p
        state = new
        if row in plan.n:
            gone = [at for at in state if plan.passes(*at, plan.n.index(row))]
            passed += sum(state.pop(at) for at in gone)
    return passed


@pytest.mark.parametrize("rate", [0.0, 0.03, 0.2, 0.35])
def test_the_chance_is_that_of_every_path(rate: float) -> None:
    plan = boundaries(24, 0.3)
    assert crossing_chance(plan, rate, rate + 0.3)[-1] == pytest.approx(naive_chance(plan, rate, rate + 0.3), abs=1e-7)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
def test_simulated_studies_pass_as_often_as_is_calculated(rate: float) -> None:
    plan, studies, rng = boundaries(150, 0.05), 4000, np.random.default_rng(1)
    kinds = rng.choice(3, (studies, 150), p=[rate + 0.05, rate, 0.95 - 2 * rate])
    passed = np.zeros(studies, bool)
    for at, n in enumerate(plan.n):
        harmful, beneficial = ((kinds[:, :n] == kind).sum(axis=1) for kind in (0, 1))
        told = {pair: plan.passes(*pair, at) for pair in set(zip(harmful.tolist(), beneficial.tolist(), strict=True))}
        passed |= [told[pair] for pair in zip(harmful.tolist(), beneficial.tolist(), strict=True)]
    expected = crossing_chance(plan, rate, rate + 0.05)[-1]
    assert passed.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / studies) + 1e-3)
    assert passed.mean() <= 0.05 + 3 * np.sqrt(0.05 / studies)


def test_looking_thrice_at_the_whole_error_would_go_wrong() -> None:
    """The test above can fail: with the last look's limit at each look more than 5% pass."""
    from dataclasses import replace

    plan = boundaries(500, 0.02)
    bold = replace(plan, limits=(plan.limits[-1],) * 3)
    assert max(crossing_chance(bold, rate, rate + 0.02)[-1] for rate in (0.05, 0.1, 0.2)) > 0.08


def test_a_little_more_data_at_most_and_much_less_on_the_average() -> None:
    """By normal approximation: 1.03 times the rows at most, 0.84 expected, 0.53 at twice the effect."""
    rate, drop = 0.05, 0.03
    fixed = stats.needed_examples(drop, rate, rate)
    n = next(
        n
        for n in range(int(0.97 * fixed), 2 * fixed, 20)
        if crossing_chance(boundaries(n, drop), rate, rate)[-1] >= 0.8
    )
    plan = boundaries(n, drop)

    def expected(beneficial: float, harmful: float) -> float:
        early = crossing_chance(plan, beneficial, harmful)
        return float(plan.n[0] + sum(np.diff(plan.n) * (1 - np.array(early[:2])))) / fixed

    assert n / fixed < 1.05
    assert expected(rate, rate) < 0.9
    assert expected(rate + drop / 2, rate - drop / 2) < 0.62


def test_no_flip_in_299_rows_proves_one_point_and_298_do_not() -> None:
    assert boundaries(299, 0.01).passes(0, 0, 2)
    assert not boundaries(290, 0.01).passes(0, 0, 2)
    assert not boundaries(299, 0.01).passes(0, 0, 1)


def test_errors_and_limits() -> None:
    plan = boundaries(300, 0.05)
    assert plan.n == (100, 200, 300)
    assert sum(plan.errors) == pytest.approx(0.05)
    assert list(plan.errors) == sorted(plan.errors)
    assert spent(1.0, 0.05) == pytest.approx(0.05)
    assert plan.limits[0] < plan.limits[1] < plan.limits[2]
    assert boundaries(2, 0.5).n == (1, 2)
    assert boundaries(300, 0.05, looks=1).n == (300,)
    for bad in [(0, 0.1), (10, 0.0), (10, 1.0)]:
        with pytest.raises(ValueError, match="looks at"):
            boundaries(*bad)
    with pytest.raises(ValueError, match="among 100"):
        plan.passes(60, 60, 0)


def test_hope_is_high_for_good_plans_and_low_for_bad_ones() -> None:
    plan = boundaries(300, 0.05)
    assert plan.hope(0, 2, 0) > 0.9
    assert plan.hope(20, 2, 0) < 0.01
    assert plan.hope(5, 2, 0) == plan.hope(5, 2, 0)
