"""Labels only where answers differ: the questions that decide a certificate, and what their answers are worth.

Rows on which two plans answer alike lose nothing whatever their label, so that a bound over n rows needs the labels of
the differing ones alone. Each differing row is asked once, blind: the answers without the names of the plans that gave
them, in an order drawn for each row. A row that is not answered counts as harm.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.atomic import write_atomic
from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Outputs, Pipeline
from llm_moments.tasks.classification import REGRESSION

FILE = "questions.csv"
BETTER = ("1", "2", "equal")  # what may be answered where two texts are held against each other
COLUMNS = ("question", "input", "answers", "label")
TEXT_COLUMNS = ("question", "input", "answer 1", "answer 2", "better")


@dataclass(frozen=True)
class Question:
    """One row of the file. key: what it is known by when it comes back, whatever the order of the file; row: of the
    certification rows; shown: the distinct answers in the order drawn; plan: of a text, the candidate that gave one of
    them."""

    key: str
    row: int
    shown: tuple[str, ...]
    plan: str = ""


def check(pipe: Pipeline) -> None:
    """InputError where there is nothing to ask: every number differs, in its last digit at least."""
    if pipe.task.classifies and pipe.model.problem_type == REGRESSION:
        raise InputError(
            f"{pipe.model.name} answers with numbers, which differ on every row: there is no small number of questions "
            "that would do. Give --data with references."
        )


def makes_texts(pipe: Pipeline) -> bool:
    """Whether the question is which of two answers is better, and not which label is right."""
    return pipe.task.compared


class Questions:
    """The differing rows of some plans. values: the certification rows; baseline: its outputs on them; outputs: those
    of each candidate, by key, in the order of the sequence. most: how many may be asked; those of the first candidates
    come first, and what is beyond stays unasked."""

    def __init__(
        self, pipe: Pipeline, values: Sequence[Any], baseline: Outputs, outputs: Mapping[str, Outputs], most: int
    ):
        self.pipe, self.values, self.baseline, self.outputs = pipe, values, baseline, outputs
        self.texts = makes_texts(pipe)
        self.asked = self._made()[:most]

    def differing(self, key: str) -> np.ndarray:
        """int64 [m]: rows on which a candidate answers otherwise than the baseline."""
        same = self.pipe.task.argmax_equal(self.outputs[key], self.baseline)
        return np.flatnonzero(~np.asarray(same, bool))

    def _made(self) -> list[Question]:
        found: dict[str, Question] = {}
        for key in self.outputs:
            for row in self.differing(key).tolist():
                one = self._question(row, key)
                found.setdefault(one.key, one)
        return list(found.values())

    def _question(self, row: int, key: str) -> Question:
        shown = [_said(self.pipe, self.baseline[[row]]), _said(self.pipe, self.outputs[key][[row]])]
        if not self.texts:  # one question a row: its label judges every candidate
            shown = [
                _said(self.pipe, o) for o in (self.baseline[[row]], *(one[[row]] for one in self.outputs.values()))
            ]
        name = _key(self.values[row], shown if self.texts else ())
        distinct = list(dict.fromkeys(shown))
        random.Random(name).shuffle(distinct)  # drawn by the row itself, so that a second run asks the same
        return Question(name, row, tuple(distinct), key if self.texts else "")

    # -- the file

    def write(self, file: Path, known: Mapping[str, str]) -> None:
        """questions.csv, with the answers that are known; the order tells nothing of where plans differ most."""
        head = TEXT_COLUMNS if self.texts else COLUMNS
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        for one in sorted(self.asked, key=lambda q: q.key):
            shown = one.shown if self.texts else (" | ".join(one.shown),)
            writer.writerow([one.key, _plain(self.values[one.row]), *shown, known.get(one.key, "")])
        write_atomic(file, stream.getvalue())

    # -- what the answers are worth

    def drops(self, key: str, answers: Mapping[str, str]) -> tuple[np.ndarray, int]:
        """float64 [n]: what each row loses under a candidate, in [-1, 1]; and how many differing rows are unanswered,
        which count as lost whole."""
        drops, open_ = np.zeros(len(self.values)), 0
        known = {one.key: one for one in self.asked}
        for row in self.differing(key).tolist():
            one = known.get(self._question(row, key).key)
            told = answers.get(one.key, "").strip() if one is not None else ""
            if one is None or not told:
                drops[row], open_ = 1.0, open_ + 1
            else:
                drops[row] = self._worth(one, row, key, told)
        return drops, open_

    def _worth(self, one: Question, row: int, key: str, told: str) -> float:
        if self.texts:
            if told.casefold() not in BETTER:
                raise DataError(f"{FILE}, question {one.key}: 'better' is {', '.join(BETTER)}, not {told!r:.60}")
            if told.casefold() == "equal":
                return 0.0
            return 1.0 if one.shown[int(told) - 1] == _said(self.pipe, self.baseline[[row]]) else -1.0
        task = self.pipe.task
        try:
            reference = task.references([told])
        except DataError as error:
            raise DataError(f"{FILE}, question {one.key}: {str(error).partition(': ')[2] or error}") from error
        before, after = (task.scores(o[[row]], reference)[0] for o in (self.baseline, self.outputs[key]))
        return float(before - after)


def read(file: Path) -> dict[str, str]:
    """Answers by question; empty ones are left out. DataError for a file that is not such a list."""
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if rows and not ({"question", "label"} <= rows[0].keys() or {"question", "better"} <= rows[0].keys()):
        raise DataError(f"{file} has no column 'question' with a column 'label' (or 'better') beside it")
    found: dict[str, str] = {}
    for row in rows:
        told = str(row.get("label") or row.get("better") or "").strip()
        if told and row["question"] and found.setdefault(row["question"], told) != told:
            raise DataError(f"{file}: question {row['question']} is answered twice, and not alike")
    return found


def within(rates: Mapping[str, np.ndarray], n: int, most: int) -> list[str]:
    """Which candidates of a sequence so many questions are expected to be enough for, n rows being asked about.

    rates: bool [m] by key, in order: on which rows of the search split each differs from the baseline. It must be
    decided there and not on the rows that are asked about, or the choice would favour those that are lucky on them.
    """
    kept: list[str] = []
    union: np.ndarray | None = None
    for key, differs in rates.items():
        both = differs if union is None else union | differs
        if both.mean() * n <= most:
            kept.append(key)
            union = both
    return kept


def guessed(differs: np.ndarray) -> np.ndarray:
    """float64 [m]: what differing rows lose, where nobody has said yet: half are taken to be harm, a third gain.

    It orders candidates and nothing else; the certificate rests on the answers.
    """
    rows = np.flatnonzero(differs)
    drops = np.zeros(len(differs))
    order = np.random.default_rng(0).permutation(rows)
    drops[order[: -(-len(rows) // 2)]] = 1.0
    drops[order[len(order) - len(rows) // 3 :]] = -1.0
    return drops


def _said(pipe: Pipeline, output: Outputs) -> str:
    (answer,) = pipe.task.answers(output)
    label = getattr(answer, "label", None)
    if label is None:
        return str(answer.text)
    return "|".join(map(str, label)) if isinstance(label, list) else str(label)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    name = getattr(value, "name", None) or getattr(value, "path", None)
    if name:
        return str(name)
    if isinstance(value, tuple | list) and all(isinstance(v, str) for v in value):
        return " | ".join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _key(value: Any, shown: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([_plain(value), sorted(shown)]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:12]
