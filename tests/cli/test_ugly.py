"""Bad input, as a stranger brings it: what is wrong is named with its cure, the exit code is 2, nothing is lost."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_moments.cli import main
from tests.fakes import label_of, make_texts

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a verb in this process and gives what it says on both streams."""

    def run(*words: object, code: int = 2, stdin: bytes = b"") -> str:
        monkeypatch.setattr("sys.argv", ["moments", *map(str, words)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            main.main()
            found: object = 0
        except SystemExit as stop:
            found = stop.code or 0
        said = "".join(capsys.readouterr())
        assert found == code, said
        return said

    return run


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(path: Path, *rows: str) -> Path:
    return write(path, "text,label\n" + "".join(f"{row}\n" for row in rows))


ROWS = [
    (b"text,label\nok,pos\n,neg\n", r"row 2: column 'text' is empty.*--on-error skip", "1 empty text"),
    (b"text,label\nok,pos\n" + b"a" * 10_000_000 + b",neg\n", r"row 2.*10,000,000 characters.*1,000,000", "1 too long"),
    (b"text,label\nok,pos\ncaf\xe9,neg\n", r"row 2: byte 0xe9 after 'caf'.*--encoding", "1 undecodable"),
    (b'text,label\nok,pos\n"open,neg\n', r"row 2: on line 3 a quote.*close it", "1 open quote"),
    (b"text,label\nok,pos\na,b,c\n", r"row 2: 3 fields where the header has 2", "1 broken row"),
]


@pytest.mark.parametrize(("content", "told", "counted"), ROWS, ids=[r[2] for r in ROWS])
def test_bad_rows(say: Say, model: Path, tmp_path: Path, content: bytes, told: str, counted: str) -> None:
    file, out = write(tmp_path / "in.csv", content), tmp_path / "out.jsonl"
    said = say("run", model, "--data", file, "--out", out)
    assert re.search(f"in.csv, {told}", said), said
    said = say("run", model, "--data", file, "--out", out, "--on-error", "skip", "--overwrite", code=0)
    assert f"skipped rows: {counted}" in said
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [1]


def test_stdin_and_words_are_read_as_files_are(say: Say, model: Path, tmp_path: Path) -> None:
    assert "stdin, row 2: column 'text' is empty" in say("run", model, stdin=b"good\n\nbad\n")
    said = say("run", model, "--on-error", "skip", stdin=b"good\n\ncaf\xe9\nbad\n", code=0)
    assert "1 empty text, 1 undecodable" in said
    assert "café" in say("run", model, "--encoding", "latin-1", stdin=b"caf\xe9\n", code=0)
    out = tmp_path / "out.jsonl"
    for words in ((), ("--out", out)):
        assert "stdin: there is no text in it" in say("run", model, *words)
    assert "the command line, row 2" in say("run", model, "good", " ")
    say("run", model, "good", "bad", "--out", out, code=0)
    assert len(out.read_text().splitlines()) == 2
    assert "on_error" in say("run", model, "x", "--on-error", "maybe")
    assert not [p.name for p in tmp_path.iterdir() if "partial" in p.name]


def test_answers_to_one_pipe_are_not_gone_on_with_by_another(say: Say, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    say("run", model, "--out", out, stdin=b"good\n\n")
    assert "unfinished answers of another" in say("run", model, "--out", out, stdin=b"other\n")


def test_labels_that_the_model_does_not_know(say: Say, model: Path, tmp_path: Path) -> None:
    file = table(tmp_path / "in.csv", "good,pos", ",pos", "no label,", "bad,weird", "ok,neg", "fine,neutral")
    known = (
        "in.csv, row 4: the model does not know the label 'weird'; it knows neg, neutral, pos. Mend it, pass --on-er"
    )
    rest = write(tmp_path / "rest.csv", file.read_text().replace("\n,pos", "\nx,pos"))
    for verb in (("weigh", model), ("compare", model, model), ("improve", model, "--out", tmp_path / "o")):
        assert known.replace("in.csv", "rest.csv") in say(*verb, "--data", rest)
    said = say("compare", model, model, "--data", file, "--on-error", "skip", code=0)
    assert "1 empty text, 1 no label, 1 unknown label" in said
    ids = write(tmp_path / "in.jsonl", '{"id":"x1","text":"a","label":"what"}\n')
    assert "the row with id 'x1'" in say("compare", model, model, "--data", ids)
    assert "Is --label-column right?" in say("compare", model, model, "--data", ids, "--on-error", "skip")


def test_one_class_or_one_row(say: Say, model: Path, tmp_path: Path) -> None:
    file = table(tmp_path / "in.csv", *(f"{t},pos" for t in make_texts(9)))
    for verb in (("weigh", model), ("compare", model, model), ("improve", model, "--out", tmp_path / "o")):
        assert "every row has the label 'pos'" in say(*verb, "--data", file)
    assert "one class only ('pos')" in say("train", model, "--data", file, "--out", tmp_path / "t")
    one = table(tmp_path / "one.csv", "good,pos")
    said = say("improve", model, "--data", one, "--out", tmp_path / "o", "--budget", "9s", code=3)
    assert "too few to split in three" in said
    assert "299" in said


def test_bytes_that_are_no_table(say: Say, model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", b"a,b,c,d\nx\ny\n")
    assert "no rows that can be read; row 1: 1 fields where the header has 4" in say("run", model, "--data", file)
    file = write(tmp_path / "in.csv", "text\nok\n".encode("utf-16-le"))
    assert "--encoding utf-16-le" in say("run", model, "--data", file)
    assert "ok" in say("run", model, "--data", file, "--encoding", "utf-16-le", code=0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tokenizer*", "has no tokenizer"),
        ("config.json", "not a model folder"),
        ("model.safetensors", "no *.safetensors"),
    ],
)
def test_models_that_lack_a_file(say: Say, model: Path, name: str, told: str) -> None:
    for file in model.glob(name):
        file.unlink()
    assert told in say("run", model, "good")


def test_models_that_are_damaged(say: Say, model: Path) -> None:
    vocabulary = model / "tokenizer.json"
    vocabulary.rename(model / "aside")
    assert "tokenizer" in say("run", model, "good")
    (model / "aside").rename(vocabulary)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "not whole" in say("run", model, "good")
    config = json.loads((model / "config.json").read_text())
    write(model / "config.json", json.dumps({**config, "auto_map": {"AutoModel": "x.y"}}))
    assert "auto_map" in say("run", model, "good")
    write(model / "config.json", json.dumps(config))
    weights.rename(model / "pytorch_model.bin")
    assert "pickle" in say("run", model, "good")


def test_weights_of_another_shape(say: Say, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    write(model / "config.json", json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    assert "other shapes than its config.json states" in say("run", model, "good")


@pytest.mark.parametrize("content", [b"[truncate\n", b"\xff\xfe\x00", b"truncate = 3\n"])
def test_plans_that_are_none_are_named(say: Say, model: Path, tmp_path: Path, content: bytes) -> None:
    assert "plan.toml" in say("run", model, "x", "--plan", write(tmp_path / "plan.toml", content))


def test_no_output_replaces_what_is_there_unasked(say: Say, model: Path, tmp_path: Path) -> None:
    file = table(tmp_path / "in.csv", *(f"{t},{label_of(t)}" for t in make_texts(12)))
    before = file.read_bytes()
    there = write(tmp_path / "there.json", "mine")
    for verb in ("record", "weigh"):
        for option in ("--out", "--html", "--csv", "--parquet"):
            assert "--overwrite" in say(verb, model, "--data", file, option, there)
            assert "the file of examples itself" in say(verb, model, "--data", file, option, file, "--overwrite")
    assert "the file of examples itself" in say(
        "improve", model, "--data", file, "--csv", file, "--out", tmp_path / "o"
    )
    same = write(tmp_path / "same.jsonl", '{"text": "good"}\n')
    assert "the file of examples itself" in say("run", model, "--data", same, "--out", same, "--overwrite")
    assert file.read_bytes() == before
    assert there.read_text() == "mine"
    say("record", model, "--data", file, "--limit", 4, "--out", there, "--overwrite", "--format", "quiet", code=0)
    assert json.loads(there.read_text())["kind"] == "session"


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs to mount a small tmpfs")
def test_a_disk_without_space(say: Say, model: Path, tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    file = table(tmp_path / "in.csv", *(f"{t},{label_of(t)}" for t in make_texts(1500)))
    try:
        said = say("run", model, "--data", file, "--out", disk / "a.jsonl", code=1)
        assert "the disk is full" in said
        assert "kept" in said
        done = len((disk / "a.jsonl.partial").read_bytes().splitlines()) - 1
        assert done > 100
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        assert "going on after" in say("run", model, "--data", file, "--out", disk / "a.jsonl", code=0)
        rows = [json.loads(line)["id"] for line in (disk / "a.jsonl").read_text().splitlines()]
        assert rows == list(range(1, 1501))
        subprocess.run(["mount", "-o", "remount,size=600k", str(disk)], check=True)
        short = ("train", model, "--data", file, "--limit", 20, "--epochs", 1, "--out", disk / "t")
        assert "the disk is full" in say(*short, code=1)
        assert not (disk / "t").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
