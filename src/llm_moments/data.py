"""Readers: a file of examples as a stream, its columns found, its bad rows named."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from llm_moments.core import Example
from llm_moments.errors import DataError
from llm_moments.formats import BadRow, reader

TEXT = [
    "text",
    "sentence",
    "content",
    "message",
    "review",
    "body",
    "document",
    "comment",
    "question",
    "utterance",
    "tweet",
    "input",
    "title",
    "premise",
    "sentence1",
    "question1",
    "text_a",
    "text1",
    "query",
]
PAIR = ["text_pair", "hypothesis", "sentence2", "question2", "text_b", "text2", "passage"]
LABEL = ["label", "labels", "class", "category", "target", "y", "sentiment", "intent", "rating", "score", "topic"]
# A file with one of these columns is of a task that makes texts; its references have names of their own.
MADE_FROM = ["messages", "prompt", "source", "src"]
REFERENCE = ["reference", "references", "answer", "completion", "response", "target", "tgt", "translation", "transcript",
             "transcription", "text", "sentence", "output"]  # fmt: skip
IDS = ("id", "idx", "row_id", "uid", "guid")
MAX_CHARS = 1_000_000
PEEK = 200  # rows looked at to find the columns
KEPT = 20  # reported rows that are kept in full; all are counted


@dataclass
class Data:
    """A re-iterable stream of Examples in constant memory. `errors` counts what the last pass skipped.

    images: whether the column `text` holds images; with on_error "skip" each is decoded, so that damaged ones
    are known before any step sees them. sounds: whether it holds sounds, whose headers are always looked at.
    """

    path: str
    columns: dict[str, str | None]
    rows: Any = field(repr=False)
    on_error: str = "fail"
    limit: int | None = None
    max_chars: int = MAX_CHARS
    images: bool = False
    sounds: bool = False
    errors: Counter[str] = field(default_factory=Counter)
    reported: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip"):
            raise DataError(f"on_error is fail or skip, not {self.on_error!r}")

    def __iter__(self) -> Iterator[Example]:
        self.errors.clear()
        self.reported.clear()
        return islice(self._examples(), self.limit)

    def _examples(self) -> Iterator[Example]:
        source = self.rows()
        while True:
            try:
                number, row = next(source)
                example, group = self._example(number, row), row.get(self.columns.get("group") or "")
                yield example if group is None else replace(example, group=group)
            except StopIteration:
                return
            except BadRow as bad:
                if self.on_error == "fail":
                    raise DataError(f"{self.path}, row {bad.row}: {bad}. Mend it or pass --on-error skip.") from None
                self.skipped(bad.kind, f"row {bad.row}: {bad}")

    def skipped(self, kind: str, what: str) -> None:
        self.errors[kind] += 1
        if len(self.reported) < KEPT:
            self.reported.append(what)

    def _example(self, number: int, row: Mapping[str, Any]) -> Example:
        if self.columns.get("choices"):
            asked = "messages" if self.columns["text"] == "messages" else "prompt"
            value = {asked: row.get(self.columns["text"] or ""), "choices": row.get(self.columns["choices"] or "")}
            return Example(value, self._label(row), self._id(number, row))
        if self.images:
            return Example(self._image(number, row), self._label(row), self._id(number, row))
        if self.columns["text"] == "messages" and isinstance(row.get("messages"), list):
            return Example({"messages": row["messages"]}, self._label(row), self._id(number, row))
        if self.sounds:
            return Example({"audio": self._sound(number, row)}, self._label(row), self._id(number, row))
        text = self._text(number, row, self.columns["text"])
        if self.columns["pair"]:
            return Example(
                (text, self._text(number, row, self.columns["pair"])), self._label(row), self._id(number, row)
            )
        return Example(text, self._label(row), self._id(number, row))

    def _sound(self, number: int, row: Mapping[str, Any]) -> Any:
        from llm_moments.sound_formats import sound_in

        return sound_in(row, str(self.columns["text"]), number, self._root())

    def _root(self) -> Path:
        """The folder that paths inside the data are below."""
        place = Path(self.path)
        return (place if place.is_dir() else place.parent).resolve()

    def _text(self, number: int, row: Mapping[str, Any], column: str | None) -> str:
        value = row.get(column or "")
        if not isinstance(value, str):
            raise BadRow(number, "not a text", f"column {column!r} holds {value!r:.60}, not a text")
        if not value.strip():
            raise BadRow(number, "empty text", f"column {column!r} is empty")
        if not value.isascii():
            _whole_characters(number, value)
        if len(value) > self.max_chars:
            raise BadRow(
                number,
                "too long",
                f"column {column!r} has {len(value):,} characters ({value[:30]!r}…), over {self.max_chars:,}",
            )
        return value

    def _image(self, number: int, row: Mapping[str, Any]) -> Any:
        from llm_moments.image_formats import image_in

        return image_in(row, str(self.columns["text"]), number, self._root(), whole=self.on_error == "skip")

    def _label(self, row: Mapping[str, Any]) -> Any:
        value = row.get(self.columns["label"] or "")
        missing = value == "" or (isinstance(value, float) and math.isnan(value))  # NaN: a gap, as pandas writes it
        return None if missing else value

    def _id(self, number: int, row: Mapping[str, Any]) -> Any:
        return row.get(self.columns["id"]) if self.columns["id"] else number

    def count(self) -> int:
        """Rows that are read, by reading them."""
        return sum(1 for _ in self)


def read(
    path: str | Path, *, text: str | None = None, pair: str | None = None, label: str | None = None,
    id: str | None = None, encoding: str | None = None, on_error: str = "fail", limit: int | None = None,
    max_chars: int = MAX_CHARS, group: str | None = None,
) -> Data:  # fmt: skip
    """The examples of a CSV, TSV, JSONL, JSON, Parquet, text or Orange file, a folder of class folders, or stdin (-)."""
    file = Path(path)
    if str(path) != "-" and not file.exists():
        near = get_close_matches(file.name, [p.name for p in file.parent.iterdir()], 1) if file.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file" + (f"; did you mean {near[0]}?" if near else ""))
    if str(path) != "-" and file.is_file() and file.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    rows = reader(file, encoding)
    # A pipe is read once: what is peeked at would be lost, and its only column is known.
    peeked = [{"text": ""}] if str(path) == "-" else _peek(rows, path)
    peeked = _without(peeked, group, path, text=text, pair=pair, label=label) if group else peeked
    rest = _without_ids(peeked, text, id)
    sounds = _sound_column(rest, text)
    images = None if sounds else _image_column(rest, text)
    columns = find_columns(peeked, path, sounds, text=sounds or images or text, pair=pair, label=label, id=id)
    columns["text"] = columns["text"] or "text"
    if group:
        columns["group"] = group
    name = "stdin" if str(path) == "-" else str(path)
    return Data(name, columns, rows, on_error, limit, max_chars, bool(images), bool(sounds))


def _without(rows: Sequence[Any], group: str, path: Any, **named: str | None) -> list[Any]:
    """The rows without the column of groups, which is neither text nor label, unless it is named so."""
    if group in named.values():
        return list(rows)
    find_columns(rows, path, group=group)
    return [
        row if getattr(row, "problem", None) is not None else {k: v for k, v in row.items() if k != group}
        for row in rows
    ]


def _without_ids(rows: Sequence[Mapping[str, Any]], text: str | None, id: str | None) -> list[dict[str, Any]]:
    """The columns among which an input is looked for: an id may be of any type, bytes or the name of a file, too."""
    ids = {name for row in rows for name in row if name == id or (id is None and name.casefold().strip() in IDS)}
    return [{name: value for name, value in row.items() if name not in ids - {text}} for row in rows]


def _sound_column(rows: Sequence[Mapping[str, Any]], named: str | None) -> str | None:
    from llm_moments.sound_formats import sound_column

    return sound_column(rows, named)


def _image_column(rows: Sequence[Mapping[str, Any]], named: str | None) -> str | None:
    from llm_moments.image_formats import image_column

    return image_column(rows, named)


def given(texts: Sequence[str], *, on_error: str = "fail", limit: int | None = None) -> Data:
    """Texts in memory, such as those of a command line, read as a file of them would be."""
    return Data("the command line", {"text": "text", "pair": None, "label": None, "id": None},
                lambda: ((n, {"text": text}) for n, text in enumerate(texts, 1)), on_error, limit)  # fmt: skip


def _whole_characters(number: int, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = f"{value[error.start]!r} after {value[max(0, error.start - 20) : error.start]!r}"
        raise BadRow(number, "undecodable", f"{broken} is half a character (a lone surrogate)") from None


def _peek(rows: Any, path: Any) -> list[Any]:
    seen: list[Any] = []
    source = rows()
    while len(seen) < PEEK:
        try:
            seen.append(next(source)[1])
        except StopIteration:
            break
        except BadRow:
            continue
    broken = [row for row in seen if getattr(row, "problem", None) is not None]
    if seen and len(broken) == len(seen):
        raise DataError(f"{path} has no rows that can be read; row {broken[0].number}: {broken[0].problem}")
    if not seen:
        raise DataError(f"{path} has no rows that can be read")
    return seen


# -------------------------------------------------------------------------------------- columns


def find_columns(
    rows: Sequence[Mapping[str, Any]], path: Any, sounds: str | None = None, **wanted: str | None
) -> dict[str, str | None]:
    """Which column is the text, the second text, the label, the id: as told, by name, or by content. sounds: the column
    that holds sounds, if one does."""
    rows = [row for row in rows if getattr(row, "problem", None) is None] or rows[:1]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for option, name in wanted.items():
        if name is not None and name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{path} has no column {name!r} (--{option}-column); it has {', '.join(names)}{hint}")
    by_name = {name.casefold().strip(): name for name in names}

    def known(group: Iterable[str]) -> str | None:
        return next((by_name[word] for word in group if word in by_name), None)

    if choices := by_name.get("choices"):  # multiple choice: the number of the right one, or its text
        asked = wanted.get("text") or known([*MADE_FROM, *TEXT])
        label = wanted.get("label") or known(["answer", "answerkey", "gold", *LABEL])
        return {"text": asked, "pair": None, "label": label, "id": wanted.get("id") or known(IDS), "choices": choices}
    if (made_from := sounds or known(MADE_FROM)) and wanted.get("text") in (None, made_from) and not wanted.get("pair"):
        label = wanted.get("label") or known(word for word in [*REFERENCE, *LABEL] if by_name.get(word) != made_from)
        return {"text": made_from, "pair": None, "label": label, "id": wanted.get("id") or known(IDS)}
    label = wanted.get("label") or known(word for word in LABEL if by_name.get(word) != wanted.get("text"))
    ids = {wanted.get("id") or known(IDS)}
    text = wanted.get("text") or known(TEXT) or _longest(rows, [n for n in names if n != label and n not in ids])
    if text is None:
        raise DataError(f"{path}: no column of texts among {', '.join(names)}. Name it with --text-column.")
    pair = wanted.get("pair") or (known(PAIR) if not wanted.get("text") else None)
    label = label if label != text else None
    label = label or _repeated(rows, [n for n in names if n not in (text, pair) and n not in ids])
    return {"text": text, "pair": pair, "label": label, "id": wanted.get("id") or known(IDS)}


def _longest(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    lengths = {n: sum(len(r[n]) for r in rows if isinstance(r.get(n), str) and not _numeric(r[n])) for n in names}
    best = max(lengths, key=lengths.__getitem__, default=None)
    return best if best is not None and lengths[best] else None


def _repeated(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    """The only other column, if its values come again and again."""
    if len(names) != 1 or len(rows) < 8:
        return None
    values = {json.dumps(row.get(names[0]), default=str) for row in rows}
    return names[0] if len(values) <= len(rows) / 2 else None


def _numeric(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------- identity and splits


def split(examples: Iterable[Example], *, fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[Example]]:
    """Parts by a hash of the normalised input or its group: the same for every order of the rows; equal and near-equal
    rows and rows of one group stay together."""
    from llm_moments.independent import units

    examples = list(examples)
    parts: dict[str, list[Example]] = {name: [] for name in fractions}
    edges, total = [], 0.0
    for name, share in fractions.items():
        total += share
        edges.append((total, name))
    for example, unit in zip(examples, units(examples), strict=True):
        digest = hashlib.sha256(seed.to_bytes(8, "big") + unit.tobytes()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64 * total
        parts[next((name for edge, name in edges if place < edge), edges[-1][1])].append(example)
    return parts


def fingerprint(path: str | Path) -> str:
    """sha256 of a file's content, or of a folder's names and contents; about a second a gigabyte."""
    path, digest = Path(path), hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]
