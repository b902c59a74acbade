from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llm_moments.base.errors import DataError, MomentsError, OutputExists
from llm_moments.core import Example
from llm_moments.data import readers as data
from llm_moments.data.formats import about_rows
from llm_moments.data.output import AnswerWriter

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1).filter(lambda s: s.strip())


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(st.lists(text, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_survive_every_format(tmp_path: Path, texts: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": t, "label": f"l{i % 2}"} for i, t in enumerate(texts)]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    _write(tmp_path / "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    _write(tmp_path / "a.json", json.dumps(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"):
        found = list(data.read(tmp_path / name))
        assert [e.input for e in found] == texts, name
        assert [e.reference for e in found] == [r["label"] for r in rows], name


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Review,Sentiment", ("Review", None, "Sentiment")),
        ("idx,premise,hypothesis,label", ("premise", "hypothesis", "label")),
        ("body;category", ("body", None, "category")),
        ("id,content,y", ("content", None, "y")),
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, header: str, columns: tuple) -> None:
    mark = ";" if ";" in header else ","
    file = _write(tmp_path / "a.csv", header + "\n" + mark.join(["some text"] * header.count(mark)) + f"{mark}x\n")
    found = data.read(file).columns
    assert (found["text"], found["pair"], found["label"]) == columns


def test_columns_are_found_by_content(tmp_path: Path) -> None:
    lines = [f"this is a long text number {i},{'ab'[i % 2]}" for i in range(20)]
    found = data.read(_write(tmp_path / "a.csv", "foo,bar\n" + "\n".join(lines))).columns
    assert (found["text"], found["label"]) == ("foo", "bar")


def test_orange_folder_bom_and_utf16(tmp_path: Path) -> None:
    tab = _write(tmp_path / "a.tab", "Category\tText\nd\tstring\nclass\t\nearn\tprofit rose\n")
    assert list(data.read(tab)) == [Example("profit rose", "earn", 1)]
    for label in ("neg", "pos"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        _write(tmp_path / "texts" / label / "1.txt", f"{label} text")
    assert [(e.input, e.reference) for e in data.read(tmp_path / "texts")] == [("neg text", "neg"), ("pos text", "pos")]
    assert next(iter(data.read(_write(tmp_path / "b.csv", b"\xef\xbb\xbftext,label\r\nhi,x\r\n")))).input == "hi"
    assert next(iter(data.read(_write(tmp_path / "c.csv", "text,label\nhé,x\n".encode("utf-16"))))).input == "hé"


BAD = [
    ("empty", "text,label\n ,x\nfine,y\n", "row 1.*empty"),
    ("fields", "text,label\na,b,c\nfine,y\n", "row 1.*3 fields"),
    ("bytes", b"text,label\n\xff\xfe caf\xe9,x\nfine,y\n", "row 1.*0xff.*--encoding"),
    ("huge", "text,label\n" + "a" * 1_500_000 + ",x\nfine,y\n", "row 1.*1,500,000 characters"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[b[0] for b in BAD])
def test_bad_rows_are_named_or_skipped_and_counted(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    file = _write(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=message):
        list(data.read(file))
    source = data.read(file, on_error="skip")
    assert [e.input for e in source] == ["fine"]
    assert sum(source.errors.values()) == 1


OPEN = [
    ("to the end", 'text,label\n"bad,x\nfine,y\nlast,z\n', [2, 3]),
    ("to the next quote", 'text,label\n"bad,x\nfine,y\n"last, really",z\n', [2, 3]),
    ("to a quote that closes", 'text,label\n"bad,x\nfine,y\nlast,z"\n', [2, 3]),
    ("in the last row", 'text,label\nfine,y\nlast,z\nbad,"x\n', [1, 2]),
]


@pytest.mark.parametrize(("name", "content", "rows"), OPEN, ids=[o[0] for o in OPEN])
def test_an_open_quote_is_one_bad_row(tmp_path: Path, name: str, content: str, rows: list[int]) -> None:
    file = _write(tmp_path / "a.csv", content)
    source = data.read(file, on_error="skip")
    assert [e.id for e in source] == rows
    assert source.errors == {"open quote": 1}
    with pytest.raises(DataError, match=r"a\.csv, row \d: on line \d.*quote.*close it.*--on-error skip"):
        list(data.read(file))


def test_an_open_quote_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_moments.base.csv_rows.MOST_LINES", 50)
    file = _write(tmp_path / "a.csv", 'text,label\n"bad,x\n' + "fine,y\n" * 200)
    source = data.read(file, on_error="skip")
    assert sum(1 for _ in source) == 200
    assert source.errors == {"open quote": 1}


def test_quotes_in_tab_separated_files_are_characters_unless_they_fit(tmp_path: Path) -> None:
    lines = ['"open\tx', 'a "b" c\tx', '"whole"\tx', '"two ""parts"""\tx', '"a "b" c"\tx', '"with\ttab"\tx', "end\tx"]
    found = data.read(_write(tmp_path / "a.tsv", "text\tlabel\n" + "\r\n".join(lines)))
    assert [e.input for e in found] == [
        '"open', 'a "b" c', "whole", 'two "parts"', '"a "b" c"', "with\ttab", "end",
    ]  # fmt: skip
    assert {e.reference for e in found} == {"x"}
    over = data.read(_write(tmp_path / "b.tsv", 'id\ttext\n1\t"two\nlines"\n2\t"open\n3\tend"\n'))
    assert [e.input for e in over] == ["two\nlines", '"open', 'end"']


@given(st.lists(st.tuples(text, text), min_size=1, max_size=5), st.sampled_from([(".csv", ","), (".tsv", "\t")]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_csv_module_writes_quoted_comes_back(
    tmp_path: Path, rows: list[tuple[str, str]], kind: tuple[str, str]
) -> None:
    # A tab and a line's end inside a quote: each line may be a row as it stands, and quotes are mostly characters there.
    assume(kind[0] != ".tsv" or not any("\t" in cell and re.search(r"[\r\n]", cell) for row in rows for cell in row))
    file = tmp_path / f"a{kind[0]}"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=kind[1], quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "note"), *rows])
    assert [e.input for e in data.read(file)] == [text for text, _ in rows]


def test_json_rows_that_are_none(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", '{"text": "ok"}\n{broken\n[1]\n{"text": 5}\n{"text": null}\n{"text": "end"}\n')
    source = data.read(file, on_error="skip")
    assert [e.input for e in source] == ["ok", "end"]
    assert source.errors == {"broken row": 2, "not a text": 2}
    with pytest.raises(DataError, match="row 2"):
        list(data.read(file))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.xls", "x", "unknown kind"),
        ("a.parquet", "junk", "Parquet"),
        ("a.csv", b"\xef\xbb\xbf", "no rows"),
        ("a.csv", "\n\n", "no rows"),
        ("a.csv.gz", "junk", "no whole gzip"),
        ("a.csv.gz", gzip.compress(random.Random(0).randbytes(9000), mtime=0)[:5000], "no whole gzip"),
        ("a.csv", "text,label\nhi,x\n".encode("utf-16") + b"A", "cannot be read as text.*--encoding"),
        ("a.json", "[" * 200_000, "nested too deeply"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.read(_write(tmp_path / name, content))


@pytest.mark.parametrize("wrong", ["nonsense", "hex"])
def test_unknown_encodings_are_named(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(DataError, match=f"unknown encoding '{wrong}'"):
        data.read(_write(tmp_path / "a.csv", "text\nhi\n"), encoding=wrong)


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("a.csv", b"\xef\xbb\xbftext,label\nhi,x\nho,y\n", "utf-8"),
        ("a.csv", "text,label\nhi,x\nho,y\n".encode("utf-32"), None),
        ("a.csv", b"\r\n\ntext,label\r\nhi,x\rho,y\n", None),
        ("a.csv", b" , \ntext,label\nhi,x\nho,y\n", None),
        ("a.table.csv", b"text,label\nhi,x\nho,y\n", None),
        ("a.tsv.csv", b"text,label\nhi,x\nho,y\n", None),
        ("A.TSV", b"text\tlabel\nhi\tx\nho\ty\n", None),
        ("a.tsv.gz", gzip.compress(b"text\tlabel\nhi\tx\nho\ty\n", mtime=0), None),
    ],
)
def test_marks_line_ends_and_names_that_mislead(
    tmp_path: Path, name: str, content: bytes, encoding: str | None
) -> None:
    found = data.read(_write(tmp_path / name, content), encoding=encoding)
    assert [(e.input, e.reference) for e in found] == [("hi", "x"), ("ho", "y")]


def test_half_characters_are_bad_rows(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", b'{"text": "good \\ud83d movie"}\n{"text": "\\ud83c\\udfac"}\n')
    with pytest.raises(DataError, match=r"row 1.*ud83d.*'good '.*half a character"):
        list(data.read(file))
    assert [e.input for e in data.read(file, on_error="skip")] == ["🎬"]


def test_parquet_of_pandas_and_of_nobody(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = pa.array([1.0, None, float("nan")])
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": labels}), tmp_path / "gaps.parquet")
    assert [e.reference for e in data.read(tmp_path / "gaps.parquet")] == [1.0, None, None]
    offsets, raw = (pa.py_buffer(b) for b in (b"\0\0\0\0\2\0\0\0\4\0\0\0", b"\xff\xfeok"))
    pq.write_table(pa.table({"text": pa.StringArray.from_buffers(2, offsets, raw)}), tmp_path / "bytes.parquet")
    with pytest.raises(DataError, match=r"row 1: column 'text': it cannot be read as string"):
        list(data.read(tmp_path / "bytes.parquet"))
    assert [e.input for e in data.read(tmp_path / "bytes.parquet", on_error="skip")] == ["ok"]


def test_no_line_of_stdin_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"text {n}".encode() for n in range(500)]
    lines[3] = b"caf\xe9"
    for skip in (True, False):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\r\n".join(lines))))
        source = data.read("-", on_error="skip" if skip else "fail")
        if skip:
            assert [e.id for e in source] == [n for n in range(1, 501) if n != 4]
        else:
            with pytest.raises(DataError, match="row 4.*0xe9"):
                list(source)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines[3]), encoding="utf-8"))
    assert [e.input for e in data.read("-", encoding="cp1252")] == ["café"]


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.parquet", "a.csv.gz", "-"])
def test_about_how_many_rows_there_are(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": ["x"] * 30}), file)
    elif name != "-":
        _write(file, ("text\n" if name == "a.csv" else "") + '{"text": "x"}\n' * 30)
    assert about_rows(file if name != "-" else "-") == (None if name in ("a.csv.gz", "-") else 30)


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    file = _write(tmp_path / "reviews.csv", "text,label\na,b\n")
    with pytest.raises(DataError, match="did you mean reviews.csv"):
        data.read(tmp_path / "review.csv")
    with pytest.raises(DataError, match="no column 'txt'.*did you mean 'text'"):
        data.read(file, text="txt")


def test_splits_depend_on_the_input_alone() -> None:
    examples = [Example(f"text {chr(ord('a') + i % 80)}", i % 2, i) for i in range(100)]
    fractions = {"a": 0.3, "b": 0.7}
    first = data.split(examples, fractions=fractions)
    shuffled = random.Random(0).sample(examples, 100)
    again = data.split(shuffled, fractions=fractions)
    assert {e.id for e in first["a"]} == {e.id for e in again["a"]}
    assert not {e.input for e in first["a"]} & {e.input for e in first["b"]}
    assert 10 < len(first["a"]) < 50


# ------------------------------------------------------------------------------------------ answers

CHILD = """
import sys
from llm_moments.data.output import AnswerWriter
with AnswerWriter(sys.argv[1], "job") as writer:
    for n in range(writer.done, 4000, 7):
        writer.write([{"id": i, "label": "ä" * (i % 9)} for i in range(n, min(n + 7, 4000))])
    writer.finish()
"""


def test_killed_writers_lose_and_double_nothing(tmp_path: Path) -> None:
    out, rng = tmp_path / "answers.jsonl", random.Random(0)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)])
        time.sleep(rng.uniform(0.05, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if out.exists():
            break
        if rng.random() < 0.5 and (tmp_path / "answers.jsonl.partial").exists():
            with (tmp_path / "answers.jsonl.partial").open("ab") as stream:
                stream.write(b'{"id": 99, "lab\xc3')  # a line torn inside a letter
    if not out.exists():
        subprocess.run([sys.executable, "-c", CHILD, str(out)], check=True)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(4000))
    assert os.listdir(tmp_path) == ["answers.jsonl"]


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_final_formats(tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"answers{kind}"
    with AnswerWriter(out, "job") as writer:
        writer.write([{"id": i, "label": "a,b", "scores": {"a": 0.5, "b": 0.5}} for i in range(5)])
        writer.finish()
    if kind == ".parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(out).column_names == ["id", "label", "scores.a", "scores.b"]
    else:
        assert len(out.read_text().splitlines()) == (6 if kind == ".csv" else 5)
    with pytest.raises(OutputExists, match="--overwrite"):
        AnswerWriter(out, "job")


def test_other_jobs_and_second_writers_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with AnswerWriter(out, "one") as writer:
        writer.write([{"id": 1}])
        with pytest.raises(DataError, match="another process"), AnswerWriter(out, "one"):
            pass
    with pytest.raises(OutputExists, match="another model"), AnswerWriter(out, "two"):
        pass


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AnswerWriter(tmp_path / "a.jsonl", "one") as writer:
        writer.write([{"id": 1}])
        real = writer._stream

        class Full:
            def write(self, _: bytes) -> None:
                raise OSError(28, "No space left on device")

            def close(self) -> None:
                real.close()

        writer._stream = Full()  # type: ignore[assignment]
        with pytest.raises(MomentsError, match="disk is full.*room.*kept"):
            writer.write([{"id": 2}])
    with AnswerWriter(tmp_path / "a.jsonl", "one") as writer:
        assert writer.done == 1


@pytest.mark.parametrize("count", [0, 1, 3, 250])
def test_stdin_is_read_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"text {i}" for i in range(count)]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert [e.input for e in data.read("-")] == lines
