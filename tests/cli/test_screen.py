"""What the command shows: on any console, whatever is in texts, names and errors, and with streams that are closed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_moments.cli import main
from tests.fakes import make_model
from tests.test_html import WORTHS

Call = Callable[..., tuple[str, str]]
EMOJI = "good 😀 film ✓ naïve"
VERBS = ("run", "chat", "record", "weigh", "improve", "train", "distill", "compare", "doctor", "show")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a verb in this process; both streams have this encoding, and are strict. Gives what is on them."""

    def run(*words: object, code: int = 0, encoding: str = "utf-8") -> tuple[str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["moments", *map(str, words)])
            patch.setattr("sys.stdout", streams[0])
            patch.setattr("sys.stderr", streams[1])
            with pytest.raises(SystemExit) as stop:
                main.main()
        said = []
        for stream in streams:
            stream.flush()
            said.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
        assert (stop.value.code or 0) == code, said
        return said[0], said[1]

    return run


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose labels are none that every console can show, or should."""
    return make_model(tmp_path_factory.mktemp("odd") / "модель", labels=["плохо", "so\x1b[31m\nso", "\u202ehüb☺sch"])


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_no_console_ends_a_command(call: Call, odd_model: Path, tmp_path: Path, encoding: str) -> None:
    data = tmp_path / "données ☺.csv"
    data.write_text(f"text,label\n{EMOJI},плохо\nпривет,плохо\n\x1b]52;c;eA==\x07 esc,плохо\n", encoding="utf-8")
    told: dict[str, str] = {}
    out, _ = call("run", odd_model, "--data", data, encoding=encoding)
    assert len(out.splitlines()) == 3
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    out, _ = call("run", odd_model, "--data", data, "--json", encoding=encoding)
    answers = [json.loads(line) for line in out.splitlines()]
    assert {name for answer in answers for name in answer["scores"]} == {"плохо", "so\x1b[31m\nso", "\u202ehüb☺sch"}
    session = tmp_path / "s.json"
    for verb in (("record", odd_model, "--data", data, "--out", session, "--overwrite"), ("show", session)):
        out, told["record"] = call(*verb, encoding=encoding)
        assert "forward" in out
    _, told["missing"] = call("run", odd_model, "--data", f"{data}\x1b[2J\nerror: forged", code=2, encoding=encoding)
    assert "no such file" in told["missing"]
    assert not [line for line in told["missing"].splitlines() if line.startswith("error: forged")]
    assert not {"\x1b", "\x07", "\u202e"} & set("".join(told.values()))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("verb", VERBS)
def test_help_on_any_console(call: Call, verb: str, encoding: str) -> None:
    assert "Usage: " in call(verb, "--help", encoding=encoding)[0]
    assert "No such option" in call(verb, "--\x1b[31mнет", code=2, encoding=encoding)[1]


def test_a_fault_of_the_program_is_no_way_to_the_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of \x1b[2J\u202e")

    monkeypatch.setattr("llm_moments.assembly.doctor.doctor", broken)
    said = call("doctor", code=1)[1]
    assert "Traceback" in said
    assert r"of \u001b[2J\u202e" in said
    assert "\x1b" not in said


def test_what_a_model_says_piece_by_piece(capsys: pytest.CaptureFixture[str]) -> None:
    from llm_moments.cli.screen import screens
    from llm_moments.cli.tell import pieces

    with screens():
        pieces(["two\nlines\t\x1b", "]0;x\x07 \U0001f600\ud800"])
    assert capsys.readouterr().out == "two\nlines\t\\u001b]0;x\\u0007 😀\\ud800\n"


def test_bars_do_not_let_through_what_is_printed_or_told_meanwhile() -> None:
    import pty

    script = (
        "import sys; from llm_moments.cli.screen import screens; from llm_moments.cli.tell import progress\n"
        "with screens():\n  with progress('human') as tick:\n"
        "    tick(0.5, 'plan [red]x[/red] \\x1b]52;c;eA==\\x07'); print('note \\x1b]0;t\\x07', file=sys.stderr)\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as child:
        os.close(theirs)
        said = b""
        try:
            while some := os.read(ours, 65536):
                said += some
        except OSError:
            pass  # the other end is closed
    assert child.returncode == 0, said
    assert b"\x1b]" not in said
    assert b"\x07" not in said
    assert rb"note \u001b]0;t\u0007" in said
    assert b"[red]x[/red]" in said
    assert b"\x1b[" in said  # the bar itself moves the cursor


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("moments", f"{sys.executable} -m llm_moments.cli.main")
    return subprocess.run(line, shell=True, capture_output=True, text=True, env={**os.environ, **env})


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("moments show nowhere <&-", 2), ("moments show nowhere >&-", 2), ("moments show nowhere 2>&-", 2),
        ("moments show nowhere <&- >&- 2>&-", 2), ("moments run --help >&-", 0), ("moments run --help >/dev/full", 1),
        ("moments run --help | true; exit 0", 0),
    ],
)  # fmt: skip
def test_streams_that_are_closed_or_full(line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code, done.stderr
    assert "AttributeError" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_in_the_plainest_locale(call: Call, odd_model: Path, tmp_path: Path) -> None:
    """Python takes the words of the command line for ASCII there."""
    import shutil

    model = shutil.copytree(odd_model, tmp_path / "model")
    right = [json.loads(line) for line in call("run", model, EMOJI, "so", "--json")[0].splitlines()]
    plainest = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f"moments run {model} '{EMOJI}' so --json </dev/null", **plainest)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in right]
    assert answers[0]["score"] == pytest.approx(right[0]["score"], abs=1e-6)


# ------------------------------------------------------------------------------- the result first


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_view_that_fails_loses_no_result(
    call: Call, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "in.csv"
    data.write_text("text,label\ngood,pos\nbad,neg\n")
    monkeypatch.setattr("llm_moments.render.html.report", full)
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    monkeypatch.setattr("llm_moments.weigh.weigh.weigh", lambda *_, **__: WORTHS)
    for verb in ("record", "weigh"):
        kept, sheet = tmp_path / f"{verb}.json", tmp_path / f"{verb}.csv"
        views = ("--html", tmp_path / "r.html", "--tensorboard", tmp_path / "tb", "--csv", sheet)
        out, said = call(verb, tiny_model, "--data", data, "--out", kept, *views, "--json", code=1)
        assert json.loads(out) == json.loads(kept.read_text())
        assert sheet.exists()
        for told in ("r.html could not be written", "tb could not be written", "moments show"):
            assert told in said, said
        assert "Traceback" not in said


def test_what_cannot_be_written_is_told_before_anything_is_done(call: Call, tiny_model: Path, tmp_path: Path) -> None:
    data, file = tmp_path / "in.csv", tmp_path / "file"
    data.write_text("text,label\ngood,pos\nbad,neg\n")
    file.write_text("x")
    (tmp_path / "folder").mkdir()
    for option in ("--out", "--html", "--csv", "--tensorboard"):
        assert f"{file} is a file" in call("record", tiny_model, "--data", data, option, file / "below", code=2)[1]
    assert (
        "is a folder"
        in call("record", tiny_model, "--data", data, "--out", tmp_path / "folder", "--overwrite", code=2)[1]
    )


def test_doctor_without_a_cache_that_can_be_written(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(
        "llm_moments.base.environment._measure_peaks", lambda: dict.fromkeys(("fp32", "bf16", "int8", "copy_gb"), 1.0)
    )
    found = json.loads(call("doctor", "--json")[0])
    assert found["peaks"]["fp32"] == 1.0
    assert any("cannot be written" in note for note in found["notes"])


# ------------------------------------------------------------------------------- data that change


def test_data_that_change_while_they_are_read(
    call: Call, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_moments.data.output import AnswerWriter

    rows = [f'{{"id": "{n}", "text": "good film {n}"}}\n' for n in range(12)]
    data, out, real = tmp_path / "in.jsonl", tmp_path / "out.jsonl", AnswerWriter.write
    data.write_text("".join(rows))
    words = ("run", tiny_model, "--data", data, "--out", out, "--set", "batch.window=4", "--format", "quiet")

    def then(change: Callable[[], object]) -> None:
        def write(self: Any, some: Any) -> None:
            real(self, some)
            change()

        monkeypatch.setattr(AnswerWriter, "write", write)

    then(lambda: data.write_text("".join(reversed(rows))))
    assert "was changed while it was read" in call(*words, code=2)[1]
    assert not out.exists()
    assert "unfinished answers of another" in call(*words, code=2)[1]
    data.write_text("".join(rows))
    then(lambda: os.utime(data, (1, 1)))  # touched only
    call(*words)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [str(n) for n in range(12)]
    monkeypatch.setattr("llm_moments.cli.run.line_of", lambda *_: data.write_text("".join(reversed(rows))))
    assert "was changed while it was read" in call("run", tiny_model, "--data", data, code=2)[1]
