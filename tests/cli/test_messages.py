"""What a person types, pastes or pipes into `moments chat` is one message where it is meant as one."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_moments.cli import messages
from tests.cli.command import moments
from tests.fakes_chat import make_chat


def _piped(monkeypatch: pytest.MonkeyPatch, text: bytes) -> Iterator[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))
    return messages.messages()


def test_a_script_writes_a_message_a_line_or_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'\n  one \r\n"""\nfirst\n\n  second\n"""\ntwo\n"""in a line"""\n"""begun\nended"""\n""" """\n'
    assert list(_piped(monkeypatch, text)) == ["one", "first\n\n  second", "two", "in a line", "begun\nended"]


@pytest.mark.parametrize(
    ("text", "why"), [(b'a\n"""\nno end\n', "ends inside of a message"), (b"a\n\xff\n", "line 2 .* UTF-8")]
)
def test_what_cannot_be_a_message_is_said(monkeypatch: pytest.MonkeyPatch, text: bytes, why: str) -> None:
    from llm_moments.base.errors import DataError

    read = _piped(monkeypatch, text)
    assert next(read) == "a"
    with pytest.raises(DataError, match=why):
        next(read)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The far end of a terminal that stands for stdin."""
    pty = pytest.importorskip("pty")
    far, near = pty.openpty()
    stream = os.fdopen(near, "r", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    monkeypatch.setattr("builtins.input", lambda prompt="": _line(near))
    yield far
    stream.close()
    os.close(far)


def _line(fd: int) -> str:
    """A line as the terminal gives it, nothing of the next one."""
    said = b""
    while not said.endswith(b"\n"):
        piece = os.read(fd, 1)
        if not piece:
            raise EOFError
        said += piece
    return said.decode().rstrip("\n")


def test_what_is_pasted_at_once_is_one_message(terminal: int) -> None:
    read = messages.messages()
    os.write(terminal, b"first\nsecond\n\nthird\n")
    assert next(read) == "first\nsecond\n\nthird"
    os.write(terminal, b"alone\n")
    assert next(read) == "alone"
    os.write(terminal, b'"""\na\n')
    later = threading.Timer(0.3, os.write, (terminal, b'b\n"""\n'))
    later.start()
    assert next(read) == "a\nb"
    os.write(terminal, b"\x04")
    assert list(read) == []


def test_a_terminal_that_says_what_is_pasted(tmp_path: Path) -> None:
    """readline takes the lines between the two marks for one."""
    pty = pytest.importorskip("pty")
    pytest.importorskip("readline")
    code = "from llm_moments.cli.messages import messages\nfor m in messages(): print('got', repr(m), flush=True)"
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    seen = b""
    try:
        while b"> " not in seen:
            seen += os.read(fd, 1000)
        os.write(fd, b"\x1b[200~first\rsecond\x1b[201~")
        os.write(fd, b"\r")
        while b"got" not in seen or not seen.rstrip().endswith(b">"):
            seen += os.read(fd, 1000)
        os.write(fd, b"\x04")
    finally:
        os.waitpid(pid, 0)
        os.close(fd)
    assert b"got 'first\\nsecond'" in seen


def test_models_that_cannot_be_talked_with_are_refused_at_once(tiny_model: Path, tmp_path: Path) -> None:
    untold = make_chat(tmp_path / "base", templated=False)
    for folder, why in (
        (untold, "has no chat template, so it cannot be talked with: let it go on with a text"),
        (tiny_model, "makes no text, so chat is not for it: `moments run MODEL INPUT`"),
    ):
        done = moments("chat", folder, stdin="", code=2)
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
        assert not done.stdout


def test_an_encoder_without_a_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(tiny_model, tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    assert "has no head that makes text" in moments("chat", tmp_path / "encoder", stdin="x", code=2).stderr


def test_a_long_message_and_undo_through_the_command(tmp_path: Path) -> None:
    folder = make_chat(tmp_path / "chat", positions=256)
    asked = 'one\n"""\ntwo\nthree\n"""\n/undo\n/undo\n/undo\n/help\n'
    done = moments("chat", folder, "--max-new-tokens", 4, stdin=asked)
    assert done.stderr.count("(forgotten)") == 2
    assert "(nothing was said yet)" in done.stderr
    assert '"""     begins a message of several lines' in done.stdout
