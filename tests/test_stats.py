"""The share of false certificates, and everything else that claims rest on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp

from llm_moments import stats

ALPHA = 0.05


def falsely_certified(n: int, beneficial: float, drop: float, alpha: float = ALPHA) -> float:
    """Exact probability of a certificate when the true drop is just `drop`: the trinomial, summed."""
    harmful = beneficial + drop
    total = 0.0
    for b in range(int(sp.binom.ppf(1 - 1e-7, n, beneficial)) + 1):
        weight = float(sp.binom.pmf(b, n, beneficial))
        if weight < 1e-9:
            continue
        given_b = sp.binom(n - b, min(harmful / (1 - beneficial), 1.0))
        low, high = -1, int(given_b.ppf(1 - 1e-9))
        while low < high:  # the most harmful flips that still pass
            middle = (low + high + 1) // 2
            passes = stats.flip_pvalue(middle, b, n, drop) <= alpha
            low, high = (middle, high) if passes else (low, middle - 1)
        total += weight * (float(given_b.cdf(low)) if low >= 0 else 0.0)
    return total


@pytest.mark.parametrize("n", [20, 60, 200, 1200])
@pytest.mark.parametrize("beneficial", [0.0, 0.003, 0.02, 0.1])
@pytest.mark.parametrize("drop", [0.01, 0.05])
def test_certificates_hold_exactly(n: int, beneficial: float, drop: float) -> None:
    assert falsely_certified(n, beneficial, drop) <= ALPHA


def test_the_simulation_can_fail() -> None:
    """Wald's interval, which is often used, breaks the promise that ours keeps."""

    def wald(harmful: int, beneficial: int, n: int) -> float:
        p = (harmful - beneficial) / n
        return p + 1.645 * np.sqrt(max((harmful + beneficial) / n - p**2, 0) / n)

    n, drop = 100, 0.01
    chance = sum(sp.binom.pmf(h, n, drop) for h in range(n + 1) if wald(h, 0, n) < drop)
    assert chance > 0.3
    assert falsely_certified(n, 0.0, drop) <= ALPHA


def test_several_candidates_hold_together() -> None:
    assert sum(stats.split_alpha(3)) == pytest.approx(ALPHA)
    rng, false, studies = np.random.default_rng(0), 0, 1500
    for _ in range(studies):
        alphas = stats.split_alpha(3)
        for alpha in alphas:
            h, b, _ = rng.multinomial(400, [0.03, 0.02, 0.95])
            if stats.flip_pvalue(int(h), int(b), 400, 0.01) <= alpha:
                false += 1
                break
    assert false <= sp.binom.ppf(0.999, studies, ALPHA)


@pytest.mark.parametrize("kind", ["normal", "skewed", "sparse"])
@pytest.mark.parametrize("n", [40, 300])
def test_bounds_of_scores_hold(kind: str, n: int) -> None:
    rng, missed, studies, drop = np.random.default_rng(1), 0, 300, 0.02
    for seed in range(studies):
        if kind == "normal":
            diffs = rng.normal(drop, 0.1, n)
        elif kind == "skewed":
            diffs = rng.exponential(0.1, n) - 0.1 + drop
        else:
            diffs = np.where(rng.random(n) < 0.04, rng.uniform(0.4, 0.6, n), 0.0)
        base = np.full(n, 1.0)
        missed += stats.drop_bound(base, base - diffs, seed=seed).high < drop
    assert missed <= sp.binom.ppf(0.999, studies, ALPHA)


def test_speed_up_intervals_hold() -> None:
    rng, missed, studies = np.random.default_rng(2), 0, 400
    for seed in range(studies):
        a, b = np.exp(rng.normal(1, 0.2, 6)), np.exp(rng.normal(0, 0.2, 6))
        missed += stats.ratio_interval(a, b, seed=seed).low > np.e
    assert missed <= sp.binom.ppf(0.999, studies, ALPHA)


def test_no_flips_at_all_is_the_rule_of_three() -> None:
    for n in (50, 400, 1200, 10_000):
        assert stats.paired_flip_bound(0, 0, n).high * n == pytest.approx(3, abs=0.1)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(60, 400))
@settings(max_examples=25, deadline=None)
def test_flip_bounds_are_ordered_and_monotone(harmful: int, beneficial: int, n: int) -> None:
    bound = stats.paired_flip_bound(harmful, beneficial, n)
    assert bound.low - 1e-3 <= bound.estimate <= bound.high + 1e-3
    if harmful > beneficial:
        assert stats.paired_flip_bound(harmful + 1, beneficial, n).high >= bound.high - 1e-3
        assert (stats.flip_pvalue(harmful, beneficial, n, bound.high * 1.01) <= ALPHA) is True


def test_identical_scores_are_no_proof() -> None:
    scores = np.linspace(0, 1, 30)
    assert stats.drop_bound(scores, scores).high > 0.05
    assert stats.equivalent(np.ones(3000), np.ones(3000), 0.01)
    assert not stats.equivalent(np.ones(50), np.ones(50), 0.01)


def test_bad_scores_are_named() -> None:
    with pytest.raises(ValueError, match="example 1"):
        stats.drop_bound([1.0, float("nan")], [1.0, 1.0])
    with pytest.raises(ValueError, match="paired"):
        stats.drop_bound([1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="flips among"):
        stats.flip_pvalue(5, 6, 10, 0.01)


def test_against_scipy() -> None:
    p = [0.01, 0.04, 0.03, 0.5]
    assert stats.holm(p).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    a, b = np.random.default_rng(3).random((2, 20))
    assert stats.rank_correlation(a, b) == pytest.approx(sp.spearmanr(a, b).statistic)
    assert stats.rank_correlation([1, 1, 1], [1, 2, 3]) is None
    rows = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert stats.divergence(rows, rows).tolist() == pytest.approx([0, 0])
    assert stats.divergence(rows[1:], [[0.0, 1.0, 0.0]])[0] == pytest.approx(np.log(2))


def test_needed_examples_would_be_enough() -> None:
    n = stats.needed_examples(0.01, 0.01, 0.008)
    assert n is not None
    rng = np.random.default_rng(4)
    draws = rng.multinomial(n, [0.01, 0.008, 0.982], size=200)
    passed = np.mean([stats.flip_pvalue(int(h), int(b), n, 0.01) <= ALPHA for h, b, _ in draws])
    assert 0.65 < passed < 0.95
    assert stats.needed_examples(0.01, 0.03, 0.0) is None
    assert stats.needed_examples_for_scores(0.01, 0.02, 0.1) is None
