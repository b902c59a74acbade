"""Cascades, foretold: what a cheap and a dear plan would do together, from what each did alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)  # rows asked again


@dataclass(frozen=True)
class Foretold:
    """A cascade of plan `cheap` over plan `dear`: exact outputs, modelled cost."""

    cheap: str
    dear: str
    threshold: float
    cost: float
    outputs: np.ndarray


def foretell(
    plans: Sequence[tuple[str, float, np.ndarray]],
    margins: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Foretold]:
    """plans: (key, cost an example, outputs). The merged outputs are those the cascade will give; its
    cost adds the cheap plan's for all rows and the dear plan's for the share that is asked again."""
    for cheap, low, outputs in plans:
        sure = margins(outputs)
        if not np.isfinite(sure).all():
            continue
        for dear, high, better in plans:
            if low >= 0.8 * high:
                continue
            for share in SHARES:
                cost = low + share * high
                if cost >= high:
                    break
                threshold = round(float(np.quantile(sure, share)), 4)
                asked = sure < threshold
                yield Foretold(
                    cheap, dear, threshold, low + float(asked.mean()) * high, np.where(asked[:, None], better, outputs)
                )
