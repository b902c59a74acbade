"""Formats: each file of examples as a stream of numbered rows, whatever bytes it holds."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from llm_moments.base import csv_rows
from llm_moments.base.errors import DataError
from llm_moments.base.registry import resolve
from llm_moments.data import arrow_formats, file_kinds, folders, image_formats, json_formats, sound_formats
from llm_moments.data.headers import header_of
from llm_moments.data.rows import BadRow, Cells, Row, Source

__all__ = ["BadRow", "Cells", "Row", "about_rows", "reader"]

MOST_LINE = 64_000_000  # characters of one line, so that a file of one endless line does not fill the memory
LOOKED_AT = 50  # rows by which a header is told from a row


def reader(file: Path, encoding: str | None) -> Source:
    """The rows of a file or folder, or of stdin (-)."""
    source = _source(file, encoding)
    rows = source.rows
    return Source(lambda only: _told(rows(only), file, encoding), source.notes, source.named)


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
    if not file.is_file() or suffix in (".gz", ".json", ".arrow", ".feather"):
        return None
    if suffix in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            return int(table.metadata.num_rows)
    with file.open("rb") as stream:
        lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    return max(lines - (1 if suffix in (".csv", ".tsv", ".tab") else 0), 1)


def _source(file: Path, encoding: str | None) -> Source:
    if str(file) == "-":
        return Source(lambda only: stdin_rows(encoding))
    if file.is_dir():
        return _of_folder(file, encoding or "utf-8")
    file_kinds.look(file)
    if image_formats.is_idx(file):
        return Source(lambda only: image_formats.idx_rows(file))
    suffix = Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()
    if suffix in READERS:
        return cast(Source, resolve(READERS[suffix], "data")(file, encoding))
    if sound_formats.is_sound(file) or image_formats.is_image(file):
        return _of_files(folders.Survey(file.parent, [file]), sound_formats.is_sound(file))
    raise DataError(_unknown(file, suffix))


# By suffix: (file, encoding) -> Source, as `file:function` of this room.
READERS = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), "formats:of_table"), **dict.fromkeys((".jsonl", ".ndjson"), "formats:of_json_lines"),
    ".json": "formats:of_json", **dict.fromkeys((".txt", ".text"), "formats:of_lines"),
    **dict.fromkeys((".parquet", ".pq"), "formats:of_parquet"), **dict.fromkeys((".arrow", ".feather"), "formats:of_arrow"),
}  # fmt: skip


def of_table(file: Path, encoding: str | None) -> Source:
    notes: list[str] = []
    return Source(lambda only: _table(file, encoding, notes), notes, named=True)


def of_json_lines(file: Path, encoding: str | None) -> Source:
    return Source(lambda only: _json(file, encoding, True), named=True)


def of_json(file: Path, encoding: str | None) -> Source:
    return Source(lambda only: _json(file, encoding, False), named=True)


def of_lines(file: Path, encoding: str | None) -> Source:
    return Source(lambda only: _lines(file, encoding))


def of_parquet(file: Path, encoding: str | None) -> Source:
    return Source(lambda only: arrow_formats.parquet_rows(file, only), named=True)


def of_arrow(file: Path, encoding: str | None) -> Source:
    return Source(lambda only: arrow_formats.arrow_rows(file, only), named=True)


def _unknown(file: Path, suffix: str) -> str:
    what = f": it {said}" if (said := file_kinds.by_name(suffix)) else ""
    return f"{file}: unknown kind of file {suffix!r}{what}; known are {', '.join(READERS)}, IDX and folders"


# ------------------------------------------------------------------------------------- folders


def _of_folder(folder: Path, encoding: str) -> Source:
    if arrow_formats.is_saved(folder):
        return Source(lambda only: arrow_formats.saved_rows(folder, only), named=True)
    files, _ = folders.walk(folder)
    sounds = [file for file in files if sound_formats.is_sound(file)]
    images = [] if sounds else [file for file in files if image_formats.is_image(file)]
    if sounds:
        return _of_files(folders.survey(folder, sound_formats.is_sound, classes=False), True)
    texts = [file for file in files if file not in set(images) and folders.is_text(file)]
    if images and (len(images) >= len(texts) or not any(len(t.relative_to(folder).parts) > 1 for t in texts)):
        return _of_files(folders.survey(folder, image_formats.is_image), False)
    found = folders.survey(folder, folders.is_text)
    flat, what = not any(map(found.label, found.files)), file_kinds.folder(folder)
    if not found.files or (flat and (what or not any(file.suffix for file in found.files))):
        raise DataError(
            f"{folder} {what}" if what else f"{folder} holds no CLASS/*.txt, and no images (CLASS/*.jpg, .png, …)"
        )
    return Source(lambda only: folders.text_rows(found, encoding), found.said("text"))


def _of_files(found: folders.Survey, sounds: bool) -> Source:
    if sounds:
        beside = {file.with_suffix(".txt") for file in found.files}
        found.left = [file for file in found.left if file not in beside]
        return Source(lambda only: sound_formats.folder_rows(found), found.said("sound"))
    return Source(lambda only: image_formats.folder_rows(found), found.said("image"))


# --------------------------------------------------------------------------------------- texts


def _open(file: Path, encoding: str | None) -> io.TextIOWrapper:
    """As text, byte order marks minded; undecodable bytes become surrogates and are found row by row."""
    raw: Any = file.open("rb")
    if raw.read(2) == b"\x1f\x8b" or file.suffix.lower() == ".gz":
        raw.close()
        raw = gzip.open(file, "rb")
    raw.seek(0)
    mark = raw.read(4)
    raw.seek(0)
    return io.TextIOWrapper(raw, encoding=_encoding(mark, encoding), errors="surrogateescape", newline="")


def _encoding(mark: bytes, named: str | None) -> str:
    if named and named.casefold().replace("_", "-") not in ("utf-8", "utf8"):
        return named  # a byte order mark is no part of the text in UTF-8 either
    if mark in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    return "utf-16" if mark[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _bounded(stream: Any, name: Any, most: int | None = None) -> Iterator[str]:
    """Its lines; DataError for one that is longer than any text."""
    most, number = most or MOST_LINE, 0
    while line := stream.readline(most):
        number += 1
        if len(line) == most and not line.endswith(("\n", "\r")):
            raise DataError(f"{name}, line {number} has more than {most:,} characters: is it a file of texts?")
        yield line


def _table(file: Path, encoding: str | None, notes: list[str]) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with _open(file, encoding) as stream:
        header_line = next((line for line in _bounded(stream, file) if line.strip()), "")
        stream.seek(0)
        kind = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"][-1]
        delimiter = "\t" if kind in (".tsv", ".tab") else _delimiter(header_line)
        if "\x00" in header_line:
            raise DataError(f"{file} is not a text file: it has NUL bytes (try --encoding utf-16-le, if it is UTF-16)")
        source = csv_rows.rows(_bounded(stream, file), delimiter)
        first = next((row for row in source if row.fault or any(map(str.strip, row.cells))), None)
        if first is None:
            return
        if first.fault:
            raise DataError(f"{file}, in the header on line {first.line}: {first.fault}.")
        if kind == ".tab":
            flags = [row.cells for row in islice(source, 2)] + [[], []]
            first = csv_rows.Fields(_orange([name.strip() for name in first.cells], flags[0], flags[1]), 1)
        some = list(islice(source, LOOKED_AT))
        header = header_of(first.cells, [row.cells for row in some if not row.fault])
        if header.said and header.said not in notes:
            notes.append(header.said)
        for number, row in enumerate(chain([first] * (not header.lines), some, source), 1):
            yield number, _cells(number, header, row)


def _cells(number: int, header: Any, row: csv_rows.Fields) -> Cells:
    """Of a name that several columns have the first one's value counts."""
    found: dict[str, str] = {}
    for name, cell in zip(header.names, row.cells, strict=False):
        found.setdefault(name, cell)
    cells = Cells(number, found)
    cells.twice = header.twice
    if row.fault:
        cells.problem = BadRow(number, "open quote", f"on line {row.line} {row.fault}")
    elif not header.fits(row.cells):
        said = f"{len(row.cells)} fields where the header has {len(header.names)}"
        cells.problem = BadRow(number, "broken row", said)
    return cells


