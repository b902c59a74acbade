"""The odds of a plan, the order of the candidates, and a budget that holds."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import llm_moments as lm
from llm_moments import stats
from llm_moments.evaluate.measure import blocks, measure, rows_of
from llm_moments.improve.pass_probability import chance, sequence, thinned
from tests.fakes import make_texts

BLOCK = 32  # rows that are timed at a time, as `SampleSizes` has it


def drops(harmful: int, beneficial: int, n: int) -> np.ndarray:
    found = np.zeros(n)
    found[:harmful], found[harmful : harmful + beneficial] = 1, -1
    return found


@pytest.mark.parametrize(("harmful", "beneficial"), [(0, 0), (2, 2), (6, 6), (10, 4), (30, 40)])
def test_the_odds_are_those_of_the_exact_test(harmful: int, beneficial: int) -> None:
    """Against a naive reference: rates drawn from the posterior, each sample put to the exact test."""
    n, certify, most = 700, 600, 0.01
    rng = np.random.default_rng(1)
    rates = rng.dirichlet([harmful + 1, beneficial + 0.5, n - harmful - beneficial + 0.5], 400)
    samples = [rng.multinomial(certify, r) for r in rates]
    exact = np.mean([stats.flip_pvalue(int(h), int(b), certify, most) < 0.05 for h, b, _ in samples])
    assert chance(drops(harmful, beneficial, n), certify, most) == pytest.approx(exact, abs=0.1)


def test_odds_of_other_scores_fall_with_the_drop() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 500)
    found = [chance(noise + drop, 800, 0.02) for drop in (-0.02, 0.0, 0.01, 0.03)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.95
    assert found[-1] < 0.05
    assert chance(np.zeros(0), 800, 0.02) == 0.0


def test_candidates_go_from_the_surest_to_the_fastest() -> None:
    plans = [
        ("bold", 1.0, 0.65), ("fast", 2.0, 0.8), ("slow", 4.0, 0.99), ("slower", 5.0, 0.999), ("bad", 0.5, 0.1),
        ("beaten", 3.0, 0.7), ("hardly faster", 1.98, 0.79), ("hopeless", 0.1, 0.001),
    ]  # fmt: skip
    assert sequence(plans) == ["slower", "slow", "fast", "bold", "bad"]
    assert sequence([("only", 1.0, 0.2)]) == ["only"]
    assert sequence([("a", 2.0, 1.0), ("b", 1.0, 1.0)]) == ["b"]  # as sure, and faster
    assert sequence([]) == []


def test_where_time_is_short_candidates_are_spread_over_the_whole_order() -> None:
    assert thinned([1.0] * 5, 10.0) == [0, 1, 2, 3, 4]
    assert thinned([1.0] * 9, 5.0) == [0, 2, 4, 6, 8]
    assert thinned([9.0, 9.0, 9.0], 1.0) == [0, 2]
    assert thinned([9.0], 1.0) == [0]
    assert thinned([], 1.0) == []


def test_building_an_engine_is_no_part_of_a_plans_cost(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path))
    pipe = lm.load(trained_model, plan={"forward.engine": "openvino"})
    found = measure(pipe, make_texts(40), "throughput")
    assert found.warm_seconds > 5 * found.seconds


def test_a_turn_takes_whole_blocks() -> None:
    assert rows_of(0.06, 0.5, 600) == 32
    assert rows_of(0.01, 1.0, 600) == 96
    assert rows_of(1e-6, 1.0, 600) == 600


@pytest.mark.parametrize("order", ["random", "by length"])
@pytest.mark.parametrize("size", [64, 96, 200])
def test_blocks_are_as_long_as_the_whole_and_keep_the_order_of_rows(order: str, size: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 900, 1190)
    values = ["x" * n for n in (lengths if order == "random" else np.sort(lengths))]
    whole = np.mean([len(v) for v in values])
    found = blocks(values, size, 5)
    assert [len(block) for block in found] == [size // BLOCK * BLOCK] * 5
    assert np.mean([[len(v) for v in block] for block in found]) == pytest.approx(whole, rel=0.08)
    for block in found:
        stretch = block[:BLOCK]
        assert any(values[at : at + BLOCK] == stretch for at in range(0, len(values), BLOCK))
    assert blocks(values, 5000, 2) == [values, values]
    assert len(blocks(values[:40], 64, 2)[0]) == 40


def test_a_budget_that_is_too_short_is_said_at_once(trained_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_moments.evaluate import stand_in as baseline
    from llm_moments.improve import beginning

    monkeypatch.setattr(beginning, "run_seconds", lambda pipe, values: 2.0 * len(values))
    for module in (beginning, baseline):
        monkeypatch.setattr(module, "answered", lambda pipe, values: (pipe.outputs(values), 2.0 * len(values)))
    start = time.monotonic()
    found = lm.improve(trained_model, make_texts(400), budget="20s")
    assert time.monotonic() - start < 20
    assert not found.certified
    assert "too short" in found.certificate.reason
