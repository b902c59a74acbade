"""Input as people give it: words beside a pipe, `-`, names of files, messages as OpenAI's API writes them, mixed rows."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError
from llm_moments.cli import answered as rows
from llm_moments.cli.words import taken
from llm_moments.data.output import AnswerWriter
from llm_moments.steps.prompt import messages_of
from tests.cli.command import moments
from tests.fakes_chat import make_chat

PROMPTED = SimpleNamespace(files=False, prompted=True, name="chat")
LABELS = SimpleNamespace(files=False, prompted=False, name="text-classification")
FILES = SimpleNamespace(files=True, prompted=False, name="image-classification")
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}],
}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat") / "tiny", positions=256)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts a text on stdin, as a shell does (a file of the system's)."""

    def put(text: str | bytes) -> None:
        file = tmp_path / "stdin"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file.open("rb")))

    put("")
    return put


def test_a_word_is_the_instruction_and_a_pipe_the_text(piped: Any) -> None:
    piped("A long article.\nWith lines.\n")
    assert taken(PROMPTED, ["Summarise"], None) == (["A long article.\nWith lines.\n\nSummarise"], None)
    piped("Text")
    assert taken(PROMPTED, ["-", "One", "Two"], None) == (["Text\n\nOne", "Text\n\nTwo"], None)
    piped("  \n")
    assert taken(PROMPTED, ["Who are you?"], None) == (["Who are you?"], None)
    with pytest.raises(lm.errors.InputError, match="no text on stdin"):
        taken(PROMPTED, ["-", "Summarise"], None)
    piped(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        taken(PROMPTED, ["Summarise"], None)


def test_stdin_that_nobody_put_there_is_left_alone(monkeypatch: pytest.MonkeyPatch, piped: Any) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert taken(PROMPTED, ["Who are you?"], None) == (["Who are you?"], None)
    piped("a row of a loop")
    assert taken(LABELS, ["good film"], None) == (["good film"], None)
    assert sys.stdin.read() == "a row of a loop"


@pytest.mark.parametrize("words", [["Sum"], ["-", "Sum"]])
def test_a_pipe_that_says_nothing_for_a_while_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str]
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("llm_moments.cli.words.PATIENCE_S", 0.0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.FileIO(reading))))

    def late() -> None:
        os.write(writing, b"late")
        os.close(writing)

    threading.Timer(0.1, late).start()
    assert taken(PROMPTED, words, None) == (["late\n\nSum"], None)
    assert "waiting for text on stdin" in capsys.readouterr().err


def test_a_pipe_that_never_ends_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("llm_moments.cli.words.PATIENCE_S", 0.0)
    monkeypatch.setattr("llm_moments.cli.words.LONGEST_S", 0.01)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.FileIO(reading))))
    assert taken(PROMPTED, ["Who are you?"], None) == (["Who are you?"], None)
    assert "nothing came on stdin" in capsys.readouterr().err
    os.close(writing)


@pytest.mark.parametrize("task", [PROMPTED, LABELS, FILES])
def test_a_dash_is_stdin_and_a_table_is_read(task: Any, tmp_path: Path, piped: Any, capsys: Any) -> None:
    assert taken(task, ["-"], None) == ([], "-")
    table = tmp_path / "rows.csv"
    table.write_text("text\na\n")
    assert taken(task, [str(table)], None) == ([], str(table))
    assert taken(task, [], str(table)) == ([], str(table))


