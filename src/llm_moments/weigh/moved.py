"""How far a change moves the next token along the baseline's answers, as fields of a Worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.evaluate.token_divergence import Moved


def along(moved: Moved, units: np.ndarray | None = None) -> dict[str, Any]:
    """kl with its interval, nll and tokens_changed; units: of the texts, those that are not independent have the same."""
    kl, count = stats.token_mean(moved.kl, moved.tokens, units), float(moved.tokens.sum())
    ends = {} if kl.n == 1 else {"kl_low": max(kl.low, 0.0), "kl_high": kl.high}
    return {
        "kl": kl.estimate, "nll": float(moved.nll.sum()) / count, "tokens_changed": float(moved.other.sum()) / count,
        "n": kl.n, **ends,
    }  # fmt: skip
