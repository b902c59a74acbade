"""Which column of a file is the text, the second text, the label, the id: as told, by name, or by content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.data.labels import Named, number

TEXT = [
    "text", "sentence", "content", "message", "review", "body", "document", "comment", "question", "utterance", "tweet",
    "input", "title", "premise", "sentence1", "question1", "text_a", "text1", "query", "comment_text", "review_body",
    "review_text", "full_text", "sms", "headline", "description", "claim", "statement", "abstract", "article", "post",
]  # fmt: skip
PAIR = ["text_pair", "hypothesis", "sentence2", "question2", "text_b", "text2", "passage"]
# Two texts that belong together, as the usual sets call them: GLUE, SNLI, SICK, MRPC, STS, QQP, QNLI, BoolQ, SQuAD, FEVER …
PAIRS = [
    ("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"),
    ("question1", "question2"), ("text_a", "text_b"), ("text1", "text2"), ("string1", "string2"), ("question", "sentence"),
    ("question", "context"), ("question", "passage"), ("query", "passage"), ("query", "document"), ("claim", "evidence"),
    ("s1", "s2"), ("sent1", "sent2"), ("anchor", "positive"), ("headline", "articlebody"),
]  # fmt: skip
LABEL = [
    "label", "labels", "gold_label", "class", "category", "target", "y", "sentiment", "intent", "rating", "stars",
    "is_duplicate", "entailment_judgment", "entailment_label", "quality", "similarity", "relatedness_score", "score",
    "topic", "emotion", "emotions", "classes", "categories", "tags", "class_index", "label_text", "polarity", "stance",
]  # fmt: skip
# A file with one of these columns is of a task that makes texts; its references have names of their own.
MADE_FROM = ["messages", "prompt", "source", "src"]
ASKED = MADE_FROM[:2]  # rows of one file may have either
REFERENCE = [
    "reference", "references", "answer", "completion", "response", "target", "tgt", "translation", "transcript",
    "transcription", "text", "sentence", "output",
]  # fmt: skip
# What an instruction is about, and what it should be answered with, as Alpaca and Dolly call them.
ABOUT, ANSWERS = ["input", "context"], ["output", "response", "completion", "answer"]
IDS = ("id", "idx", "row_id", "uid", "guid", "pair_id")
INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+|")  # columns that pandas or nobody gave a name


class Columns:
    """The names that the rows have, and those that are still free."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], path: Any, wanted: Mapping[str, str | None]):
        self.rows, self.path, self.wanted = rows, path, wanted
        self.twice = {name for row in rows for name in getattr(row, "twice", ())}
        self.all = list(dict.fromkeys(name for row in rows for name in row))
        self.taken = {name for name in wanted.values() if name}
        self.names = [n for n in self.all if n in self.taken or not INDEX.fullmatch(n)]
        self._by_name: dict[str, str] = {}
        for fold in (lambda n: n.casefold().strip(), plain):
            for name in [*self.names, *sorted(self.twice)]:
                self._by_name.setdefault(fold(name), name)
        self._check()

    def _check(self) -> None:
        given = [(option, name) for option, name in self.wanted.items() if name is not None]
        for option, name in given:
            if name not in self.all and name not in self.twice and not _inner(self.rows, name):
                near = get_close_matches(name, self.all, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(
                    f"{self.path} has no column {name!r} (--{option}-column); it has {', '.join(self.names)}{hint}"
                )
        for at, (option, name) in enumerate(given):
            if other := next((o for o, n in given[:at] if n == name), None):
                raise DataError(
                    f"{self.path}: --{other}-column and --{option}-column both name {name!r}; each takes a column of its own"
                )

    def known(self, group: Iterable[str], *, texts: bool = False) -> str | None:
        """The first of these names that the file has and that no option has taken."""
        found = (self._by_name.get(word) or self._by_name.get(plain(word)) for word in group)
        return next((n for n in found if n and n not in self.taken and not (texts and not self.texts(n))), None)

    def texts(self, name: str) -> bool:
        """Whether most of its values are texts and no numbers; a column that is empty may be anything."""
        values = [v for v in _column(self.rows, name) if v not in (None, "")]
        return sum(isinstance(v, str) and not isinstance(v, Named) and number(v) is None for v in values) * 2 >= len(
            values
        )

    def pair(self) -> tuple[str, str] | None:
        for first, second in PAIRS:
            one, two = self.known([first]), self.known([second])
            if one and two and self.texts(one) and self.texts(two):
                return one, two
        return None

    def partner(self, name: str) -> str | None:
        """The text that goes with a named second one (or first one)."""
        for first, second in PAIRS:
            if plain(second) == plain(name) and (found := self.known([first], texts=True)):
                return found
        return self.known(TEXT, texts=True)

    def longest(self, without: Iterable[str | None]) -> str | None:
        out = {*without, *self.taken}
        out |= {n for n in (self.known([word]) for word in (*LABEL, *IDS)) if n}
        lengths = {
            name: sum(len(r[name]) for r in self.rows if name in r and isinstance(r[name], str) and number(r[name]) is None)
            for name in self.names if name not in out and not isinstance(_first(self.rows, name), Named)
        }  # fmt: skip
        best = max(lengths, key=lengths.__getitem__, default=None)
        return best if best is not None and lengths[best] else None

    def classes(self, without: Iterable[str | None]) -> str | None:
        """A column whose classes the file names; else the only other one, if its values come again and again."""
        others = [name for name in self.names if name not in without and name not in self.taken]
        for name in others:
            value = _first(self.rows, name)
            if isinstance(value, Named) or (isinstance(value, list) and value and isinstance(value[0], Named)):
                return name
        if len(others) != 1 or len(self.rows) < 8:
            return None
        values = {json.dumps(value, default=str) for value in _column(self.rows, others[0])}
        return others[0] if len(values) <= len(self.rows) / 2 else None


def find_columns(
    rows: Sequence[Mapping[str, Any]], path: Any, sounds: str | None = None, **wanted: str | None
) -> dict[str, str | None]:
    """text, pair, label, id, each a name or None; choices and more (a text that follows the first) where there are some.
    sounds: the column that holds sounds, if one does. DataError for what is not there, or named twice."""
    rows = [row for row in rows if getattr(row, "problem", None) is None] or rows[:1]
    found = Columns(rows, path, wanted)
    columns = _chosen(found, sounds)
    for option, name in columns.items():
        if name is not None and name in found.twice:
            raise DataError(
                f"{path}: two columns are called {name!r}; give each a name of its own, or name another ({option})"
            )
    return columns


def unused(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None]) -> list[str]:
    used = {name.partition(".")[0] for name in columns.values() if name} | {name for name in columns.values() if name}
    return [name for name in dict.fromkeys(n for row in rows for n in row) if name not in used and name.strip()]