def test_what_could_be_both(tmp_path: Path, piped: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good").write_text("x")
    Path("notes.md").write_text("x")
    assert taken(LABELS, ["good"], None) == (["good"], None)
    assert "taken for a text (--data good" in capsys.readouterr().err
    for said, right in (("y\n", ([], "good")), ("\n", (["good"], None))):
        typed = io.StringIO(said)
        monkeypatch.setattr(typed, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert taken(LABELS, ["good"], None) == right
    piped("")
    with pytest.raises(lm.errors.InputError, match=r"INSTRUCTION - < notes\.md"):
        taken(PROMPTED, ["Summarise", "notes.md"], None)
    with pytest.raises(lm.errors.InputError, match="alone"):
        taken(LABELS, ["-", "good film"], None)
    long = "a" * 100_000
    assert taken(LABELS, [long], None) == ([long], None)


def test_content_parts_and_what_is_refused() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    assert messages_of([{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]) == (
        ("system", "be brief"), ("user", "one\ntwo"),
    )  # fmt: skip
    asked: list[tuple[Any, str]] = [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "message 1, part 1.*image_url",
        ),
        ([{"role": "user", "content": "hi"}, CALL], "message 2 has tool_calls"),
        ([{"role": "user", "content": [{"text": "no type"}]}], "part 1 is"),
        ([{"role": "user", "content": None}], "message 1 should be"),
        ([{"role": "judge", "content": "x"}], "role 'judge'"),
        (["hi"], "message 1 should be"),
    ]
    for turns, why in asked:
        with pytest.raises(DataError, match=why):
            messages_of(turns)
    assert messages_of([{"role": "assistant", "content": "x", "tool_calls": None}, {"role": "user", "content": []}])


def mixed(path: Path) -> Path:
    told: list[dict[str, Any]] = [
        {"prompt": "one"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "two"}]}]},
        {"messages": [{"role": "user", "content": "x"}, CALL, {"role": "user", "content": "y"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": None, "prompt": [{"role": "user", "content": "five"}]},
        {},
        {"messages": '[{"role": "user", "content": "seven"}]', "prompt": ""},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


def test_mixed_rows_and_bad_ones_by_their_numbers(chat: Path, tmp_path: Path) -> None:
    data, out = mixed(tmp_path / "d.jsonl"), tmp_path / "a.jsonl"
    run = ("run", chat, "--data", data, "--out", out, "--max-new-tokens", 4)
    told = moments(*run, code=2).stderr
    assert "d.jsonl, row 3: message 2 has tool_calls" in told
    assert "--on-error skip" in told
    assert len((tmp_path / "a.jsonl.partial").read_text().splitlines()) == 3  # the two before it are kept
    told = moments(*run, "--on-error", "skip").stderr  # the same job, not another's
    assert "going on after 2 finished rows" in told
    assert "2 refused" in told
    assert "row 4: message 1, part 1" in told
    assert "1 not a text" in told
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in found] == [1, 2, 5, 7]
    pipe = lm.load(chat, plan={"decode.max_new_tokens": 4})
    assert [row["text"] for row in found] == [pipe(asked).text for asked in ("one", "two", "five", "seven")]


def test_rows_left_out_before_are_not_asked_again(tmp_path: Path) -> None:
    with AnswerWriter(tmp_path / "a.jsonl", "one") as writer:
        writer.write([{"id": n, "text": "x"} for n in (1, 4)])
    examples = [SimpleNamespace(id=n) for n in range(1, 7)]
    left: list[int] = []
    with AnswerWriter(tmp_path / "a.jsonl", "one") as writer:
        rest = writer.rest(iter(examples), lambda one: left.append(one.id))
        assert [one.id for one in rest] == [5, 6]
        assert left == [2, 3]
        assert writer.done == 2
    with AnswerWriter(tmp_path / "a.jsonl", "one") as writer:  # where none may be left out, they are another's
        assert [one.id for one in writer.rest(iter(examples))] == [2, 3, 4, 5, 6]
        assert writer.done == 1


def test_portions_are_short_in_time(monkeypatch: pytest.MonkeyPatch, chat: Path) -> None:
    clock = [0.0]
    monkeypatch.setattr(rows.time, "monotonic", lambda: clock[0])

    def sizes(pipe: Any, *spent: float) -> list[int]:
        found = []
        for took, some in zip(spent, rows.portions(pipe, iter(range(10_000))), strict=False):
            found.append(len(some))
            clock[0] += took
        return found

    pipe = lm.load(chat)
    assert sizes(pipe, 0.1, 0.1, 3, 3, 9, 9, 9, 0.1) == [1, 2, 4, 4, 4, 2, 1, 1]
    assert max(sizes(pipe, *[0.1] * 12)) == pipe.window
    assert sizes(pipe.with_(**{"forward.streams": 8}), 9, 9, 0.1, 1) == [8, 8, 8, 16]
    assert sizes(pipe.with_(**{"decode.temperature": 1.0}), 0.1, 0.1, 9) == [1, 1, 1]


def test_rows_are_kept_as_they_are_done(chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the third row leaves two; the next call goes on after them."""
    from llm_moments.engines.transformers_generate import TransformersGenerate

    data, out, real, asked = tmp_path / "d.txt", tmp_path / "a.jsonl", TransformersGenerate.generate, []
    data.write_text("".join(f"question {n}\n" for n in range(5)))

    def stops(self: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        asked.extend(prompts)
        if len(asked) == 4:  # the portion of rows 2 and 3 was the second
            raise KeyboardInterrupt
        return real(self, prompts, *rest, **more)

    run = ("run", chat, "--data", data, "--out", out, "--max-new-tokens", 3, "--set", "forward.engine=transformers")
    monkeypatch.setattr(rows, "SHORT_S", -1.0)
    with monkeypatch.context() as patched:
        patched.setattr(TransformersGenerate, "generate", stops)
        moments(*run, code=130)
    assert len((tmp_path / "a.jsonl.partial").read_text().splitlines()) == 4
    assert "going on after 3 finished rows" in moments(*run).stderr
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [1, 2, 3, 4, 5]
