"""Scores of one text against its reference, each from 0 (nothing) to 1 (the same), higher is better."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineMissing, InputError

Score = Callable[[str, str], float]


def text_metric(name: str) -> Score:
    """exact match and token F1 as SQuAD's script has them (Rajpurkar et al. 2016, arXiv:1606.05250); chrF of
    sacrebleu (Popović 2015) as a share."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    return METRICS[name]()


def _exact() -> Score:
    return lambda answer, reference: float(_normal(answer) == _normal(reference))


def _normal(text: str) -> str:
    kept = "".join(c for c in text.casefold() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _token_f1(answer: str, reference: str) -> float:
    mine, theirs = _normal(answer).split(), _normal(reference).split()
    if not mine or not theirs:
        return float(mine == theirs)
    same = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * same / (len(mine) + len(theirs))


def _contains(answer: str, reference: str) -> float:
    """1 where the reference's words stand in the answer one after the other, compared as for an exact match; a reference
    without words is contained in an answer without any."""
    wanted, given = _normal(reference), _normal(answer)
    return float(f" {wanted} " in f" {given} ") if wanted else float(not given)


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise EngineMissing("sacrebleu", "generate") from error
    return metrics


def _chrf() -> Score:
    scorer = _sacrebleu().CHRF()
    return lambda answer, reference: scorer.sentence_score(answer, [reference]).score / 100


def _bleu() -> Score:
    """Of a sentence: counted up to the longest n-gram that it has (effective order), as sacrebleu advises."""
    scorer = _sacrebleu().BLEU(effective_order=True)
    return lambda answer, reference: scorer.sentence_score(answer, [reference]).score / 100


METRICS: dict[str, Callable[[], Score]] = {
    "exact match": _exact,
    "token F1": lambda: _token_f1,
    "contains": lambda: _contains,
    "chrF": _chrf,
    "BLEU": _bleu,
}


def corpus_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU of all sentences together, which is not the mean of the sentences' own; shares, as above."""
    metrics = _sacrebleu()
    told = {name: metric.corpus_score(list(answers), [list(references)]).score / 100 for name, metric in (("corpus chrF", metrics.CHRF()), ("corpus BLEU", metrics.BLEU()))}  # fmt: skip
    same = sum(a.strip() == r.strip() for a, r in zip(answers, references, strict=True))
    return {**told, "identical": same / max(len(references), 1)}


def common_prefix(one: str, other: str) -> float:
    """Share of the longer text's words that both begin with: 1 for the same texts, 0 from the first word on."""
    mine, theirs = one.split(), other.split()
    most = max(len(mine), len(theirs))
    if not most:
        return float(one == other)
    same = next(
        (at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
    )
    return same / most


def word_errors(answer: str, reference: str) -> tuple[int, int]:
    """Fewest word edits from the reference to the answer, and the reference's words (for the word error rate)."""
    return _edits(reference.split(), answer.split()), len(reference.split())


def char_errors(answer: str, reference: str) -> tuple[int, int]:
    return _edits(list(reference), list(answer)), len(reference)


def _edits(source: Sequence[str], target: Sequence[str]) -> int:
    """Levenshtein distance, a row at a time."""
    known = {word: at for at, word in enumerate({*source, *target})}
    a, b = (np.array([known[w] for w in words], np.int64) for words in (source, target))
    row = np.arange(len(b) + 1)
    for at, word in enumerate(a, 1):
        swapped = np.minimum(row[:-1] + (b != word), row[1:] + 1)
        new = np.concatenate(([at], swapped))
        row = np.minimum.accumulate(new - np.arange(len(new))) + np.arange(len(new))
    return int(row[-1])
