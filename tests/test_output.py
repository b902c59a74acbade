"""Answers on disk: ids of every type, rows of unlike width, journals that were damaged, killed, raced or not ours."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import os
import stat
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments.base.atomic import sibling, write_atomic
from llm_moments.base.errors import DataError, OutputExists
from llm_moments.data.output import AnswerWriter
from llm_moments.data.tables import plain

KINDS = (".jsonl", ".csv", ".tsv", ".parquet")
IDS: list[tuple[Any, Any]] = [
    (Decimal("1.50"), "1.50"), (Decimal("NaN"), None), (b"\0\xff", "00ff"), (memoryview(b"a"), "61"), (dt.date(2024, 2, 29), "2024-02-29"),
    (dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC), "2024-02-29T12:00:00+00:00"), (dt.time(1, 2), "01:02:00"),
    (dt.timedelta(1), "1 day, 0:00:00"), (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"), (2**70, 2**70), (2**64 - 1, 2**64 - 1),
    (-1, -1), (True, True), (None, None), (math.nan, None), (1.5, 1.5), ("=cmd()\x1b", "=cmd()\x1b"), ("\udce9", "\udce9"),
    ({"a": [1, b"x", None]}, {"a": [1, "78", None]}), ([1, "b"], [1, "b"]), ((1,), [1]), (np.int64(7), 7), (np.array([1.5]), [1.5]),
    (np.datetime64("2024-01-01"), "2024-01-01"), (set(), []), (1 + 2j, "(1+2j)"),
]  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    with AnswerWriter(path, "one", **options) as writer:
        writer.write(rows)
        writer.finish()
    return read(path)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line, parse_constant=pytest.fail) for line in path.read_bytes().decode().splitlines()]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(path).to_pylist())
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "right"), IDS, ids=[f"{type(given).__name__} {at}" for at, (given, _) in enumerate(IDS)]
)
def test_an_id_of_any_type(tmp_path: Path, kind: str, given: Any, right: Any) -> None:
    (row,) = written(tmp_path / f"a{kind}", [{"id": given, "label": "pos"}])
    assert row["label"] == "pos"
    told = json.dumps(right, ensure_ascii=False) if isinstance(right, dict | list) else right
    if kind == ".jsonl":
        assert row["id"] == right
    elif kind == ".parquet":
        assert row["id"] == (str(told) if given == 2**70 else "\\udce9" if given == "\udce9" else told)
    else:
        assert row["id"] == ("" if right is None else "\\udce9" if given == "\udce9" else str(told))


def test_ids_of_several_types_in_one_file(tmp_path: Path) -> None:
    ids = [*[None] * 10_001, 1, "b2", 2**70, math.nan, True, {"x": 1}, b"\1"]
    rows = written(tmp_path / "a.parquet", [{"id": one, "label": "pos"} for one in ids])
    assert [row["id"] for row in rows] == [*[None] * 10_001, "1", "b2", str(2**70), None, "true", '{"x": 1}', "01"]
    for some, right in (([1, None], [1, None]), ([2**63, 0], [2**63, 0]), ([2**63, -1], [str(2**63), "-1"]), ([1, 0.5], [1.0, 0.5]),
                        ([True, None], [True, None]), ([True, 1], ["true", "1"]), ([2**60 + 1, 0.5], [str(2**60 + 1), "0.5"])):  # fmt: skip
        got = written(tmp_path / "b.parquet", [{"id": one} for one in some], overwrite=True)
        assert [row["id"] for row in got] == right


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_unlike_width(tmp_path: Path, kind: str) -> None:
    rows = [{"id": n, "label": "0", "scores": {str(k): -float(k) for k in range(n)}} for n in (2, 4, 3, 0)]
    rows.append({"id": 9, "label": ["a", "b"], "scores": {"0": -math.inf}, "segments": [{"start": 0.5, "text": "hi"}]})
    found = written(tmp_path / f"a{kind}", rows)
    if kind == ".jsonl":
        assert [len(row["scores"]) for row in found] == [2, 4, 3, 0, 1]
        assert found[4]["scores"] == {"0": None}
        return
    names = ["id", "label", "scores.0", "scores.1", "scores.2", "scores.3", "segments"]
    assert all(list(row) == names for row in found)
    empty = None if kind == ".parquet" else ""
    assert [row["scores.3"] for row in found[:3]] == [empty, -3.0 if kind == ".parquet" else "-3.0", empty]
    assert found[4]["label"] == "a|b"
    assert json.loads(found[4]["segments"]) == [{"start": 0.5, "text": "hi"}]


def test_a_cell_of_labels_can_be_taken_apart_again(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "a.csv", [{"id": 1, "label": ["a|b", "c"]}, {"id": 2, "label": []}, {"id": 3, "label": ["=1+1"]}]
    )
    assert [row["label"] for row in rows] == ['["a|b", "c"]', "", "=1+1"]  # data stay data: sheets are for --csv


# ------------------------------------------------------------------------------------------- journals


def examples(*ids: Any) -> Any:
    return iter([SimpleNamespace(id=one, input=str(one)) for one in ids])


def interrupted(path: Path, *ids: Any) -> Path:
    with AnswerWriter(path, "one") as writer:
        writer.write([{"id": one, "label": "pos"} for one in ids])
    return writer.partial


@pytest.mark.parametrize(
    ("damage", "kept", "dropped"),
    [
        (lambda lines: lines, 3, 0),
        (lambda lines: [*lines[:3], lines[3][:7]], 2, 0),  # torn
        (lambda lines: [*lines[:2], b"\0" * 40 + b"\n", lines[3]], 1, 1),  # a block of NUL, as some file systems leave
        (lambda lines: [*lines[:2], b"\0" * 40], 1, 0),
        (lambda lines: [*lines[:2], b"[1]\n", lines[3]], 1, 1),
        (lambda lines: [*lines[:2], b"\xff\xfe{\n", lines[3]], 1, 1),
        (lambda lines: [*lines[:2], b"[" * 100_000 + b"\n", lines[3]], 1, 1),
        (lambda lines: [lines[0], *lines[2:]], 0, 2),  # a row is lost: what follows is another row's
    ],
)
def test_a_damaged_journal_is_gone_on_with_before_the_damage(
    tmp_path: Path, damage: Any, kept: int, dropped: int
) -> None:
    partial = interrupted(tmp_path / "a.jsonl", Decimal(1), b"2", None)
    partial.write_bytes(b"".join(damage(partial.read_bytes().splitlines(keepends=True))))
    with AnswerWriter(tmp_path / "a.jsonl", "one") as writer:
        rest = list(writer.rest(examples(Decimal(1), b"2", None, 4)))
        assert (writer.done, writer.dropped) == (kept, dropped)
        writer.write([{"id": one.id, "label": "neg"} for one in rest])
        writer.finish()
    assert [row["id"] for row in read(tmp_path / "a.jsonl")] == ["1", "32", None, 4]


@pytest.mark.parametrize(
    "content",
    [b"my own notes", b"my own notes\nmore\n", b"{}\n", b"[1]\n", b'{"fingerprint": 5}\n', b"\0" * 50 + b"\n"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes, overwrite: bool) -> None:
    mine = tmp_path / "a.jsonl.partial"
    mine.write_bytes(content)
    with (
        pytest.raises(DataError, match="is no journal of answers.*left as it is"),
        AnswerWriter(tmp_path / "a.jsonl", "one", overwrite=overwrite),
    ):
        pass
    assert mine.read_bytes() == content


def test_nothing_is_touched_before_it_is_ones_own(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with AnswerWriter(out, "one") as first:
        first.write([{"id": 1}])
        for overwrite in (False, True):
            with (
                pytest.raises(DataError, match="is being written by another process"),
                AnswerWriter(out, "one", overwrite=overwrite),
            ):
                pass
        first.write([{"id": 2}])
        first.finish()
        assert len(read(out)) == 2
    with pytest.raises(OutputExists):
        AnswerWriter(out, "one")
    assert written(out, [{"id": 3}], overwrite=True) == [{"id": 3}]
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_one_that_waited_at_the_door_does_not_write_into_a_removed_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is opened, then its owner finishes and removes it, then the lock is had."""
    out, real = tmp_path / "a.jsonl", AnswerWriter._lock
    partial = interrupted(out, 1)

    def late(self: AnswerWriter, stream: Any) -> None:
        if partial.exists() and partial.stat().st_size:
            partial.unlink()
        real(self, stream)

    monkeypatch.setattr(AnswerWriter, "_lock", late)
    assert written(out, [{"id": 2}]) == [{"id": 2}]


