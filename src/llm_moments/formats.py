"""Formats: each file of examples as a stream of numbered rows, whatever bytes it holds."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from llm_moments import quotes
from llm_moments.errors import DataError

Row = tuple[int, Mapping[str, Any]]  # 1-based row of data, and its columns


class BadRow(Exception):
    def __init__(self, row: int, kind: str, message: str):
        super().__init__(message)
        self.row, self.kind = row, kind


def reader(file: Path, encoding: str | None) -> Callable[[], Iterator[Row]]:
    """A function without arguments that starts a new pass over the rows (of stdin: the only one)."""
    rows = _rows_of(file, encoding)
    return lambda: _told(rows(), file, encoding)


def _told(rows: Iterator[Row], file: Path, encoding: str | None) -> Iterator[Row]:
    """Faults of a whole file, which decoders and unpackers tell each in its own way, as DataError."""
    try:
        yield from rows
    except LookupError as error:
        raise DataError(
            f"unknown encoding {encoding!r} ({error}); known are utf-8, cp1252, utf-16, shift_jis …"
        ) from error
    except UnicodeError as error:
        raise DataError(f"{file} cannot be read as text: {error}. Name its encoding with --encoding.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is no whole gzip file: {error}. Copy or pack it again.") from error
    except RecursionError as error:
        raise DataError(f"{file} is nested too deeply to be a file of examples") from error


def about_rows(path: str | Path) -> int | None:
    """About how many rows a file has, by its lines; None where that cannot be known without reading all of it."""
    file = Path(path)
    suffix = file.suffix.lower()
    if not file.is_file() or suffix in (".gz", ".json"):
        return None
    if suffix in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            return int(table.metadata.num_rows)
    with file.open("rb") as stream:
        lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    return max(lines - (1 if suffix in (".csv", ".tsv", ".tab") else 0), 1)


def _rows_of(file: Path, encoding: str | None) -> Callable[[], Iterator[Row]]:
    if str(file) == "-":
        return lambda: stdin_rows(encoding)
    from llm_moments import image_formats, sound_formats

    if file.is_dir():
        if sound_formats.sound_files(file):
            return lambda: sound_formats.folder_rows(file)
        if not any(file.glob("*/*.txt")) and image_formats.image_files(file):
            return lambda: image_formats.folder_rows(file)
        return lambda: _folder(file, encoding or "utf-8")
    if image_formats.is_idx(file):
        return lambda: image_formats.idx_rows(file)
    suffix = Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return lambda: _parquet(file)
    readers = {
        ".csv": _table, ".tsv": _table, ".tab": _table, ".jsonl": _json_lines, ".ndjson": _json_lines,
        ".json": _json, ".txt": _lines,
    }  # fmt: skip
    if suffix not in readers:
        raise DataError(
            f"{file}: unknown kind of file {suffix!r}; known are {', '.join(readers)}, .parquet, IDX and folders"
        )
    return lambda: readers[suffix](file, encoding)


def _open(file: Path, encoding: str | None) -> io.TextIOWrapper:
    """As text, byte order marks minded; undecodable bytes become surrogates and are found row by row."""
    raw: Any = gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")
    mark = raw.read(4)
    raw.seek(0)
    found = "utf-16" if mark[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if mark in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        found = "utf-32"
    if encoding and encoding.casefold().replace("_", "-") not in ("utf-8", "utf8"):
        found = encoding  # a byte order mark is no part of the text in UTF-8 either
    return io.TextIOWrapper(raw, encoding=found, errors="surrogateescape", newline="")


def clean(number: int, value: str) -> str:
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
        header_line = next((line for line in stream if line.strip()), "")
        stream.seek(0)
        kind = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"][-1]
        delimiter = "\t" if kind in (".tsv", ".tab") else _delimiter(header_line)
        if "\x00" in header_line:
            raise DataError(f"{file} is not a text file: it has NUL bytes (try --encoding utf-16-le, if it is UTF-16)")
        source = quotes.rows(stream, delimiter)
        header = next((row for row in source if row.fault or any(map(str.strip, row.cells))), None)
        if header is None:
            return
        if header.fault:
            raise DataError(f"{file}, in the header on line {header.line}: {header.fault}.")
        names = [name.strip() for name in header.cells]
        if len(set(names)) != len(names):
            raise DataError(f"{file}: two columns are called {Counter(names).most_common(1)[0][0]!r}")
        if kind == ".tab":
            names = _orange(names, *([row.cells for row in islice(source, 2)] + [[], []])[:2])
        for number, row in enumerate(source, 1):
            cells = _Cells(number, names, row.cells)
            if row.fault:
                cells.problem = BadRow(number, "open quote", f"on line {row.line} {row.fault}")
            yield number, cells


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
        return clean(self.number, value) if isinstance(value, str) else value


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
            value = json.loads(clean(number, line))
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


def stdin_rows(encoding: str | None = None) -> Iterator[Row]:
    """A text a line, as it comes; undecodable bytes become surrogates and are found row by row."""
    raw = getattr(sys.stdin, "buffer", None)
    for number, line in enumerate(sys.stdin if raw is None else raw, 1):
        text = line if isinstance(line, str) else line.decode(encoding or "utf-8", "surrogateescape")
        yield number, _Cells(number, ["text"], [text.rstrip("\r\n")])


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llm_moments.arrow_values import rows_of

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in rows_of(batch):
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
        raise DataError(f"{folder} holds no CLASS/*.txt, and no images (CLASS/*.jpg, .png, …){_deeper(folder)}")


def _deeper(folder: Path) -> str:
    """Where there are some a folder further down: folder/train/CLASS/a.png."""
    from llm_moments.image_formats import image_files

    parts = (part for part in sorted(folder.iterdir()) if part.is_dir() and not part.name.startswith("."))
    found = next((part for part in parts if image_files(part) or any(part.glob("*/*.txt"))), None)
    return f". Did you mean {found}?" if found else ""
