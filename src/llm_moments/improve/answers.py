"""What a model said of many inputs, as a file that is never unpickled: numbers as .npy, texts and ragged rows as JSON lines."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.errors import DataError, InputError
from llm_moments.steps.transcribe import Transcript

NUMBERS, ROWS = ".npy", ".jsonl"


def write(outputs: np.ndarray) -> tuple[str, bytes]:
    """The kind of file, and what is in it. outputs: numbers of any shape, or [n] texts, transcripts or arrays."""
    if outputs.dtype.kind in "biuf":
        stream = io.BytesIO()
        np.save(stream, outputs, allow_pickle=False)
        return NUMBERS, stream.getvalue()
    lines = [{"rows": len(outputs), "texts": outputs.dtype.kind == "U"}, *map(_row, outputs)]
    return ROWS, "".join(json.dumps(line, default=_number) + "\n" for line in lines).encode()


def _number(value: Any) -> Any:
    """NumPy's numbers in a transcript's times as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be kept with a study")


def _row(value: Any) -> Any:
    if isinstance(value, Transcript):
        return {"text": str(value), "segments": list(value.segments), "language": value.language}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"shape": value.shape, "dtype": value.dtype.str, "values": value.ravel().tolist()}
    raise InputError(f"an output of type {type(value).__name__} cannot be kept with a study")


def read(file: Path) -> np.ndarray:
    """DataError, which says why, for a file that was not written by `write`, is damaged, or holds a pickle."""
    try:
        return _numbers(file) if file.suffix == NUMBERS else _rows(file.read_bytes())
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error


def _numbers(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = head(stream)
            left = file.stat().st_size - stream.tell()
        if kind.hasobject:
            raise DataError("an older version wrote it as a pickle, which can run code and is not read")
        if left != kind.itemsize * int(np.prod(shape, dtype=object)):
            raise DataError("it is cut off or damaged")  # said before memory is taken for what a header claims
        return np.asarray(np.load(file, allow_pickle=False))
    except (ValueError, SyntaxError, EOFError, TypeError) as error:
        raise DataError(f"it is no array: {error!s:.120}") from error


def _rows(raw: bytes) -> np.ndarray:
    try:
        head, *lines = [json.loads(line) for line in raw.decode().splitlines()]
        if len(lines) != head["rows"]:
            raise DataError(f"it has {len(lines)} rows of {head['rows']}")
        if head["texts"]:
            return np.array([_text(line) for line in lines], np.str_)
        made = np.empty(len(lines), object)
        for at, value in enumerate(_values(lines)):  # one by one: arrays of one shape would be taken for a table
            made[at] = value
        return made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"it is damaged: {error!r:.120}") from error


def _values(lines: Sequence[Any]) -> Iterator[Any]:
    for line in lines:
        if isinstance(line, dict) and "text" in line:
            yield Transcript.of(line["segments"], _text(line["text"]), _text(line["language"]))
        elif isinstance(line, dict):
            kind = np.dtype(line["dtype"])
            if kind.kind not in "biuf":
                raise ValueError(f"rows of {kind} are not kept")
            yield np.array(line["values"], kind).reshape(line["shape"])
        else:
            yield _text(line)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
