"""What executors and their workers tell one another: frames of plain bytes, never pickles."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from llm_moments.base.errors import DataError, EngineError, MomentsError, RowsFailed
from llm_moments.core import Outputs, outputs_file

MOST = 1 << 31  # bytes of a frame


def send(stream: BinaryIO, head: dict[str, Any], body: bytes = b"") -> None:
    raw = json.dumps(head).encode()
    stream.write(len(raw).to_bytes(4, "big") + len(body).to_bytes(4, "big") + raw + body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None where the other side has ended."""
    sizes = stream.read(8)
    if len(sizes) < 8:
        return None
    head, body = int.from_bytes(sizes[:4], "big"), int.from_bytes(sizes[4:], "big")
    if head + body > MOST:
        raise EngineError(f"a worker told of {head + body:,} bytes at a time, which is no frame of its own")
    raw = stream.read(head + body)
    return None if len(raw) < head + body else (json.loads(raw[:head]), raw[head:])


def value_of(value: Any) -> Any:
    """An input as JSON can hold it; `Task.normalise` takes it back."""
    return value.portable() if hasattr(value, "portable") else value


def told(error: MomentsError) -> dict[str, Any]:
    rows = {str(row): why for row, why in error.rows.items()} if isinstance(error, RowsFailed) else None
    return {"error": str(error), "rows": rows, "data": isinstance(error, DataError)}


def answer(head: dict[str, Any], body: bytes) -> Outputs | RowsFailed:
    """What a worker answered; DataError where it was given what cannot be asked, EngineError where it failed on all of it."""
    if "error" not in head:
        return outputs_file.parse(head["kind"], body)
    if head["rows"]:
        return RowsFailed({int(row): why for row, why in head["rows"].items()})
    if head["data"]:
        raise DataError(head["error"])
    raise EngineError(head["error"])
