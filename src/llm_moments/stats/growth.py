"""What more data would bring: a power law through the scores at some amounts of data (Hestness et al. 2017,
arXiv:1712.00409), and how far it can be trusted.

error(rows) = floor + scale · rows^-exponent, floor >= 0. Few points say little about the exponent, so that no single
one is taken: each draw resamples the seeds and the evaluation examples, weighs every exponent of a grid by how well its
law goes through the draw's points, and takes one at those odds. The interval is that of the draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_moments.stats.bound import Bound, error_of

EXPONENTS = np.geomspace(0.03, 1.2, 30)  # even in the logarithm: those that are reported go from 0.05 to 1
DRAWS = 1000
METHOD = "power law; seeds and examples resampled, exponents at the odds of their fit"


def extrapolated_gain(
    rows: Any, scores: Any, *, factor: float = 2.0, confidence: float = 0.95, seed: int = 0
) -> Bound:  # fmt: skip
    """Score that `factor` times the largest amount of data would gain. rows: [k], rising, k >= 3; scores: [k, seeds, n]
    between 0 and 1. It is modelled, not measured: it holds if the error goes on falling as a power law.
    """
    amounts, known = np.asarray(rows, float), np.asarray(scores, float)
    if known.ndim != 3 or len(amounts) != len(known) or len(amounts) < 3 or known.shape[1] < 2:
        raise ValueError(f"a curve takes 3 or more amounts of data and 2 or more seeds, not {known.shape}")
    if (np.diff(amounts) <= 0).any() or amounts[0] <= 0 or factor <= 1:
        raise ValueError("amounts of data rise, and the factor is above 1")
    k, seeds, n = known.shape
    rng = np.random.default_rng(seed)
    spread = _spread(known)
    x = amounts / amounts[-1]
    gains = np.empty(DRAWS)
    for at in range(DRAWS):
        weights = rng.multinomial(n, np.full(n, 1 / n)) / n  # the same examples for all runs: they are paired
        means = known @ weights
        centre = means.mean(1, keepdims=True)
        apart = (means - centre) * (seeds / (seeds - 1)) ** 0.5  # resampling so few makes the spread too small
        picked = np.take_along_axis(centre + apart, rng.integers(seeds, size=(k, seeds)), axis=1).mean(1)
        gains[at] = _gain(x, 1 - picked, spread, factor, rng)
    alpha = error_of(confidence)
    low, middle, high = (float(v) for v in np.quantile(gains, [alpha, 0.5, 1 - alpha]))
    return Bound(middle, low, high, confidence, METHOD, n)


def _spread(scores: np.ndarray) -> float:
    """Standard error of a point of the curve by its seeds, pooled; never so small that a curve looks exact."""
    seeds, n = scores.shape[1:]
    means = scores.mean(2)
    pooled = float(means.var(axis=1, ddof=1).mean()) / seeds
    return max(pooled, 0.25 / n / seeds / 10, 1e-8) ** 0.5


def _gain(x: np.ndarray, errors: np.ndarray, spread: float, factor: float, rng: np.random.Generator) -> float:
    shape = x[None] ** -EXPONENTS[:, None]  # [exponents, k]
    floor, scale = _lines(shape, errors)
    misfit = ((floor[:, None] + scale[:, None] * shape - errors) ** 2).sum(1) / spread**2
    odds = np.exp(-(misfit - misfit.min()) / 2)
    one = rng.choice(len(odds), p=odds / odds.sum())
    gain = scale[one] * (1 - factor ** -EXPONENTS[one])
    return float(min(gain, max(floor[one] + scale[one], 0.0)))  # no more than the whole error


def _lines(shape: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of floor + scale · shape for each exponent, the floor not below 0."""
    mean = shape.mean(1)
    spread = ((shape - mean[:, None]) ** 2).sum(1)
    scale = ((shape - mean[:, None]) * (errors - errors.mean())).sum(1) / spread
    floor = errors.mean() - scale * mean
    through = (shape * errors).sum(1) / (shape**2).sum(1)  # without a floor
    return np.maximum(floor, 0.0), np.where(floor < 0, through, scale)
