"""benchmarks/sequences.py: what its shares mean, on a study made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import sequences

    return sequences


def study(lost: list[int], costs: list[float], rows: int = 2000) -> Any:
    """All right before; plan p is wrong on every so many rows that it loses lost[p] of them."""
    import recorded

    before = np.ones(rows)
    after = np.array([before - (np.arange(rows) < many) for many in lost])
    lossless = np.array([many == 0 for many in lost])
    return recorded.Recorded(
        "made", "by hand", "accuracy", 0.01, (0.0, 1.0), (800, 4000), 1.0, 0, 1.0, before, after, np.array(costs), lossless
    )  # fmt: skip


def draw(bench: ModuleType, made: Any) -> Any:
    half = np.arange(len(made.before)) % 2
    return bench.Draw(bench.Replay(made), half, 1 - half)


def test_a_tilted_study_loses_just_the_budget(bench: ModuleType) -> None:
    drops = np.repeat([1.0, -1.0, 0.0], [30, 12, 958])
    for budget in (0.005, 0.01, 0.1):
        assert drops @ bench.tilted(drops, budget) == pytest.approx(budget, abs=1e-12)
    assert bench.tilted(np.zeros(10), 0.01) is None
    assert bench.tilted(np.array([0.005, 0.0]), 0.01) is None, "no row loses as much as the budget"


def test_the_front_goes_from_the_surest_to_the_fastest_after_the_lossless_one(bench: ModuleType) -> None:
    made = study([40, 12, 13, 6, 0, 0], [0.01, 0.05, 0.055, 0.2, 0.6, 0.99])
    one = draw(bench, made)
    assert one.odds[3] > one.odds[1] >= one.odds[2] > one.odds[0]
    assert one.front[:3] == [4, 3, 1], "what is slower than a surer plan is not looked at"


def test_five_levels_put_the_lossless_plan_first_where_none_is_sure(bench: ModuleType) -> None:
    import orders

    made = study([0, 0], [0.1, 0.6], rows=1200)
    made = replace(made, lossless=np.array([False, True]))
    one = draw(bench, made)
    assert orders.LEVELS[-1] < one.odds[0] < orders.LEVELS[0]
    assert orders.levels(one) == [1, 0]


def test_nothing_after_the_first_failure_is_looked_at(bench: ModuleType) -> None:
    one = draw(bench, study([40, 12, 0], [0.01, 0.05, 0.6]))
    assert one.pvalue(0) > 0.05 > one.pvalue(2)
    assert one.passed([2, 0, 1]) == [2]
    assert 1 not in one._seen


def test_odds_and_tests_are_those_of_the_rows_that_were_drawn(bench: ModuleType) -> None:
    from llm_moments import stats
    from llm_moments.improve.pass_probability import chance

    made = study([12, 0], [0.05, 0.6])
    one = draw(bench, made)
    rows = np.flatnonzero(one.search)
    assert one.odds[0] == pytest.approx(chance(made.drops[0, rows], 1000, 0.01), abs=1e-6)
    held = np.flatnonzero(one.certify)
    assert one.pvalue(0) == stats.drop_pvalue(made.before[held], made.after[0, held], 0.01)


def test_a_plan_at_the_budget_is_certified_in_one_of_twenty_draws_at_most(bench: ModuleType) -> None:
    shares, plans = bench.worst_cases(bench.Replay(study([16, 0], [0.05, 0.6])), 300, 0)
    assert plans == 1
    assert 0.005 < shares["it alone"].worst < 0.09
    assert shares["whole front"].worst <= shares["it alone"].worst


def test_certified_gains_are_those_of_the_fastest_that_passed(bench: ModuleType) -> None:
    made = study([1, 0], [0.1, 0.5])  # as one row is lost, the chance of the faster plan hangs on the rows searched
    found = bench.outcomes(bench.Replay(made), 583, 1000, 5, 0)
    assert found["whole front"] == found["five levels"] == bench.Outcome(pytest.approx(10.0), 0.0, 0.0)
    nothing = bench.outcomes(bench.Replay(study([400], [0.1])), 583, 1000, 5, 0)["whole front"]
    assert (nothing.gain, nothing.nothing) == (1.0, 1.0)


def test_a_study_is_read_as_it_was_saved(bench: ModuleType, tmp_path: Path) -> None:
    import recorded

    made = study([3, 0], [0.1, 0.5])
    (tmp_path / "made").mkdir()
    made.save(tmp_path / "made")
    again = recorded.recorded("made", tmp_path)
    assert again is not None
    assert all(np.array_equal(value, vars(again)[name]) for name, value in vars(made).items())


def test_flips_summed_over_all_outcomes_are_what_draws_give(bench: ModuleType) -> None:
    import certificates

    from llm_moments import stats

    share = certificates.flips(0.05, 0.05, 100)()
    rng = np.random.default_rng(0)
    counts = rng.multinomial(100, [0.1, 0.05, 0.85], 4000)
    drawn = np.mean([stats.flip_pvalue(int(h), int(b), 100, 0.05) <= 0.05 for h, b, _ in counts])
    assert share <= 0.05
    assert share == pytest.approx(drawn, abs=4 * (0.05 * 0.95 / 4000) ** 0.5)
