"""A figure of each token of some texts: tokens of a text hang together, so that the texts are what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_moments.stats.bound import Bound, error_of

METHOD = "ratio of sums over texts, linearised; Student's t"


def token_mean(sums: Any, tokens: Any, units: Any = None, *, confidence: float = 0.95) -> Bound:
    """Bounds for the mean over all tokens. sums, tokens [texts]: the figure's sum over each text, and its tokens; units
    [texts]: the same for texts that are not independent, which count once. Bound.n counts units; of a single one the
    bounds are infinite. It supposes that the texts stand for others: a text unlike all of them is not covered."""
    total, count = np.asarray(sums, float), np.asarray(tokens, float)
    if total.shape != count.shape or total.ndim != 1 or not len(total) or (count <= 0).any():
        raise ValueError(f"sums and tokens are two arrays [texts], tokens above 0, not {total.shape} and {count.shape}")
    if not np.isfinite(total).all():
        bad = int(np.flatnonzero(~np.isfinite(total))[0])
        raise ValueError(f"the sum of text {bad} is {total[bad]}, not a number")
    if units is not None:
        _, which = np.unique(np.asarray(units), return_inverse=True)
        total, count = np.bincount(which, total), np.bincount(which, count)
    alpha, n = error_of(confidence), len(total)
    mean = float(total.sum() / count.sum())
    if n == 1:
        return Bound(mean, -np.inf, np.inf, confidence, METHOD, 1)
    from scipy.special import stdtrit

    error = float((total - mean * count).std(ddof=1)) / count.mean() / n**0.5
    half = -float(stdtrit(n - 1, alpha)) * error
    return Bound(mean, mean - half, mean + half, confidence, METHOD, n)