KILLED = """
import os, signal, sys
from llm_moments.data.output import AnswerWriter
real = os.replace
def replace(*paths):
    if sys.argv[2] == "after":
        real(*paths)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
with AnswerWriter(sys.argv[1], "one") as writer:
    writer.write([{"id": 1}, {"id": 2}])
    writer.finish()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_the_last_rename_the_same_command_ends_well(tmp_path: Path, when: str) -> None:
    out = tmp_path / "a.csv"
    assert subprocess.run([sys.executable, "-c", KILLED, str(out), when]).returncode < 0
    assert out.exists() == (when == "after")
    with AnswerWriter(out, "one") as writer:
        assert writer.finished == (when == "after")
        assert writer.done == 2
        if not writer.finished:
            assert not list(writer.rest(examples(1, 2)))
        writer.finish()
    assert [row["id"] for row in read(out)] == ["1", "2"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_that_was_put_there_meanwhile_is_not_taken_for_the_own(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    subprocess.run([sys.executable, "-c", KILLED, str(out), "after"])
    (tmp_path / "b").write_text("mine")
    os.replace(tmp_path / "b", out)
    with pytest.raises(OutputExists), AnswerWriter(out, "one"):
        pass
    assert out.read_text() == "mine"


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "new.json", "x")
        with sibling(tmp_path / "folder") as made:
            (made / "inside").write_text("x")
        written(tmp_path / "a.jsonl", [{"id": 1}])
        interrupted(tmp_path / "b.jsonl", 1)
    finally:
        os.umask(before)
    for place in tmp_path.rglob("*"):
        assert stat.S_IMODE(place.stat().st_mode) == (0o777 if place.is_dir() else 0o666) & ~mask, place
    (tmp_path / "new.json").chmod(0o640)
    write_atomic(tmp_path / "new.json", "y")
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640


def test_plain_values_stay_what_they_are() -> None:
    for value in ("a", 1, True, None, 0.5):
        assert plain(value) is value
