"""Seeds and examples both at work: coverage by simulation, and the extrapolation of a learning curve."""

from __future__ import annotations

import numpy as np
import pytest

from llm_moments import stats


def test_bounds_of_a_drop_hold_where_seeds_differ_and_would_not_without_them() -> None:
    rng = np.random.default_rng(0)
    held, naive = 0, 0
    for _ in range(80):
        hard = rng.uniform(size=300)
        runs = [[(hard < 0.8 + rng.normal(0, 0.03)).astype(float) for _ in range(3)] for _ in range(6)]
        pairs = [(np.array(runs[i]), np.array(runs[i + 1])) for i in (0, 2, 4)]
        variance, degrees = stats.pooled_seed_variance(pairs)
        assert degrees == 6
        held += stats.seeded_drop_bound(*pairs[0], variance=variance, degrees=degrees).high >= 0
        naive += stats.drop_bound(pairs[0][0][0], pairs[0][1][0]).high >= 0
    assert held >= 72  # 95% of 80, less two standard errors
    assert naive < held


def test_one_seed_proves_nothing_and_shapes_are_checked() -> None:
    one = np.ones((1, 5))
    assert stats.pooled_seed_variance([(one, one)]) == (0.0, 0)
    with pytest.raises(ValueError, match="one seed"):
        stats.seeded_drop_bound(one, one, variance=0.0, degrees=0)
    with pytest.raises(ValueError, match="seeds, n"):
        stats.seeded_drop_bound(np.ones(5), np.ones(5), variance=0.0, degrees=2)
    with pytest.raises(ValueError, match="two or more"):
        stats.mean_bound([1.0])


def curve(rng: np.random.Generator, errors: list[float], seeds: int = 3, n: int = 300, sd: float = 0.01) -> np.ndarray:
    hard = rng.uniform(size=n)
    scores = np.empty((len(errors), seeds, n))
    for at, error in enumerate(errors):
        for seed in range(seeds):
            rank = (0.8 * hard + 0.2 * rng.uniform(size=n)).argsort().argsort() / n
            scores[at, seed] = rank >= np.clip(error + rng.normal(0, sd), 0, 1)
    return scores


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.3), (0.05, 0.7), (0.2, 0.0)])
def test_what_twice_the_data_brings_lies_within_the_bounds(floor: float, exponent: float) -> None:
    rng, rows = np.random.default_rng(1), np.array([64, 128, 256, 512])
    scale = 0.15 * 512**exponent if exponent else 0.0

    def error(count: float) -> float:
        return floor + scale * count**-exponent

    truth, inside = error(512) - error(1024), 0
    for _ in range(12):
        bound = stats.extrapolated_gain(rows, curve(rng, [error(r) for r in rows]))
        inside += bound.low <= truth <= bound.high
    assert inside >= 9  # of 12, where 90% are meant: fewer has a chance of 3%


def test_a_steep_curve_promises_a_gain_and_a_flat_one_nothing() -> None:
    rng, rows = np.random.default_rng(2), [100, 200, 400, 800]
    steep = stats.extrapolated_gain(rows, curve(rng, [0.6, 0.42, 0.3, 0.21], n=2000))
    flat = stats.extrapolated_gain(rows, curve(rng, [0.2] * 4, n=2000))
    assert steep.low > 0.01
    assert flat.low < 0.002
    assert flat.high < steep.low
    again = stats.extrapolated_gain(rows, curve(np.random.default_rng(2), [0.6, 0.42, 0.3, 0.21], n=2000))
    assert again == steep


def test_too_few_points_and_falling_amounts_are_refused() -> None:
    scores = np.ones((3, 2, 10))
    for rows, known in (([1, 2], scores[:2]), ([1, 2, 3], scores[:, :1]), ([3, 2, 1], scores)):
        with pytest.raises(ValueError):
            stats.extrapolated_gain(rows, known)
