"""Outputs as a file that is never unpickled: logits as .npy, other columns as JSON lines."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError
from llm_moments.core import Outputs, Ragged
from llm_moments.core.outputs import Column, texts

NUMBERS, ROWS = ".npy", ".jsonl"
KINDS = "biufU"  # of numpy's types what is kept


DETAIL = "details."  # what their columns' names begin with


def write(outputs: Outputs, *, details: bool = False) -> tuple[str, bytes]:
    """The kind of file, and what is in it. details: those, too."""
    if details and outputs.details:
        outputs = Outputs({**outputs.columns, **{DETAIL + name: one for name, one in outputs.details.items()}})
    if set(outputs.columns) == {"logits"}:
        stream = io.BytesIO()
        np.save(stream, outputs["logits"], allow_pickle=False)
        return NUMBERS, stream.getvalue()
    head = {"rows": len(outputs), "columns": {name: _kind(column) for name, column in outputs.columns.items()}}
    lines = [head, *zip(*map(_cells, outputs.columns.values()), strict=True)]
    return ROWS, "".join(json.dumps(line) + "\n" for line in lines).encode()


def _kind(column: Column) -> dict[str, Any]:
    values = column.values if isinstance(column, Ragged) else column
    kind = "U" if values.dtype.kind == "U" else values.dtype.str
    return {"dtype": kind, "ragged": isinstance(column, Ragged), "shape": list(values.shape[1:])}


def _cells(column: Column) -> list[Any]:
    return [column.row(at).tolist() for at in range(len(column))] if isinstance(column, Ragged) else column.tolist()


def read(file: Path) -> Outputs:
    """DataError, which says why, for a file that was not written by `write`, is damaged, or holds a pickle."""
    try:
        return parse(file.suffix, file.read_bytes())
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error


def parse(kind: str, raw: bytes) -> Outputs:
    """What `write` has given."""
    return _numbers(raw) if kind == NUMBERS else _rows(raw)


def _numbers(raw: bytes) -> Outputs:
    try:
        stream = io.BytesIO(raw)
        version = np.lib.format.read_magic(stream)
        head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = head(stream)
        left = len(raw) - stream.tell()
        if kind.hasobject:
            raise DataError("an older version wrote it as a pickle, which can run code and is not read")
        cells = 1
        for side in shape:  # without a bound, unlike numpy's own numbers
            cells *= int(side)
        if left != kind.itemsize * cells:
            raise DataError("it is cut off or damaged")  # said before memory is taken for what a header claims
        found = np.asarray(np.load(io.BytesIO(raw), allow_pickle=False))
        return _likelihoods(found) if found.ndim == 3 else Outputs({"logits": found})
    except (ValueError, SyntaxError, EOFError, TypeError) as error:
        raise DataError(f"it is no array: {error!s:.120}") from error


def _likelihoods(found: np.ndarray) -> Outputs:
    """Of an older version: [n, most texts, (log-likelihood, tokens)], (-inf, 0) where a row has fewer texts."""
    there = found[:, :, 1] > 0
    lengths = there.sum(axis=1)
    return Outputs(
        {
            "logprob": Ragged(found[:, :, 0][there], lengths),
            "tokens": Ragged(found[:, :, 1][there].astype(np.int64), lengths),
        }
    )


def _rows(raw: bytes) -> Outputs:
    try:
        head, *lines = [json.loads(line) for line in raw.decode().splitlines()]
        if len(lines) != head["rows"]:
            raise DataError(f"it has {len(lines)} rows of {head['rows']}")
        if "columns" not in head:
            return _older(lines)
        cells = list(zip(*lines, strict=True)) or [()] * len(head["columns"])
        found = {n: _column(kind, c) for (n, kind), c in zip(head["columns"].items(), cells, strict=True)}
        details = {n.removeprefix(DETAIL): found.pop(n) for n in list(found) if n.startswith(DETAIL)}
        return Outputs(found, details)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"it is damaged: {error!r:.120}") from error


def _column(kind: Mapping[str, Any], cells: Sequence[Any]) -> Column:
    dtype = np.dtype(kind["dtype"])
    if dtype.kind not in KINDS:
        raise ValueError(f"a column of {dtype} is not kept")
    if dtype.kind == "U":
        return np.array([_text(cell) for cell in cells], np.str_)
    shape = [int(side) for side in kind["shape"]]
    return Ragged.of(cells, dtype, shape) if kind["ragged"] else np.array(cells, dtype).reshape(len(cells), *shape)


def _older(lines: Sequence[Any]) -> Outputs:
    """A text a line, or a transcript."""
    if not lines or not isinstance(lines[0], dict):
        return texts([_text(line) for line in lines])
    told = [json.dumps(line["segments"]) for line in lines]
    return texts(
        [_text(line["text"]) for line in lines],
        language=np.array([_text(line["language"]) for line in lines], np.str_),
        segments=np.array(told, np.str_),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
