"""Readers: a file of examples as a stream, its columns found, its bad rows named."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from llm_moments.core import Example
from llm_moments.errors import DataError

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
IDS = ("id", "idx", "row_id", "uid", "guid")
MAX_CHARS = 1_000_000
PEEK = 200  # rows looked at to find the columns
KEPT = 20  # reported rows that are kept in full; all are counted

Row = tuple[int, Mapping[str, Any]]  # 1-based row of data, and its columns


@dataclass
class Data:
    """A re-iterable stream of Examples in constant memory. `errors` counts what the last pass skipped."""

    path: str
    columns: dict[str, str | None]
    rows: Any = field(repr=False)
    on_error: str = "fail"
    limit: int | None = None
    max_chars: int = MAX_CHARS
    errors: Counter[str] = field(default_factory=Counter)
    reported: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Example]:
        self.errors.clear()
        self.reported.clear()
        return islice(self._examples(), self.limit)

    def _examples(self) -> Iterator[Example]:
        source = self.rows()
        while True:
            try:
                number, row = next(source)
                yield self._example(number, row)
            except StopIteration:
                return
            except BadRow as bad:
                if self.on_error == "fail":
                    raise DataError(f"{self.path}, row {bad.row}: {bad}. Mend it or pass --on-error skip.") from None
                self.errors[bad.kind] += 1
                if len(self.reported) < KEPT:
                    self.reported.append(f"row {bad.row}: {bad}")

    def _example(self, number: int, row: Mapping[str, Any]) -> Example:
        text = self._text(number, row, self.columns["text"])
        if self.columns["pair"]:
            return Example(
                (text, self._text(number, row, self.columns["pair"])), self._label(row), self._id(number, row)
            )
        return Example(text, self._label(row), self._id(number, row))

    def _text(self, number: int, row: Mapping[str, Any], column: str | None) -> str:
        value = row.get(column or "")
        if not isinstance(value, str):
            raise BadRow(number, "not a text", f"column {column!r} holds {value!r:.60}, not a text")
        if not value.strip():
            raise BadRow(number, "empty text", f"column {column!r} is empty")
        if len(value) > self.max_chars:
            raise BadRow(
                number,
                "too long",
                f"column {column!r} has {len(value):,} characters ({value[:30]!r}…), over {self.max_chars:,}",
            )
        return value

    def _label(self, row: Mapping[str, Any]) -> Any:
        value = row.get(self.columns["label"] or "")
        missing = value == "" or (isinstance(value, float) and math.isnan(value))  # NaN: a gap, as pandas writes it
        return None if missing else value

    def _id(self, number: int, row: Mapping[str, Any]) -> Any:
        return row.get(self.columns["id"]) if self.columns["id"] else number

    def count(self) -> int:
        """Rows that are read, by reading them."""
        return sum(1 for _ in self)


class BadRow(Exception):
    def __init__(self, row: int, kind: str, message: str):
        super().__init__(message)
        self.row, self.kind = row, kind


def read(
    path: str | Path, *, text: str | None = None, pair: str | None = None, label: str | None = None,
    id: str | None = None, encoding: str | None = None, on_error: str = "fail", limit: int | None = None,
    max_chars: int = MAX_CHARS,
) -> Data:  # fmt: skip
    """The examples of a CSV, TSV, JSONL, JSON, Parquet, text or Orange file, a folder of class folders, or stdin (-)."""
    file = Path(path)
    if on_error not in ("fail", "skip"):
        raise DataError(f"on_error is fail or skip, not {on_error!r}")
    if str(path) != "-" and not file.exists():
        near = get_close_matches(file.name, [p.name for p in file.parent.iterdir()], 1) if file.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file" + (f"; did you mean {near[0]}?" if near else ""))
    if str(path) != "-" and file.is_file() and file.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    rows = _reader(file, encoding)
    peeked = _peek(rows, path)
    columns = find_columns(peeked, path, text=text, pair=pair, label=label, id=id)
    return Data(str(path), columns, rows, on_error, limit, max_chars)


def _peek(rows: Any, path: Any) -> list[Mapping[str, Any]]:
    seen: list[Mapping[str, Any]] = []
    source = rows()
    while len(seen) < PEEK:
        try:
            seen.append(next(source)[1])
        except StopIteration:
            break
        except BadRow:
            continue
    if not seen:
        raise DataError(f"{path} has no rows that can be read")
    return seen


# -------------------------------------------------------------------------------------- columns


def find_columns(rows: Sequence[Mapping[str, Any]], path: Any, **wanted: str | None) -> dict[str, str | None]:
    """Which column is the text, the second text, the label, the id: as told, by name, or by content."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    for option, name in wanted.items():
        if name is not None and name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{path} has no column {name!r} (--{option}-column); it has {', '.join(names)}{hint}")
    by_name = {name.casefold().strip(): name for name in names}

    def known(group: Iterable[str]) -> str | None:
        return next((by_name[word] for word in group if word in by_name), None)

    label = wanted.get("label") or known(word for word in LABEL if by_name.get(word) != wanted.get("text"))
    text = wanted.get("text") or known(TEXT) or _longest(rows, [n for n in names if n != label])
    if text is None:
        raise DataError(f"{path}: no column of texts among {', '.join(names)}. Name it with --text-column.")
    pair = wanted.get("pair") or (known(PAIR) if not wanted.get("text") else None)
    label = label if label != text else None
    label = label or _repeated(rows, [n for n in names if n not in (text, pair)])
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


