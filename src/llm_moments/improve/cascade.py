"""Cascades, foretold: what a cheap and a dear plan would do together, from what each did alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)  # rows asked again


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


def foretell_three(
    firsts: Sequence[tuple[str, float, np.ndarray]], pair: tuple[str, str, float], middle: tuple[float, np.ndarray],
    last: tuple[float, np.ndarray], margins: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[Foretold, float]]:  # fmt: skip
    """One more plan put before a cascade of two. firsts: (key, cost, outputs); pair: keys of the two and the threshold
    between them; middle, last: (cost, outputs). Each comes with the threshold below which the first one asks."""
    (cost, told), (high, better) = middle, last
    unsure = margins(told) < pair[2]
    both = np.where(unsure[:, None], better, told)
    for key, low, outputs in firsts:
        sure = margins(outputs)
        if low >= 0.6 * cost or not np.isfinite(sure).all():
            continue
        for share in SHARES:
            threshold = round(float(np.quantile(sure, share)), 4)
            asked = sure < threshold
            whole = low + float(asked.mean()) * cost + float((asked & unsure).mean()) * high
            merged = np.where(asked[:, None], both, outputs)
            yield Foretold(key, pair[1], pair[2], whole, merged), threshold
