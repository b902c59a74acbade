"""A conversation: its history, its pieces, what ends it early, and where its time went."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llm_moments as lm
from llm_moments.base.errors import EngineError, InputError, ModelError
from llm_moments.core import Pipeline
from llm_moments.record.stream import Conversation, Stream
from llm_moments.render.tree import lines
from tests.cli.command import moments
from tests.fake_server import answer_to, cut_after, serving
from tests.fakes_chat import make_chat
from tests.fakes_seq import make_marian, toy_pairs


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_TIMEOUT", "20")
    monkeypatch.setenv("MOMENTS_RETRIES", "0")


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat") / "tiny")


@pytest.fixture
def local(chat_folder: Path) -> Pipeline:
    return lm.load(chat_folder, plan={"decode.max_new_tokens": 8})


def right(question: str) -> str:
    return "".join(answer_to({"prompt": question}))


def test_the_history_goes_along_with_every_question() -> None:
    with serving() as told:
        talk = Conversation(lm.load(told.address, plan={"template.system": "be brief"}))
        assert "".join(talk.say("a b")) == right("a b")
        list(talk.say("c"))
        roles = [[m["role"] for m in asked["messages"]] for asked in told.asked]
        talk.reset()
        list(talk.say("d"))
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert [m["content"] for m in told.asked[2]["messages"]] == ["be brief", "d"]
    assert talk.turns == [("user", "d"), ("assistant", right("d"))]


def test_pieces_come_while_the_answer_is_made_and_together_are_what_run_gives(local: Pipeline) -> None:
    with serving(delay=0.1) as told:
        stream = Stream(lm.load(told.address), "one two")
        came = [time.perf_counter() for _ in stream]
    assert len(came) == 5
    assert came[-1] - came[0] > 0.3
    stream = Stream(local, "hello")
    assert "".join(stream) == stream.text == local("hello").text
    assert stream.answer == local("hello")


def test_of_several_beams_nothing_is_told_before_the_end(tmp_path: Path) -> None:
    """The beams are rows of one answer, and what one of them begins may be given up."""
    pipe = lm.load(make_marian(tmp_path / "marian"), plan={"decode.max_new_tokens": 6})
    stream = Stream(pipe, toy_pairs(3)[0][0])
    assert len(list(stream)) == 1
    assert stream.text == pipe(toy_pairs(3)[0][0]).text


def test_a_pipeline_is_left_as_it_was(local: Pipeline) -> None:
    list(Conversation(local).say("hello"))
    assert local.steps[-1].on_text is None  # type: ignore[attr-defined]


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came() -> None:
    with serving(delay=0.05) as told:
        talk = Conversation(lm.load(told.address))
        answer = talk.say("a b c d e f")
        first = [next(answer), next(answer)]
        answer.close()  # type: ignore[attr-defined]
        assert talk.turns == [("user", "a b c d e f"), ("assistant", "".join(first))]
        assert "".join(talk.say("x")) == right("x")  # the engine has let go


def test_a_question_that_failed_is_not_part_of_the_history() -> None:
    with serving(faults=[cut_after(0), None]) as told:
        talk = Conversation(lm.load(told.address))
        with pytest.raises(EngineError):
            list(talk.say("a"))
        assert talk.turns == []
        list(talk.say("b"))
        assert len(told.asked[-1]["messages"]) == 1


def test_turns_that_do_not_fit_are_counted_and_stay_in_the_history(local: Pipeline) -> None:
    talk = Conversation(local)
    dropped = []
    for _ in range(5):
        list(talk.say("the movie was very good"))
        dropped.append(talk.dropped)
    assert dropped[0] == 0
    assert dropped[-1] > 0
    assert len(talk.turns) == 10


def test_the_session_says_where_the_time_went(local: Pipeline) -> None:
    talk = Conversation(local)
    assert talk.session is None
    answer = list(talk.say("hello"))
    session = talk.session
    assert answer
    assert session is not None
    names = [step.name for _, step in session.root.walk()]
    assert {"template", "tokenize", "context", "prefill", "decode"} <= set(names)
    inside = sum(step.wall_s for step in session.root.children)
    assert 0 < inside <= session.root.wall_s * 1.05
    assert session.figures["ttft"].value is not None
    assert session.figures["throughput"].value is not None
    shown = lines(session)
    assert any("prefill" in line and "ms" in line for line in shown)
    assert any(line.startswith("ttft: ") for line in shown)


def test_what_is_no_dialogue_is_refused(tiny_model: Path, local: Pipeline, tmp_path: Path) -> None:
    classifier = lm.load(tiny_model)
    with pytest.raises(InputError, match="text-classification, not chat"):
        Conversation(classifier)
    with pytest.raises(InputError, match="gives its answers whole"):
        Stream(classifier, "x")
    with pytest.raises(InputError, match="empty"):
        list(Conversation(local).say("  "))
    with pytest.raises(ModelError, match="BertForSequenceClassification|makes no text"):
        lm.load(tiny_model, task="chat")
    with pytest.raises(ModelError, match="no chat template, so it cannot be talked with: .* --task text-generation"):
        list(Conversation(lm.load(make_chat(tmp_path / "plain", templated=False), task="chat")).say("x"))


# -- the command


def test_a_script_talks_through_a_pipe() -> None:
    with serving() as told:
        said = moments(
            "chat", told.address, "--system", "be brief", "--max-new-tokens", 3, "--temperature", 0.5, "--top-p", 0.9,
            "--seed", 3, "--stop", "END", stdin="a b\n\n/steps\n/nonsense\nc\n/reset\nd\n/help\n/quit\nnever\n",
        )  # fmt: skip
    out = said.stdout.splitlines()
    assert out[0] == "b a and "
    assert out[1].startswith("answer")
    assert any("prefill" in line for line in out)
    assert "/reset" in said.stdout
    assert "there is no command /nonsense" in said.stderr
    assert [len(asked["messages"]) for asked in told.asked] == [2, 4, 2]
    assert (told.asked[0]["temperature"], told.asked[0]["seed"], told.asked[0]["stop"]) == (0.5, 3, ["END"])
    assert told.questions[-1] == "d"


def test_a_script_ends_with_its_first_error() -> None:
    with serving(faults=[None, cut_after(1)]) as told:
        said = moments("chat", told.address, stdin="a\nb\nc\n", code=1, MOMENTS_RETRIES="0")
    assert "stopped in the middle" in said.stderr
    assert "Traceback" not in said.stderr
    assert len(told.asked) == 2


def test_broken_text_on_stdin_is_said_with_its_line() -> None:
    with serving() as told:
        command = [sys.executable, "-m", "llm_moments.cli.main", "chat", told.address]
        done = subprocess.run(command, input=b"fine\n\xff\xfe\n", capture_output=True)
    assert done.returncode == 2
    assert b"line 2 of stdin is not UTF-8" in done.stderr
    assert len(told.asked) == 1


def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    with serving(delay=0.8) as told:
        command = [sys.executable, "-m", "llm_moments.cli.main", "chat", told.address]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"a b c d e f g h\n")
        process.stdin.flush()
        assert process.stdout.read(1) == b"h"  # the first piece is there
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(b"x\n", timeout=30)
    assert process.returncode == 0, err
    assert b"(stopped)" in err
    assert out.splitlines()[-1].decode() == right("x")
    assert [m["role"] for m in told.asked[-1]["messages"]] == ["user", "assistant", "user"]
    assert len(told.asked[-1]["messages"][1]["content"]) < len(right("a b c d e f g h"))


def test_run_shows_one_answer_while_it_is_made_and_takes_the_sampling_options() -> None:
    with serving() as told:
        assert moments("run", told.address, "a b c", "--max-new-tokens", 2).stdout == "c b \n"
        shown = moments("run", told.address, "a b c", "--max-new-tokens", 2, "--json").stdout
    found = json.loads(shown)
    assert (found["id"], found["text"]) == (1, "c b ")
    assert found["usage"].items() >= {"prompt_tokens": 7, "completion_tokens": 2, "finish_reason": "length"}.items()


def test_sampling_options_are_no_choices_of_a_classifier(tiny_model: Path) -> None:
    assert "decode" in moments("run", tiny_model, "x", "--temperature", 1, code=2).stderr
