"""JSON: an object a line, an array of objects, or an object of columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.data.rows import BadRow, Cells, Row, clean

MOST_JSON = 1 << 29  # characters of a file that is read as a whole


def line_rows(lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate((x for x in lines if x.strip()), 1):
        yield number, _line(number, line)


def _line(number: int, line: str) -> Cells:
    """Undecodable bytes are told where a value that is needed holds them."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        try:
            clean(number, line)
        except BadRow as bad:
            return Cells(number, {}, bad)
        return Cells(number, {}, BadRow(number, "broken row", f"not JSON ({error}): {line.strip()[:60]!r}"))
    return _object(number, value)


def _object(number: int, value: Any) -> Cells:
    if isinstance(value, Mapping):
        return Cells(number, value)
    return Cells(number, {}, BadRow(number, "broken row", f"a row is a JSON object, not {str(value)[:60]!r}"))


def json_rows(stream: Any, lines: Iterator[str], file: Path, *, line_by_line: bool) -> Iterator[Row]:
    """line_by_line: what the file's name says; its beginning decides."""
    head = list(islice((line for line in lines if line.strip()), 2))
    first = head[0].lstrip() if head else ""
    single = _is_object(first) and len(head) > 1
    if (line_by_line and not first.startswith("[")) or single:
        yield from line_rows(chain(head, lines))
        return
    text = "".join(chain(head, [stream.read(MOST_JSON)]))
    if stream.read(1):
        raise DataError(
            f"{file} has more than {MOST_JSON:,} characters; write an object a line (.jsonl), which is read bit by bit"
        )
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{file} is not JSON: {error}. For an object a line each must stand on a line of its own."
        ) from error
    for number, value in enumerate(_listed(values, file), 1):
        yield number, _object(number, value)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _listed(values: Any, file: Path) -> Iterator[Any]:
    """Rows of an array, or of columns: {"text": ["a", "b"]}, {"text": {"0": "a", "1": "b"}}, pandas' "split"."""
    if isinstance(values, list):
        return iter(values)
    if isinstance(values, dict) and values:
        if isinstance(names := values.get("columns"), list) and isinstance(data := values.get("data"), list):
            return (dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in data)
        inner = list(values.values())
        if all(isinstance(v, dict) for v in inner) and len({tuple(v) for v in inner}) == 1:
            inner = [list(v.values()) for v in inner]
        lists = all(isinstance(v, list) for v in inner)
        if (
            lists
            and len({len(v) for v in inner}) == 1
            and (len(inner) > 1 or not isinstance((inner[0] or [0])[0], dict))
        ):
            return (dict(zip(values, row, strict=True)) for row in zip(*inner, strict=True))
        if len(inner) == 1 and lists:  # {"data": [{…}, {…}]}
            return iter(inner[0])
        held = [name for name, v in values.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if held:
            raise DataError(
                f"{file} holds one object, whose {', '.join(map(repr, held))} could be the rows; write that array as a file of its own"
            )
        if not lists and not any(isinstance(v, list | dict) for v in inner):
            return iter([values])  # one row
    raise DataError(f"{file} should hold an array of objects; for one object a line call it .jsonl")
