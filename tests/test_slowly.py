"""What takes long is said, once; opening an engine is a step of the first answer and a figure of a recording."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import llm_moments as lm
from llm_moments.base import notes
from llm_moments.record.stream import Conversation
from tests.cli.command import moments
from tests.fakes_chat import make_chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(notes, "PATIENCE", 0.01)
    monkeypatch.setattr(notes, "_SAID", set())
    return []


def _wait(told: list[str]) -> None:
    for _ in range(1000):
        if told:
            return
        time.sleep(0.01)


def test_it_is_said_once_and_only_where_it_takes_long(told: list[str]) -> None:
    notes.tell_by(told.append)
    try:
        with notes.slowly("long"):
            _wait(told)
        with notes.slowly("long"):
            time.sleep(0.05)
        with pytest.raises(ValueError), notes.slowly("failed"):
            raise ValueError
    finally:
        notes.tell_by(None)
    time.sleep(0.05)
    assert told == ["long"]


def test_nobody_is_told_where_nobody_asked(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with notes.slowly("long"):
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_the_command_line_says_that_it_loads(folder: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = moments("run", folder, "hello", "--max-new-tokens", 2)
    assert f"loading {folder} …" in done.stderr
    monkeypatch.setattr(notes, "_SAID", set())
    assert "loading" not in moments("run", folder, "hello", "--max-new-tokens", 2, "--format", "quiet").stderr


def test_opening_is_a_step_of_the_first_answer_and_a_figure_of_a_recording(folder: Path) -> None:
    talk = Conversation(lm.load(folder, plan={"decode.max_new_tokens": 2}))
    "".join(talk.say("hello"))
    assert talk.session is not None
    assert talk.session.root.find("load").wall_s > 0
    "".join(talk.say("hello"))
    assert "load" not in [step.name for _, step in talk.session.root.walk()]


def test_a_recording_tells_how_long_it_took_to_load(tiny_model: Path, texts: list[str]) -> None:
    session = lm.record(tiny_model, texts[:4])
    assert (session.figures["load"].value or 0) > 0
    assert "load" not in [step.name for _, step in session.root.walk()]  # which is of what came after it
    assert "load" not in lm.record(lm.load(tiny_model), texts[:4]).figures  # nobody knows when that was opened