# -------------------------------------------------------------------------------------- formats


def _reader(file: Path, encoding: str | None) -> Any:
    """A function without arguments that starts a new pass over the rows."""
    if str(file) == "-":
        return _stdin
    if file.is_dir():
        return lambda: _folder(file, encoding or "utf-8")
    suffix = Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return lambda: _parquet(file)
    readers = {
        ".csv": _table, ".tsv": _table, ".tab": _table, ".jsonl": _json_lines, ".ndjson": _json_lines,
        ".json": _json, ".txt": _lines,
    }  # fmt: skip
    if suffix not in readers:
        raise DataError(
            f"{file}: unknown kind of file {suffix!r}; known are {', '.join(readers)}, .parquet and folders"
        )
    return lambda: readers[suffix](file, encoding)


def _open(file: Path, encoding: str | None) -> io.TextIOWrapper:
    """As text, byte order marks minded; undecodable bytes become surrogates and are found row by row."""
    raw: Any = gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")
    mark = raw.read(4)
    raw.seek(0)
    found = "utf-16" if mark[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return io.TextIOWrapper(raw, encoding=encoding or found, errors="surrogateescape", newline="")  # type: ignore[arg-type]


def _clean(number: int, value: str) -> str:
    for at, char in enumerate(value) if not value.isascii() else ():
        if "\udc80" <= char <= "\udcff":
            byte = ord(char) - 0xDC00
            raise BadRow(
                number,
                "undecodable",
                f"byte 0x{byte:02x} after {value[max(0, at - 20) : at]!r} is not UTF-8 (try --encoding cp1252)",
            )
    return value


def _table(file: Path, encoding: str | None) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with _open(file, encoding) as stream:
        header_line = stream.readline()
        stream.seek(0)
        delimiter = "\t" if ".tsv" in file.name or ".tab" in file.name else _delimiter(header_line)
        if "\x00" in header_line:
            raise DataError(f"{file} is not a text file (it has NUL bytes)")
        reader = csv.reader(stream, delimiter=delimiter)
        header = [name.strip() for name in next(reader)]
        if len(set(header)) != len(header):
            raise DataError(f"{file}: two columns are called {Counter(header).most_common(1)[0][0]!r}")
        if ".tab" in file.name:
            header = _orange(header, next(reader, []), next(reader, []))
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                broken = _Cells(number, header, header)
                broken.problem = BadRow(number, "broken row", str(error))
                yield number, broken
                continue
            if not cells:
                continue
            number += 1
            yield number, _Cells(number, header, cells)


class _Cells(dict[str, Any]):
    """A row that is checked when it is read, so that a bad one does not end the pass over the file."""

    def __init__(self, number: int, header: list[str], cells: list[str]):
        super().__init__(zip(header, cells, strict=False))
        self.problem: BadRow | None = None
        if len(cells) != len(header):
            self.problem = BadRow(number, "broken row", f"{len(cells)} fields where the header has {len(header)}")
        self.number = number

    def get(self, key: str, default: Any = None) -> Any:
        if self.problem:
            raise self.problem
        value = super().get(key, default)
        return _clean(self.number, value) if isinstance(value, str) else value


def _delimiter(header: str) -> str:
    return max(",;\t|", key=header.count)


def _orange(names: list[str], types: list[str], flags: list[str]) -> list[str]:
    """Orange's three header lines: the column flagged `class` is the label."""
    return ["label" if "class" in flag else name for name, flag in zip(names, flags + [""] * len(names), strict=False)]


def _json_lines(file: Path, encoding: str | None) -> Iterator[Row]:
    with _open(file, encoding) as stream:
        for number, line in enumerate((x for x in stream if x.strip()), 1):
            yield number, _JsonLine(number, line)


class _JsonLine(_Cells):
    def __init__(self, number: int, line: str):
        dict.__init__(self)
        self.number, self.problem = number, None
        try:
            value = json.loads(_clean(number, line))
        except BadRow as bad:
            self.problem = bad
            return
        except (ValueError, RecursionError) as error:
            self.problem = BadRow(number, "broken row", f"not JSON ({error}): {line.strip()[:60]!r}")
            return
        if isinstance(value, dict):
            self.update(value)
        else:
            self.problem = BadRow(number, "broken row", f"a row is a JSON object, not {line.strip()[:60]!r}")


def _json(file: Path, encoding: str | None) -> Iterator[Row]:
    with _open(file, encoding) as stream:
        try:
            values = json.loads(stream.read())
        except ValueError as error:
            raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise DataError(f"{file} should hold an array of objects; for one object a line call it .jsonl")
    for number, value in enumerate(values, 1):
        yield number, _JsonLine(number, json.dumps(value))


def _lines(file: Path, encoding: str | None) -> Iterator[Row]:
    with _open(file, encoding) as stream:
        for number, line in enumerate(stream, 1):
            yield number, _Cells(number, ["text"], [line.rstrip("\r\n")])


def _stdin() -> Iterator[Row]:
    for number, line in enumerate(sys.stdin, 1):
        yield number, {"text": line.rstrip("\r\n")}


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _folder(folder: Path, encoding: str) -> Iterator[Row]:
    """folder/CLASS/anything.txt"""
    number = 0
    for file in sorted(folder.glob("*/*.txt")):
        number += 1
        text = file.read_bytes().decode(encoding, errors="surrogateescape")
        yield number, _Cells(number, ["text", "label", "id"], [text, file.parent.name, str(file.relative_to(folder))])
    if not number:
        raise DataError(f"{folder} holds no CLASS/*.txt")


# --------------------------------------------------------------------------- identity and splits


def example_key(example: Example) -> bytes:
    """Hash of the input alone: exact duplicates share it, whatever their id or label."""
    value = example.input if isinstance(example.input, str) else json.dumps(example.input, default=str)
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def split(examples: Iterable[Example], *, fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[Example]]:
    """Parts by a hash of the input: the same for every order of the rows; duplicates stay together."""
    parts: dict[str, list[Example]] = {name: [] for name in fractions}
    edges, total = [], 0.0
    for name, share in fractions.items():
        total += share
        edges.append((total, name))
    for example in examples:
        digest = hashlib.sha256(seed.to_bytes(8, "big") + example_key(example)).digest()
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
