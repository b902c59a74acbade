"""Servers that never end: each is given up within its bounds of time and bytes, and said so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.base.errors import EngineError
from llm_moments.engines import remote_bounds
from llm_moments.engines.remote_bounds import TooMuch, Watch
from tests.fake_server import Fault, Handler, serving

ASK = {"decode.max_new_tokens": 4}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMENTS_TIMEOUT", "0.4")
    monkeypatch.setenv("MOMENTS_RETRIES", "0")
    monkeypatch.setattr(remote_bounds, "TICK_S", 0.05)


def for_ever(each: Any, pause: float = 0.01, before: Any = None) -> Fault:
    """each(handler, body): what is sent again and again, until nobody listens or 30 s have passed."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        handler.begin()
        if before is not None:
            before(handler, body)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            each(handler, body)
            handler.wfile.flush()
            time.sleep(pause)
        return True

    return fault


def delta(**fields: Any) -> Any:
    choice = {"index": 0, "finish_reason": None, "delta": fields}
    return lambda handler, body: handler.event(
        {"id": "x", "object": "chunk", "created": 1, "model": "tiny", "choices": [choice]}
    )


def raw(data: bytes) -> Any:
    return lambda handler, body: handler.wfile.write(data)


def usage(handler: Handler, body: dict[str, Any]) -> None:
    told = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    handler.event({"id": "x", "object": "chunk", "created": 1, "model": "tiny", "choices": [], "usage": told})


def whole(handler: Handler, body: dict[str, Any]) -> None:
    handler.piece("well ", body)
    handler.piece(None, body, "stop")


def heads(handler: Handler, body: dict[str, Any]) -> bool:
    """Headers that come byte by byte and never end."""
    try:
        for at in range(1000):
            handler.connection.sendall(b"HTTP/1.1 200 OK\r\n"[at : at + 1] or b"x-a: b\r\n")
            time.sleep(0.02)
    except OSError:
        pass
    return True


NEVER: dict[str, Fault] = {
    "empty": for_ever(delta(content=""), 0.005),
    "role": for_ever(delta(role="assistant"), 0.3),
    "thought": for_ever(delta(reasoning_content="hm"), 0.001),
    "usage": for_ever(usage, 0.05),
    "ping": for_ever(raw(b": ping\n\n"), 0.05),
    "dripped": for_ever(raw(b"d"), 0.05),
    "flood": for_ever(raw(b"data: " + b"x" * (1 << 16)), 0.0),
    "lines": for_ever(raw(b": " + b"x" * (1 << 16) + b"\n"), 0.0),
    "text": for_ever(delta(content="on "), 0.001),
    "heads": heads,
}


@pytest.mark.parametrize("kind", NEVER)
def test_a_server_that_never_ends_is_given_up(kind: str) -> None:
    with serving(faults=[NEVER[kind]]) as server:
        pipe = lm.load(f"{server.address}#tiny", plan=ASK)
        start = time.monotonic()
        with pytest.raises(EngineError, match=r"http://127\.0\.0\.1"):
            pipe("x")
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "after", [for_ever(delta(content="more "), 0.001, whole), for_ever(usage, 0.02, whole), for_ever(raw(b": p\n\n"), 0.05, whole),
              for_ever(raw(b""), 0.05, whole)]
)  # fmt: skip
def test_what_comes_after_the_end_is_no_part_of_the_answer(after: Fault) -> None:
    with serving(faults=[after]) as server:
        start = time.monotonic()
        assert lm.load(f"{server.address}#tiny", plan=ASK)("x").text == "well "
        assert time.monotonic() - start < 5


def test_a_list_of_models_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Handler) -> None:
        for_ever(raw(b" "), 0.05)(handler, {})

    monkeypatch.setattr(Handler, "do_GET", drip)
    with serving() as server, pytest.raises(EngineError, match="sent nothing|did not end"):
        lm.load(server.address, plan=ASK)("x")


def test_packed_answers_are_refused_unopened() -> None:
    def packed(handler: Handler, body: dict[str, Any]) -> bool:
        handler.whole(200, b"\x1f\x8b" + b"x" * 100, "text/event-stream", content_encoding="gzip")
        return True

    with serving(faults=[packed]) as server, pytest.raises(EngineError, match="packs its answer"):
        lm.load(f"{server.address}#tiny", plan=ASK)("x")


def test_a_slow_answer_that_goes_on_is_waited_for() -> None:
    with serving(delay=0.3) as server:
        assert lm.load(f"{server.address}#tiny", plan={"decode.max_new_tokens": 5})("a b").text == "b a and so on "


def test_a_watch_bounds_the_whole_as_well() -> None:
    watch = Watch(0.2, 0.4)

    def work() -> Iterator[None]:
        while not watch.given_up.is_set():
            watch.alive()
            time.sleep(0.01)
        return iter(())

    with pytest.raises(TooMuch, match=r"did not end its answer in 0\.4 s"):
        watch.run(work)