def _delimiter(header: str) -> str:
    return max(",;\t|", key=header.count)


def _orange(names: list[str], types: list[str], flags: list[str]) -> list[str]:
    """Orange's three header lines: the column flagged `class` is the label."""
    return ["label" if "class" in flag else name for name, flag in zip(names, flags + [""] * len(names), strict=False)]


def _json(file: Path, encoding: str | None, line_by_line: bool) -> Iterator[Row]:
    with _open(file, encoding) as stream:
        most = None if line_by_line else json_formats.MOST_JSON  # an array is often one line
        yield from json_formats.json_rows(stream, _bounded(stream, file, most), file, line_by_line=line_by_line)


def _lines(file: Path, encoding: str | None) -> Iterator[Row]:
    with _open(file, encoding) as stream:
        for number, line in enumerate(_bounded(stream, file), 1):
            yield number, Cells(number, {"text": line.rstrip("\r\n")})


def stdin_rows(encoding: str | None = None) -> Iterator[Row]:
    """A text a line, as it comes; undecodable bytes become surrogates and are found row by row."""
    raw = getattr(sys.stdin, "buffer", None)
    stream: Any = sys.stdin
    if raw is not None:
        mark = raw.peek(4)[:4] if hasattr(raw, "peek") else b""
        stream = io.TextIOWrapper(raw, _encoding(mark, encoding), errors="surrogateescape", newline="\n")
    try:
        for number, line in enumerate(_bounded(stream, "stdin"), 1):
            yield number, Cells(number, {"text": line.rstrip("\r\n")})
    finally:
        if raw is not None and not stream.closed:
            stream.detach()
