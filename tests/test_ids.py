"""Ids of every type in files of examples: they are read, and are never taken for the input or the label."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llm_moments.data.readers import read
from llm_moments.data.tables import plain

pa = pytest.importorskip("pyarrow")
TWO = ["good film", "bad film"]
COLUMNS: dict[str, tuple[Any, Any]] = {
    "decimal": (pa.array([Decimal("1.50"), None], pa.decimal128(20, 2)), "1.50"),
    "wide decimal": (pa.array([Decimal(2**70), None], pa.decimal256(60, 0)), str(2**70)),
    "binary": (pa.array([b"\0\1" * 8, None], pa.binary(16)), "00" "01" * 8),
    "uuid": (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=1).bytes] * 2, pa.binary(16))), str(uuid.UUID(int=1))),
    "date": (pa.array([dt.date(2024, 1, 2), None]), "2024-01-02"),
    "far date": (pa.array([10**8, None], pa.date32()), "100000000"),
    "time": (pa.array([1, None], pa.time64("ns")), "00:00:00.000000001"),
    "timestamp": (pa.array([1, None], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
    "far timestamp": (pa.array([10**15, None], pa.timestamp("s")), str(10**18)),
    "no such zone": (pa.array([0, None], pa.timestamp("us", tz="Mars/Base")), "1970-01-01T00:00:00.000000"),
    "duration": (pa.array([2**62, None], pa.duration("s")), str(2**62)),
    "nested": (pa.array([{"a": [b"x"]}, None]), {"a": ["78"]}),
    "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), [["a", 1]]),
    "unsigned": (pa.array([2**64 - 1, None], pa.uint64()), 2**64 - 1),
    "bool": (pa.array([True, None]), True),
    "name of an image": (pa.array(["a.png", "b.png"]), "a.png"),
    "name of a sound": (pa.array(["a.wav", "b.wav"]), "a.wav"),
}  # fmt: skip


@pytest.mark.parametrize(("ids", "right"), COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("text", ["text", "v2"])
def test_ids_of_a_table(tmp_path: Path, ids: Any, right: Any, text: str) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ids, text: TWO, "other": ids}), tmp_path / "a.parquet")
    if text == "v2":  # found by what it holds
        pq.write_table(pa.table({"id": ids, text: TWO}), tmp_path / "a.parquet")
        found = read(tmp_path / "a.parquet")
    else:
        found = read(tmp_path / "a.parquet", text="text")
    assert found.columns["text"] == text
    first, second = found
    assert [first.input, second.input] == TWO
    assert plain(first.id) == right


def test_ids_are_neither_texts_nor_labels(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    long = "a-long-name-of-a-row-that-is-longer-than-its-text"
    file.write_text("".join(json.dumps({"id": long, "v2": f"film {n}"}) + "\n" for n in range(12)))
    found = read(file)
    assert (found.columns["text"], found.columns["label"], found.columns["id"]) == ("v2", None, "id")
    assert read(file, text="id").columns["text"] == "id"
