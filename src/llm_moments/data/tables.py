"""Rows as files: JSON lines, CSV, TSV, Parquet. Whatever the rows hold, the file is one that its readers can take."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from llm_moments.base.visible import ESCAPE

Row = Mapping[str, Any]
Rows = Callable[[], Iterable[Row]]  # starts a new pass: what columns there are is known after the last row only
EXACT = 2**53  # whole numbers up to here are the same as float64
CHUNK = 10_000  # rows of one row group


def plain(value: Any) -> Any:
    """The value as JSON can have it: bytes as hex digits, times as ISO 8601, whatever else there is as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Decimal):  # its digits: a float has not room for all of them
        return None if value.is_nan() else format(value, "f")
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        inner = value.tolist()
        return str(inner) if type(inner) is type(value) else plain(inner)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as the standard has it, in one line: there is no NaN and no infinity in it, but null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError):
        return json.dumps(_finite(plain(value)), ensure_ascii=False, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def cell(value: Any) -> Any:
    """What stands in one cell: numbers and texts as they are, several labels with a bar between, JSON for the rest."""
    value = plain(value)
    if isinstance(value, list) and all(isinstance(one, str) and "|" not in one for one in value):
        return "|".join(value)
    return to_json(value) if isinstance(value, list | dict) else value


def write_lines(rows: Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors=ESCAPE) as stream:
        for row in rows():
            stream.write(to_json(row) + "\n")


def write_csv(
    rows: Rows, path: Path, *, delimiter: str = ",", shown: Callable[[Any], Any] = lambda value: value
) -> None:
    """Every column that some row has; a row without it has an empty cell there. shown: what becomes of a cell."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows())))
    with path.open("w", encoding="utf-8", newline="", errors=ESCAPE) as stream:
        if not names:
            return
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(map(shown, names))
        for row in rows():
            writer.writerow([shown(cell(row.get(name))) for name in names])


def write_tsv(rows: Rows, path: Path) -> None:
    write_csv(rows, path, delimiter="\t")


def write_parquet(rows: Rows, path: Path) -> None:
    """A column's type is one that holds all its values: texts where they are of several kinds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, _Seen] = {}
    for row in rows():
        for name, value in row.items():
            columns.setdefault(name, _Seen()).add(cell(value))
    kinds = {name: seen.kind() for name, seen in columns.items()}
    schema = pa.schema([(_valid(name), getattr(pa, kind)()) for name, kind in kinds.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for some in _chunks(rows()):
            arrays = [
                pa.array([_as(kind, cell(row.get(name))) for row in some], type_.type)
                for (name, kind), type_ in zip(kinds.items(), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


WRITERS: dict[str, Callable[[Rows, Path], None]] = {
    ".jsonl": write_lines, ".ndjson": write_lines, ".csv": write_csv, ".tsv": write_tsv, ".parquet": write_parquet,
}  # fmt: skip


@dataclass
class _Seen:
    """What kinds of values a column has shown."""

    bools: bool = False
    floats: bool = False
    texts: bool = False
    low: int | None = None
    high: int | None = None

    def add(self, value: Any) -> None:
        if isinstance(value, bool):
            self.bools = True
        elif isinstance(value, int):
            self.low = value if self.low is None else min(self.low, value)
            self.high = value if self.high is None else max(self.high, value)
        elif isinstance(value, float):
            self.floats = True
        elif value is not None:
            self.texts = True

    def kind(self) -> str:
        """The name of Arrow's type that has room for every one of them, unchanged."""
        low, high = (0 if end is None else end for end in (self.low, self.high))
        whole = self.low is not None
        if self.texts or (self.bools and (whole or self.floats)):
            return "string"
        if self.bools:
            return "bool_"
        if self.floats:
            return "float64" if low >= -EXACT and high <= EXACT else "string"
        if not whole or low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
            return "string"
        return "int64" if high < 2**63 else "uint64"


def _as(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "float64":
        return float(value)
    return _valid(value if isinstance(value, str) else to_json(value)) if kind == "string" else value


def _valid(text: str) -> str:
    """Halves of characters, which no file of UTF-8 can hold, as escapes."""
    return text.encode("utf-8", ESCAPE).decode("utf-8")


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while some := list(itertools.islice(source, CHUNK)):
        yield some
