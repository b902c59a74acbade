"""Certification by answers to questions: which candidates are within their number, and what the answers so far prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llm_moments import stats
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.improve import questions
from llm_moments.improve.certify import CONFIDENCE, Look
from llm_moments.improve.questions import Questions
from llm_moments.improve.search import Search


@dataclass
class Asks:
    """file: where questions are put; most: how many may be asked; answers: another file that they are answered in.

    waiting: questions without an answer that could change the outcome; words: what was asked, for the certificate.
    """

    file: Path
    most: int
    answers: Path | None = None
    waiting: int = 0
    words: str = ""
    looks: list[Look] = field(default_factory=list)

    def told(self) -> dict[str, str]:
        """The answers so far, by question."""
        found = questions.read(self.file) if self.file.exists() else {}
        return found | (questions.read(self.answers) if self.answers is not None else {})

    def within(self, search: Search, keys: Sequence[str], n: int) -> list[str]:
        """The candidates that the number of questions is expected to be enough for."""
        rates = {key: search.differs(search.study.trials[key]) for key in keys}
        return questions.within(rates, n, self.most)

    def judged(self, part: Evaluation, asked: Questions, max_drop: float) -> list[Look]:
        """The looks at each candidate as far as the first that does not pass, by the answers there are."""
        told, self.looks, self.waiting = self.told(), [], 0
        if not self.file.exists() or not self.file.stat().st_size:  # a file that people work on is theirs
            asked.write(self.file, told)
        if asked.asked and not told:
            self.waiting = len(asked.asked)
            return []
        for key in asked.outputs:
            drops, open_ = asked.drops(key, told)
            self.looks.append(look(part, drops, key, max_drop))
            if not self.looks[-1].passed:
                self.waiting = open_
                break
        self.words = self._words(part, asked, told)
        return self.looks

    def _words(self, part: Evaluation, asked: Questions, told: dict[str, str]) -> str:
        last = [one.key for one in self.looks if one.passed][-1:]
        if not last:
            return ""
        differ = len(asked.differing(last[0]))
        answered = sum(one.key in told for one in asked.asked)
        return (
            f"These examples had no labels. Both plans answer {len(part) - differ:,} of them alike, which loses nothing whatever "
            f"the label; {answered:,} questions about differing ones were answered, and those without an answer count as harm."
        )


def look(part: Evaluation, drops: np.ndarray, key: str, max_drop: float) -> Look:
    """The test of `drop < max_drop`. drops: float64 [n] in [-1, 1], what each row loses."""
    before, after = np.maximum(drops, 0), np.maximum(-drops, 0)
    if part.independent == len(part):
        bound = stats.drop_bound(before, after, confidence=CONFIDENCE, bounds=(0.0, 1.0))
    else:
        bound = stats.unit_drop_bound(before, after, part.units, confidence=CONFIDENCE, bounds=(0.0, 1.0))
    return Look(
        key, bound.high < max_drop, bound.estimate, bound.high, None, None, *part.flips(before, after),
        part.needs(before, after, max_drop, CONFIDENCE),
    )  # fmt: skip
