"""Files and folders as strangers bring them: every row once, hostile ones bounded, the wrong ones named."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_moments.base.errors import DataError
from llm_moments.data.readers import read
from tests.image_fakes import encoded, make_arrays


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def columns(file: Path, **named: str) -> tuple[Any, ...]:
    found = read(file, **named).columns
    return found["text"], found["pair"], found["label"]


# --------------------------------------------------------------------------------------- columns

HEADERS: list[tuple[str, dict[str, str], tuple[Any, ...]]] = [
    ("question\tsentence\tlabel\tidx", {}, ("question", "sentence", "label")),
    ("pair_ID\tsentence_A\tsentence_B\tentailment_judgment", {}, ("sentence_A", "sentence_B", "entailment_judgment")),
    ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", {}, ("#1 String", "#2 String", "Quality")),
    ("id\tquestion1\tquestion2\tis_duplicate", {}, ("question1", "question2", "is_duplicate")),
    ("Premise\tHypothesis\tgold_label", {}, ("Premise", "Hypothesis", "gold_label")),
    ("Text A\tText B\tscore", {}, ("Text A", "Text B", "score")),
    ("question\tpassage\tanswer", {}, ("question", "passage", "answer")),
    ("question\tcontext\tlabel", {}, ("question", "context", "label")),
    ("question\tsentence\tlabel", {"pair": "sentence"}, ("question", "sentence", "label")),
    ("question\tsentence\tlabel", {"pair": "question"}, ("sentence", "question", "label")),
    ("question\tsentence\tlabel", {"text": "sentence"}, ("sentence", None, "label")),
    ("text\treview\tlabel", {"label": "text"}, ("review", None, "text")),
    ("question\tsentence\tlabel", {"label": "question"}, ("sentence", None, "question")),
    ("label\tbody\tid", {"id": "body", "text": "label"}, ("label", None, None)),
]


@pytest.mark.parametrize(("header", "named", "wanted"), HEADERS)
def test_the_right_columns_are_found_and_none_is_taken_twice(
    tmp_path: Path, header: str, named: dict[str, str], wanted: tuple[Any, ...]
) -> None:
    values = "\t".join("a" if n in ("label", "gold_label") else f"words of {n}" for n in header.split("\t"))
    file = write(tmp_path / "a.tsv", f"{header}\n{values}\n")
    assert columns(file, **named) == wanted
    assert f"input {wanted[0]!r}" in read(file, **named).notes[0]


def test_one_column_for_two_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,label\ngood film,pos\n")
    for named in (
        {"text": "text", "pair": "text"},
        {"text": "label", "label": "label"},
        {"pair": "text", "id": "text"},
    ):
        with pytest.raises(DataError, match="both name"):
            read(file, **named)
    for named in ({"label": "text"}, {"pair": "text"}):
        with pytest.raises(DataError, match="no column of texts among label beside 'text'"):
            read(file, **named)


def test_what_is_not_used_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "id,text,stars,when\n1,good film,5,now\n")
    assert read(file).notes == ["columns: input 'text', label 'stars', id 'id'; not used: 'when'"]


def test_an_instruction_is_read_with_what_it_is_about(tmp_path: Path) -> None:
    told = [("Name a colour.", "", "blue"), ("Add.", "one and two", "three")]
    for about, answer in (("input", "output"), ("context", "response")):
        found = read(
            write(
                tmp_path / "a.json",
                json.dumps([dict(zip(("instruction", about, answer), t, strict=True)) for t in told]),
            )
        )
        assert [(e.input, e.reference) for e in found] == [("Name a colour.", "blue"), ("Add.\none and two", "three")]
        assert f"after it on a new line {about!r}" in found.notes[0]


def test_columns_that_are_not_needed_are_no_fault(tmp_path: Path) -> None:
    file = write(tmp_path / "spam.csv", "v1,v2,,,\nham,see you then,,,\nspam,buy now,,\nham,it was so,,,\n")
    for named in ({}, {"text": "v2"}):
        assert [e.input for e in read(file, **named)] == ["see you then", "buy now", "it was so"]
    twice = write(tmp_path / "b.csv", "note,text,note,label\n1,one film,2,x\n")
    assert [e.input for e in read(twice)] == ["one film"]
    with pytest.raises(DataError, match="two columns are called 'note'"):
        read(twice, label="note")
    far = pa.array([2**50], pa.timestamp("s"))
    offsets, raw = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    bad = pa.StringArray.from_buffers(1, offsets, raw)
    pq.write_table(pa.table({"when": far, "raw": bad, "text": ["a film"], "label": ["x"]}), tmp_path / "c.parquet")
    assert [(e.input, e.reference) for e in read(tmp_path / "c.parquet")] == [("a film", "x")]
    odd = write(tmp_path / "d.jsonl", b'{"text": "a film", "note": "\xff"}\n')
    assert [e.input for e in read(odd)] == ["a film"]


def test_fields_of_a_column_are_named_with_a_dot(tmp_path: Path) -> None:
    rows = [{"translation": {"en": "good film", "de": "guter Film"}}, {"translation": {"en": "bad film", "de": "x"}}]
    file = write(tmp_path / "wmt.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wmt.parquet")
    for path in (file, tmp_path / "wmt.parquet"):
        with pytest.raises(DataError, match=r"a text for each of en, de .*--text-column translation.en"):
            read(path)
        found = read(path, text="translation.en", label="translation.de")
        assert [(e.input, e.reference) for e in found] == [("good film", "guter Film"), ("bad film", "x")]


# --------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("lines", "count", "said"),
    [
        (['"3","Banks fell again on Friday."', '"1","The home team moved."', '"2","Oil rose."'], 3, "it has no header"),
        (["ham,Go until then crazy", "spam,Free entry now", "ham,Ok then"], 3, "it has no header"),
        (["gj04,1,,Our friends won", "gj04,0,*,One more"], 2, "it has no header"),
        (["What did you like about it today?,Why?", "the film,x"], 1, "is taken for the names"),
        (["v1,v2", "ham,see you then", "spam,buy now"], 2, "columns:"),
        (["when,2020", "one text,3", "two text,4"], 3, "it has no header"),
        (["title of it,price", "one text,3", "two text,4"], 2, "columns:"),
        (["text,2020", "one text,3"], 1, "columns:"),
        ([",0,1", "0,one text,3", "1,two text,4"], 2, "columns:"),
    ],
)
def test_a_file_without_a_header_loses_no_row(tmp_path: Path, lines: list[str], count: int, said: str) -> None:
    data = read(write(tmp_path / "a.csv", "\n".join(lines) + "\n"))
    assert [e.id for e in data] == list(range(1, count + 1))
    assert said in data.notes[0]


def test_columns_without_names_are_named_by_their_number(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", "1\tgood film\tx\n2\tbad film here\ty\n")
    assert [(e.input, e.reference) for e in read(file, text="2", label="3")] == [
        ("good film", "x"),
        ("bad film here", "y"),
    ]


# --------------------------------------------------------------------------------------- folders


def test_files_of_a_class_are_used_whatever_they_are_called(tmp_path: Path) -> None:
    pixels = make_arrays(1)[0]
    for name, kind in (
        ("a/1.png", "PNG"),
        ("a/2.jfif", "JPEG"),
        ("b/3.jpe", "JPEG"),
        ("b/4", "PNG"),
        ("b/deep/5.x", "PNG"),
    ):
        write(tmp_path / name, encoded(pixels, kind))
    write(tmp_path / "a" / "notes.md", "no image")
    write(tmp_path / "top.png", encoded(pixels))
    write(tmp_path / "a" / ".hidden.png", b"")
    data = read(tmp_path)
    assert [(e.id, e.reference) for e in data] == [
        ("a/1.png", "a"), ("a/2.jfif", "a"), ("b/3.jpe", "b"), ("b/4", "b"), ("b/deep/5.x", "b"),
    ]  # fmt: skip
    assert data.notes == [
        "2 files that are no image of a class are left out: a/notes.md, top.png", "1 hidden files are left out",
    ]  # fmt: skip
    for name in ("a/2.jfif", "b/4"):
        assert [e.id for e in read(tmp_path / name)] == [Path(name).name]


@pytest.mark.parametrize("kind", ["txt", "png"])
def test_parts_of_a_set_are_no_classes(tmp_path: Path, kind: str) -> None:
    content: str | bytes = "some text" if kind == "txt" else encoded(make_arrays(1)[0])
    for name in ("train/pos/1", "train/neg/2", "test/pos/3"):
        write(tmp_path / "set" / f"{name}.{kind}", content)
    for name in ("train/1", "test/2"):
        write(tmp_path / "flat" / f"{name}.{kind}", content)
    for folder in ("set", "flat"):
        with pytest.raises(DataError, match="parts of a set.*Did you mean"):
            read(tmp_path / folder)
    assert [e.reference for e in read(tmp_path / "set" / "train")] == ["neg", "pos"]


def test_texts_of_a_folder(tmp_path: Path) -> None:
    for name in ("a/1.txt", "b/49960", "b/sub/3.text", "readme.txt", "b/x.bin"):
        write(tmp_path / name, "\0\0" if name.endswith("bin") else f"text of {name}")
    data = read(tmp_path)
    assert [(e.id, e.reference) for e in data] == [("a/1.txt", "a"), ("b/49960", "b"), ("b/sub/3.text", "b")]
    assert "2 files" in data.notes[0]
    write(tmp_path / "flat" / "1.txt", "alone")
    assert [(e.input, e.reference) for e in read(tmp_path / "flat")] == [("alone", None)]


def test_hostile_files_of_a_text_folder_are_single_rows(tmp_path: Path) -> None:
    write(tmp_path / "secret.txt", "secret")
    folder = tmp_path / "texts"
    write(folder / "a" / "good.txt", "good")
    os.mkfifo(folder / "a" / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "a" / "socket.txt"))
    (folder / "a" / "folder.txt").mkdir()
    (folder / "a" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "a" / "gone.txt").symlink_to(tmp_path / "nothing.txt")
    (folder / "a" / "loop.txt").symlink_to(folder / "a" / "loop.txt")
    (folder / "a" / "round").symlink_to(folder)
    (folder / "a" / "zero.txt").symlink_to("/dev/zero")
    data = read(folder, on_error="skip")
    assert [e.input for e in data] == ["good"]
    assert data.errors["outside"] == 2
    assert sum(data.errors.values()) == 6
    with pytest.raises(DataError, match="row .*'a/"):
        list(read(folder))


# ----------------------------------------------------------------------------------- hostile bytes


def test_undecodable_bytes_are_one_row_whatever_column_they_are_in(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", b"a,b\nx\xee y,1\n")
    with pytest.raises(DataError, match="row 1: byte 0xee"):
        list(read(file))
    data = read(file, on_error="skip")
    assert (list(data), data.errors) == ([], {"undecodable": 1})
    head = write(tmp_path / "b.csv", "Stra\xdfe,label\ngood film,x\n".encode("latin-1"))
    assert "xdfe" in read(head).notes[0]
    assert [e.input for e in read(head, encoding="latin-1")] == ["good film"]


@pytest.mark.parametrize("column", ["image", "audio"])
def test_paths_that_no_file_can_have_are_single_rows(tmp_path: Path, column: str) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["a\0b.png", "a\ud800.png", "x" * 300 + ".png", "loop.png", "~nobody/x.png"]
    file = write(tmp_path / "a.jsonl", "".join(json.dumps({column: n, "label": "x"}) + "\n" for n in names))
    data = read(file, on_error="skip")
    assert list(data) == []
    assert sum(data.errors.values()) == len(names)
    if column == "audio":
        with pytest.raises(DataError, match="row 1: "):
            list(read(file))
    with pytest.raises(DataError, match="cannot be a file|no such file"):
        read("x" * 300 + ".csv")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.data.formats.MOST_LINE", 1000)
    monkeypatch.setattr("llm_moments.data.json_formats.MOST_JSON", 1000)
    long = "text,label\n" + "a" * 5000
    for name in ("a.csv", "a.txt", "a.jsonl", "a.tsv"):
        with pytest.raises(DataError, match="line . has more than 1,000 characters"):
            list(read(write(tmp_path / f"{name}.gz", gzip.compress(long.encode()))))
    with pytest.raises(DataError, match="more than 1,000 characters.*an object a line"):
        read(write(tmp_path / "b.json", json.dumps([{"text": "a" * 50}] * 200, indent=1)))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(long.encode())))
    with pytest.raises(DataError, match="stdin, line 2 has more"):
        list(read("-"))


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "b.csv").symlink_to("/dev/zero")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(DataError, match="a pipe or a device, not a file.*--data -"):
            read(tmp_path / name)


def test_a_parquet_file_that_repeats_a_large_value_is_read_in_small_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_moments.data import arrow_formats

    monkeypatch.setattr("llm_moments.data.arrow_formats.ROOM", 3_000_000)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["a" * 900_000])
    pq.write_table(
        pa.table({"text": text.cast(pa.string()), "n": list(range(2000))}), tmp_path / "a.parquet", compression="zstd"
    )
    assert (tmp_path / "a.parquet").stat().st_size < 40_000
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert arrow_formats._batch(metadata, ["text"], tmp_path) <= 3
    assert arrow_formats._batch(metadata, ["n"], tmp_path) > 100
    before = pa.total_allocated_bytes()
    for _, row in zip(range(20), arrow_formats.parquet_rows(tmp_path / "a.parquet"), strict=False):
        assert len(row[1]["text"]) == 900_000
        assert pa.total_allocated_bytes() - before < 40_000_000
    monkeypatch.setattr("llm_moments.data.arrow_formats.MOST_VALUES", 100_000)
    pq.write_table(pa.table({"text": ["a"], "more": [[None] * 200_000]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="'more.*holds 200,000 values in 1 rows"):
        read(tmp_path / "b.parquet")


def test_an_idx_file_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_moments.data.image_formats.ROOM", 1000)
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2000, 28, 28))
    file = write(tmp_path / "x-images-idx3-ubyte.gz", gzip.compress(head + bytes(2000 * 28 * 28)))
    with pytest.raises(DataError, match="more than 200 times its own size"):
        list(read(file))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8", "cp1252", None])
def test_stdin_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str | None) -> None:
    raw = "café\nhello\r\nend".encode(encoding or "utf-16")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw))))
    assert [e.input for e in read("-", encoding=encoding)] == ["café", "hello", "end"]


# --------------------------------------------------------------------------------- kinds of files

ROWS = [{"text": "good film", "label": "pos"}, {"text": "bad film", "label": "neg"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "".join(json.dumps(r) + "\n" for r in ROWS)),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
        ("b.jsonl", json.dumps(ROWS)),
        ("b.json", json.dumps({"text": ["good film", "bad film"], "label": ["pos", "neg"]})),
        ("c.json", json.dumps({"text": {"0": "good film", "1": "bad film"}, "label": {"0": "pos", "1": "neg"}})),
        ("d.json", json.dumps({"columns": ["text", "label"], "index": [0, 1], "data": [["good film", "pos"], ["bad film", "neg"]]})),
        ("e.json", json.dumps({"data": ROWS})),
        ("f.csv", gzip.compress(b"text,label\ngood film,pos\nbad film,neg\n", mtime=0)),
    ],
)  # fmt: skip
def test_files_of_another_layout_than_their_name_says_are_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    found = list(read(write(tmp_path / name, content)))
    assert [(e.input, e.reference) for e in found] == [("good film", "pos"), ("bad film", "neg")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xlsx", b"PK\x03\x04", "spreadsheet"), ("a.zip", b"x", "is an archive; unpack it"), ("a.csv", b"PK\x03\x04", "ZIP archive"),
        ("a.pkl", b"x", "pickled"), ("a.csv", b"\x80\x04\x95", "pickled"), ("a.csv", b"PAR1", "call it .parquet"),
        ("a.jsonl", b"<!DOCTYPE html><html>", "HTML page"), ("a.parquet", b"version https://git-lfs", "git lfs pull"),
        ("a.npz", b"x", "arrays"), ("a.sqlite", b"SQLite format 3", "database"), ("a.pdf", b"%PDF-1.4", "PDF"),
        ("a.csv.bz2", b"BZh9", "bzip2"), ("a.json", b'{"a": [{"text": "x"}], "b": 1}', "whose 'a' could be the rows"),
        ("model/config.json", b"{}", "a model's folder"), ("set/x.parquet", b"x", r"name one of them: .*x\.parquet"),
        ("split/dataset_dict.json", b"{}", "parts"), ("empty/nothing.dat", b"\0", "holds no CLASS"),
    ],
)  # fmt: skip
def test_the_wrong_kind_of_file_is_named_with_its_cure(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    file = write(tmp_path / name, content)
    with pytest.raises(DataError, match=said):
        list(read(file if file.parent == tmp_path else file.parent))


# ----------------------------------------------------------------------------- classes with names

FEATURES = {
    "text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neu", "pos", "neg"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "Sequence"},
}  # fmt: skip


def classed(folder: Path) -> list[Path]:
    """The same rows as the datasets library writes them: Parquet, Arrow, and what save_to_disk leaves."""
    rows = {
        "text": ["one", "two", "three"],
        "label": [2, 0, -1],
        "tags": [[1], [], [0, 1]],
        "__index_level_0__": [0, 1, 2],
    }
    table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    pq.write_table(table, folder / "a.parquet")
    for name, schema in (("a.arrow", table), ("saved/data.arrow", table.replace_schema_metadata(None))):
        (folder / name).parent.mkdir(exist_ok=True)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, schema.schema) as stream:
            stream.write_table(schema)
    write(folder / "saved" / "dataset_info.json", json.dumps({"features": FEATURES}))
    write(folder / "saved" / "state.json", json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return [folder / "a.parquet", folder / "a.arrow", folder / "saved"]


def test_classes_are_what_the_file_calls_them(tmp_path: Path) -> None:
    for file in classed(tmp_path):
        assert [e.reference for e in read(file)] == ["neg", "neu", None]
        assert [e.reference for e in read(file, label="tags")] == [["b"], [], ["a", "b"]]
        assert "__index_level_0__" not in str(read(file).columns)
        assert read(file).notes == ["columns: input 'text', label 'label'; not used: 'tags', '__index_level_0__'"]
    outside = {"_data_files": [{"filename": "../a.arrow"}]}
    write(tmp_path / "saved" / "state.json", json.dumps(outside))
    with pytest.raises(DataError, match="leads out of the folder"):
        read(tmp_path / "saved")