def _chosen(c: Columns, sounds: str | None) -> dict[str, str | None]:
    wanted, known = c.wanted, c.known
    row_id = wanted.get("id") or known(IDS)
    if choices := known(["choices"]):  # multiple choice: the number of the right one, or its text
        asked = wanted.get("text") or known([*MADE_FROM, *TEXT])
        label = wanted.get("label") or known(["answer", "answerkey", "gold", *LABEL])
        return {"text": asked, "pair": None, "label": label, "id": row_id, "choices": choices}
    if (made_from := sounds or known(MADE_FROM)) and wanted.get("text") in (None, made_from) and not wanted.get("pair"):
        label = wanted.get("label") or known(word for word in [*REFERENCE, *LABEL] if known([word]) != made_from)
        other = known(word for word in ASKED if made_from in ASKED and word != made_from and not wanted.get("text"))
        mixed = {"or": other} if other else {}
        return {"text": made_from, "pair": None, "label": label, "id": row_id, **mixed}
    asked, answer = known(["instruction"], texts=True), known(ANSWERS)
    if asked and answer and not wanted.get("text") and not wanted.get("pair"):
        about = known(ABOUT)
        more = {"more": about} if about else {}
        return {"text": asked, "pair": None, "label": wanted.get("label") or answer, "id": row_id, **more}
    return _texts(c, row_id)


def _texts(c: Columns, row_id: str | None) -> dict[str, str | None]:
    wanted = c.wanted
    label, text, pair = wanted.get("label") or c.known(LABEL), wanted.get("text"), wanted.get("pair")
    if text is None and pair is not None:
        text = c.partner(pair) or c.longest([label])
    elif text is None and (both := c.pair()):
        text, pair = both
    if text is None:
        # A column that is called so is it, even where its texts look like numbers.
        text = c.known(TEXT[:1]) or c.known(TEXT, texts=True) or c.longest([label]) or c.known(TEXT)
        pair = pair or (c.known(PAIR, texts=True) if text else None)
    if text is None:
        raise DataError(_no_text(c))
    if pair == text:
        pair = None
    if label == text:
        label = None
    if label is None and plain(text) in ("question", "query"):
        label = c.known(["answer"])
    label = label or c.classes([text, pair, row_id])
    return {"text": text, "pair": pair, "label": label, "id": row_id}


def _no_text(c: Columns) -> str:
    left = [name for name in c.names if name not in c.taken]
    for name in left:
        value = _first(c.rows, name)
        if isinstance(value, Mapping) and value and all(isinstance(v, str) for v in value.values()):
            inner = [f"{name}.{key}" for key in value]
            example = f"--text-column {inner[0]}" + (
                f", and for references --label-column {inner[1]}" if len(inner) > 1 else ""
            )
            return (
                f"{c.path}: the column {name!r} holds a text for each of {', '.join(value)} (languages, perhaps). Name "
                f"what is to be read with a dot: {example}"
            )
    beside = f" beside {', '.join(map(repr, sorted(c.taken)))}" if c.taken else ""
    return f"{c.path}: no column of texts among {', '.join(left) or 'the others'}{beside}. Name it with --text-column."


def plain(name: str) -> str:
    """A name without regard to case, blanks, underscores and the like: "#1 String" and "sentence_A" are found."""
    name = re.sub(r"[\W_]+", " ", name.casefold()).strip()
    if turned := re.fullmatch(r"(\d) (\w+)", name):
        name = turned[2] + turned[1]
    return name.replace(" ", "")


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Its values as they stand: what is wrong with a row is told when it is used."""
    return [dict(row).get(name) for row in rows]


def _first(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((v for v in _column(rows, name) if v is not None and v != ""), None)


def _inner(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a.b is a field b of the column a."""
    column, dot, key = name.partition(".")
    return bool(dot) and any(column in row and isinstance(row[column], Mapping) and key in row[column] for row in rows)


def cell(row: Mapping[str, Any], name: str | None) -> Any:
    """The value of a column, or of a field of one (translation.en)."""
    column, dot, key = (name or "").partition(".")
    if dot and name not in row and isinstance(inner := row.get(column), Mapping):
        return inner.get(key)
    return row.get(name or "")
