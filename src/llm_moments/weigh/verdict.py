"""From a drop with its interval to a word: free, cheap, needed, harmful or unclear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llm_moments import stats
from llm_moments.weigh.worth import Worth

LEVEL = 0.05


def with_verdicts(
    worths: list[Worth], max_drop: float, *, by_token: bool = False, labelled: bool = True
) -> list[Worth]:
    """Verdicts, with the p-values of all changes corrected for one another (Holm).

    by_token: of a model that makes texts. Where there are references, they decide as far as they can; else how far the
    next token moves along the baseline's own answers, held against max_drop in nats a token."""
    if by_token:
        by_score = {w.name: w for w in with_verdicts(worths, max_drop)}
        return [_of_text(by_score[w.name] if labelled else w, w, max_drop) for w in worths]
    measured = [w for w in worths if w.drop is not None]
    losses = dict(
        zip((w.name for w in measured), stats.holm([_sign(w.harmful, w.beneficial) for w in measured]), strict=True)
    )
    gains = dict(
        zip((w.name for w in measured), stats.holm([_sign(w.beneficial, w.harmful) for w in measured]), strict=True)
    )
    return [w if w.drop is None else _judged(w, losses[w.name], gains[w.name], max_drop) for w in worths]


def _sign(worse: int | None, better: int | None) -> float:
    """Exact sign test (McNemar): p-value of `worse` being no more frequent than `better`."""
    from scipy.stats import binomtest

    total = (worse or 0) + (better or 0)
    return float(binomtest(worse or 0, total, 0.5, alternative="greater").pvalue) if total else 1.0


def _judged(worth: Worth, loses: float, gains: float, max_drop: float) -> Worth:
    drop, high = worth.drop or 0.0, worth.drop_high or 0.0
    if gains < LEVEL:
        return replace(worth, verdict="harmful", p=gains)
    if high < max_drop:
        return replace(worth, verdict="free" if loses >= LEVEL else "cheap", p=loses)
    if loses < LEVEL:
        return replace(worth, verdict="needed" if drop >= max_drop else "cheap", p=loses)
    n = max(worth.n, 1)
    needs = stats.needed_examples(max_drop, (worth.harmful or 0) / n, (worth.beneficial or 0) / n)
    return replace(worth, verdict="unclear", p=loses, needs=max(needs or 0, 2 * n) if needs else _to_show(worth))


def _to_show(worth: Worth) -> int | None:
    """Examples at which a drop of this size would be certain, when it is more than the budget."""
    n = max(worth.n, 1)
    rate = ((worth.harmful or 0) + (worth.beneficial or 0)) / n
    return int(np.ceil(rate * (2.5 / max(worth.drop or 0.0, 1e-6)) ** 2)) + 1 if worth.drop else None


def _of_text(decided: Worth, worth: Worth, max_drop: float) -> Worth:
    """decided: by the references, where there are any; by nothing else."""
    if decided.verdict != "unclear":
        return decided
    if worth.kl_high is not None:
        return _by_divergence(worth, max_drop)
    if worth.lossless and worth.answers_changed == 0:
        return replace(worth, verdict="free")
    if worth.drop is None or decided.needs is not None:
        return decided
    if (worth.drop_low or 0.0) >= max_drop:
        return replace(worth, verdict="needed")
    return _judged(worth, _sign(worth.harmful, worth.beneficial), _sign(worth.beneficial, worth.harmful), max_drop)


def _by_divergence(worth: Worth, max_drop: float) -> Worth:
    kl, low, high = worth.kl or 0.0, worth.kl_low or 0.0, worth.kl_high or 0.0
    if high < max_drop:
        return replace(worth, verdict="cheap" if worth.tokens_changed or worth.answers_changed else "free")
    if low >= max_drop:
        return replace(worth, verdict="needed")
    far = (high - kl) / max(abs(kl - max_drop), 1e-9)
    return replace(worth, verdict="unclear", needs=max(int(np.ceil(worth.n * far**2)), worth.n + 1))
