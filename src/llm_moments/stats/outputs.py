"""How far two pipelines' outputs, or two rankings, are apart."""

from __future__ import annotations

from typing import Any

import numpy as np


def divergence(p: Any, q: Any) -> np.ndarray:
    """Jensen-Shannon divergence of rows of probabilities [n, c], in nats: [n], 0 to log 2.

    (Lin, IEEE Trans. Information Theory 37:145, 1991.) Entries not above 0 count as 0.
    """
    p, q = np.maximum(np.asarray(p, float), 0.0), np.maximum(np.asarray(q, float), 0.0)
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"probabilities are two arrays [n, classes], not {p.shape} and {q.shape}")
    middle = (p + q) / 2
    return np.asarray(np.maximum((_to_middle(p, middle) + _to_middle(q, middle)) / 2, 0.0))


def _to_middle(x: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each row from the rows' middle; 0 log 0 is 0."""
    ratio = np.divide(x, middle, out=np.ones_like(x), where=(x > 0) & (middle > 0))
    return np.asarray((x * np.log(ratio)).sum(axis=1))


def rank_correlation(a: Any, b: Any) -> float | None:
    """Spearman's rank correlation of two arrays [n]; None where it is undefined.

    That is for n < 3, for a constant, and where a value is not finite.
    """
    from scipy.stats import spearmanr

    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"two arrays [n] are ranked, not {x.shape} and {y.shape}")
    if len(x) < 3 or not np.isfinite([x, y]).all() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)
