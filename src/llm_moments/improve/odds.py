"""Before the certification: how likely a plan is to pass it, and in which order plans are held against it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from llm_moments.stats.answers import most_harmful

LEVELS = (0.97, 0.92, 0.85, 0.75, 0.6)  # of the chance to pass: one candidate for each
DRAWS = 1000
STRICT = -1.7  # the score below which the exact test passes, near enough, at 5%


def chance(drops: np.ndarray, n_certify: int, max_drop: float, *, seed: int = 0) -> float:
    """How likely `n_certify` other examples prove `drop < max_drop`, given the drops seen here.

    drops: float64 [n], of the search split. Flips: the rates are drawn from their posterior, with one harmful
    flip more than were seen, because a plan that is chosen from many is a lucky one; other scores: a normal
    approximation. It decides only what is tried; the claim rests on the certification alone.
    """
    from scipy.special import ndtr

    if n_certify < 1 or not len(drops):
        return 0.0
    if set(np.unique(drops)) <= {-1.0, 0.0, 1.0}:
        harmful, beneficial = int((drops > 0).sum()), int((drops < 0).sum())
        rng = np.random.default_rng(seed)
        rates = rng.dirichlet([harmful + 1.0, beneficial + 0.5, len(drops) - harmful - beneficial + 0.5], DRAWS)
        worse, better, _ = rng.multinomial(n_certify, rates).T
        return float((worse <= most_harmful(better, n_certify, max_drop, STRICT)).mean())
    spread, largest = float(drops.std()), max(float(drops.max()), 0.0)
    room = max_drop - float(drops.mean()) - largest / n_certify - 1.645 * spread / n_certify**0.5
    doubt = spread * (1 / len(drops) + 1 / n_certify) ** 0.5
    return float(ndtr(room / doubt)) if doubt > 0 else float(room > 0)


def sequence(plans: Iterable[tuple[str, float, float]]) -> list[str]:
    """Plans (key, cost, chance to pass) in the order in which they are held against the certification split.

    The surest first, then ever faster ones: each is looked at only if all before it have passed, so that
    every look may spend the whole permitted error (fixed-sequence testing).
    """
    known = sorted(plans, key=lambda p: p[1])
    chosen: list[tuple[str, float]] = []
    for level in LEVELS:
        fastest = next(((key, cost) for key, cost, odds in known if odds >= level), None)
        if fastest is not None and (not chosen or fastest[1] < 0.97 * chosen[-1][1]):
            chosen.append(fastest)
    return [key for key, _ in chosen]
