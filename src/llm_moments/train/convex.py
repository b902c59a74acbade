"""A linear classifier's weights: regularised logistic regression over sparse rows, solved whole (scipy's L-BFGS)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

RIDGE = 1e-5  # of the squared weights; a row's features have length 1
STEPS, SECONDS = 200, 20.0
HISTORY = 10  # of L-BFGS


def table(rows: tuple[np.ndarray, ...], size: int) -> Any:
    """A sparse matrix, float64 [rows, size], of what `Vectorizer.rows` gives."""
    from scipy.sparse import csr_matrix

    numbers, values, counts = rows
    edges = np.concatenate([[0], np.cumsum(counts)])
    return csr_matrix((values.astype(np.float64), numbers, edges), shape=(len(counts), size))


def fitted(
    rows: Any, targets: np.ndarray, *, several: bool = False, seconds: float = SECONDS
) -> tuple[np.ndarray, np.ndarray]:
    """(weight [size, labels], bias [labels]) that make the targets likeliest.

    rows: sparse [rows, size]. targets: [rows, labels], each row's sum is 1, or, with `several`, each label is there (1) or
    not (0). The loss is convex: there is one optimum, and where the time is over what is near it.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit, log_softmax, softmax

    (n, labels), size = targets.shape, rows.shape[1]
    back, end = rows.T.tocsr(), time.monotonic() + seconds

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[:-labels].reshape(size, labels), flat[-labels:]
        scores = rows @ weight + bias
        if several:
            value = -(targets * log_expit(scores) + (1 - targets) * log_expit(-scores)).sum()
            apart = expit(scores) - targets
        else:
            value = -(targets * log_softmax(scores, axis=1)).sum()
            apart = softmax(scores, axis=1) - targets
        slope = np.concatenate([(back @ apart / n + RIDGE * weight).ravel(), apart.sum(axis=0) / n])
        return value / n + RIDGE / 2 * float((weight**2).sum()), slope

    def late(_: np.ndarray) -> None:
        if time.monotonic() > end:
            raise StopIteration

    options = {"maxiter": STEPS, "maxcor": HISTORY}
    found = minimize(loss, np.zeros((size + 1) * labels), jac=True, method="L-BFGS-B", options=options, callback=late).x
    return found[:-labels].reshape(size, labels).astype(np.float32), found[-labels:].astype(np.float32)
