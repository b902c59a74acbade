"""One answer of an OpenAI-compatible server, read from its stream: what it says, when, and what can go wrong."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from llm_moments.base.errors import EngineError, EngineMissing, InputError
from llm_moments.engines.generator import Decoding, Finish, Prompt
from llm_moments.engines.remote_bounds import BYTES, EACH, SLOWEST_S, Budget, TooMuch, Watch, bounding

TIMEOUT_S = 120.0  # of silence: a slow machine may read a long prompt for a minute before its first token
CONNECT_S = 10.0
RETRIES = 2
LONGEST_WAIT_S = 30.0
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses of a server that may answer the next time
KEYS = ("MOMENTS_API_KEY", "OPENAI_API_KEY")
AFTER = 16  # pieces after the end of an answer in which usage may come
SAID = 300  # characters of a server's own words that a message repeats


class Stopped(Exception):
    """Nobody wants this answer any more."""


class _Failed(Exception):
    """again: whether the same question may be answered the next time. wait: seconds the server asked for."""

    def __init__(self, said: str, again: bool, wait: float | None = None):
        super().__init__(said)
        self.again, self.wait = again, wait


@dataclass
class Answered:
    """Clock readings (perf_counter, seconds) of one answer and what the server counted; None: it did not say."""

    sent: float = 0.0
    accepted: float = 0.0  # when the headers came
    first: float | None = None  # when the first token came
    end: float = 0.0
    pieces: list[str] = field(default_factory=list)
    finish: Finish | None = None
    new: int | None = None
    read: int | None = None
    reused: int | None = None
    prefill_s: float | None = None  # as the server itself measured it (llama.cpp does)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Server:
    """A server's address, and how it is asked. The key is taken from the environment and kept nowhere else."""

    def __init__(self, address: str, name: str = ""):
        try:
            import openai
        except ImportError as error:
            raise EngineMissing("openai", "remote") from error
        self.openai, self.address, self._name = openai, address, name
        self.timeout = _from_environment("MOMENTS_TIMEOUT", TIMEOUT_S, low=0.01)
        self.retries = int(_from_environment("MOMENTS_RETRIES", RETRIES))
        self._key = next((key for name in KEYS if (key := os.environ.get(name, "").strip())), "")
        self._left_out: set[str] = set()  # what this server has said it does not know
        self._budget = Budget()
        self.patience = self.timeout + min(CONNECT_S, self.timeout)  # seconds in which nothing of an answer comes
        limit = openai.Timeout(self.timeout, connect=min(CONNECT_S, self.timeout))
        self.client = openai.OpenAI(
            api_key=self._key or "none", base_url=address, timeout=limit, max_retries=0,
            # A redirect, or a proxy before this very machine, would be another address than the one that was given.
            http_client=openai.DefaultHttpxClient(
                timeout=limit, follow_redirects=False, trust_env=urlsplit(address).hostname not in LOOPBACK,
                event_hooks={"response": [bounding(self._budget)]}, headers={"accept-encoding": "identity"},
            ),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The model's name: as given after the #, or the only one that the server has."""
        if not self._name:
            known = self._tried(self._models, None)
            if len(known) != 1:
                raise EngineError(
                    f"{self.address} has {len(known)} models ({', '.join(known[:8]) or 'none'}); "
                    f"name one: {self.address}#NAME"
                )
            self._name = known[0]
        return self._name

    def _models(self) -> list[str]:
        try:
            watch = Watch(self.patience, self.patience)
            return watch.run(lambda: [str(one.id) for one in self._asking(watch, BYTES).models.list().data])
        except Exception as error:
            raise self._why(error) from error

    def _asking(self, watch: Watch, most: int) -> Any:
        """The client, in the thread that asks: it reads no more bytes than that, and none when nobody waits."""
        self._budget.most, self._budget.wanted = most, lambda: not watch.given_up.is_set()
        return self.client

    # -- one answer

    def answer(
        self, prompt: Prompt, decoding: Decoding, tell: Callable[[str], None] | None, stop: threading.Event
    ) -> Answered:
        """tell: is given each piece as it comes; what has been told cannot be asked for again, so it is not."""
        told = False

        def once() -> Answered:
            found = Answered()
            watch = Watch(self.patience, self.patience + SLOWEST_S * decoding.max_new_tokens)
            watch.done = lambda: found if found.finish is not None else None

            def read() -> Answered:
                nonlocal told
                self._asking(watch, BYTES + EACH * decoding.max_new_tokens)
                for piece in self._pieces(prompt, decoding, found, stop, watch):
                    if tell is not None and not watch.given_up.is_set():
                        told = True
                        tell(piece)
                return found

            try:
                made = watch.run(read)
            except TooMuch as error:
                raise self._why(error, found) from error
            made.end = made.end or time.perf_counter()
            return made

        return self._tried(once, stop, lambda: not told)

    def _tried(self, ask: Callable[[], Any], stop: threading.Event | None, allowed: Any = lambda: True) -> Any:
        """Asks again, a bounded number of times and each time later, what may be answered the next time."""
        for tries in range(1, self.retries + 2):
            try:
                return ask()
            except _Failed as failed:
                if not failed.again or not allowed() or tries > self.retries:
                    more = f" (tried {tries} times)" if tries > 1 else ""
                    raise EngineError(f"{self._clean(str(failed))}{more}") from failed
                wait = failed.wait if failed.wait is not None else 0.5 * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
                if stop is None:
                    time.sleep(min(wait, LONGEST_WAIT_S))
                elif stop.wait(min(wait, LONGEST_WAIT_S)):
                    raise Stopped from None

    def _pieces(self, prompt: Prompt, decoding: Decoding, found: Answered, stop: threading.Event, watch: Watch) -> Any:
        most = 4 * decoding.max_new_tokens + 64  # a server that never ends is not listened to for ever
        found.sent, count, after = time.perf_counter(), 0, 0
        try:
            with self._opened(prompt, decoding) as stream:
                found.accepted = time.perf_counter()
                watch.alive()
                self._is_stream(stream.response)
                for chunk in stream:
                    if stop.is_set() or watch.given_up.is_set():
                        raise Stopped
                    ended, count = found.finish is not None, count + 1
                    piece, grew = _read(chunk, found)
                    if grew:
                        watch.alive()
                    if ended and (after := after + 1) > AFTER:
                        break
                    if count > most and not ended:
                        raise _Failed(
                            f"{self.address} goes on after decode.max_new_tokens = {decoding.max_new_tokens}", False
                        )
                    if piece and not ended:
                        found.pieces.append(piece)
                        yield piece
        except (_Failed, Stopped, GeneratorExit):
            raise
        except Exception as error:
            if found.finish is None:  # what is broken after the end of an answer does not matter to it
                raise self._why(error, found) from error
        found.end = time.perf_counter()
        if found.finish is None:
            raise _Failed(self._unfinished(found), True)

    def _unfinished(self, found: Answered) -> str:
        if found.pieces:
            return f"{self.address} stopped in the middle of an answer, after {len(found.pieces)} pieces"
        return (
            f"{self.address} answered without a choice, an empty stream; its own log may say why "
            "(some servers end so when a prompt is longer than their context)"
        )

    def _opened(self, prompt: Prompt, decoding: Decoding) -> Any:
        while True:
            try:
                return self._create(prompt, decoding)
            except (self.openai.BadRequestError, self.openai.UnprocessableEntityError) as error:
                said = f"{error} {error.body}"
                unknown = [name for name, word in OPTIONAL if word in said and name not in self._left_out]
                if not unknown:
                    raise
                self._left_out.update(unknown)

    def _create(self, prompt: Prompt, decoding: Decoding) -> Any:
        most = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        chosen: dict[str, Any] = {
            "model": self.name, "stream": True, most: decoding.max_new_tokens, "temperature": decoding.temperature,
            "top_p": decoding.top_p,
        }  # fmt: skip
        if "stream_options" not in self._left_out:
            chosen["stream_options"] = {"include_usage": True}
        neutral = dict(PENALTIES)
        if decoding.temperature > 0:
            chosen["seed"] = decoding.seed
            neutral |= CUTS
        chosen["extra_body"] = {k: v for k, v in neutral.items() if k not in self._left_out}
        if decoding.stop:
            chosen["stop"] = list(decoding.stop)
        if prompt.messages:
            messages: Any = [{"role": role, "content": content} for role, content in prompt.messages]
            return self.client.chat.completions.create(messages=messages, **chosen)
        return self.client.completions.create(prompt=prompt.text, **chosen)

    def _is_stream(self, response: Any) -> None:
        kind = str(response.headers.get("content-type", ""))
        if "event-stream" not in kind:
            begin = next(iter(response.iter_bytes()), b"")[:SAID].decode("utf-8", "replace")
            raise _Failed(f"{self.address} answered no stream but {kind or 'something'}: {begin!r:.100}", False)

    # -- what went wrong

    def _why(self, error: Exception, found: Answered | None = None) -> _Failed:
        api = self.openai
        if isinstance(error, EngineError):
            raise error
        if (much := _caused(error)) is not None:
            after = f" after {len(found.pieces)} pieces" if found and found.pieces else ""
            return _Failed(
                f"{self.address} {much}{after}; it may hang, or be no server of texts (MOMENTS_TIMEOUT)", False
            )
        if isinstance(error, api.APITimeoutError):
            after = f" in the middle of an answer, after {len(found.pieces)} pieces" if found and found.pieces else ""
            return _Failed(
                f"{self.address} said nothing for {self.timeout:g} s{after}; it hangs, or needs longer: "
                "set MOMENTS_TIMEOUT to more seconds", True
            )  # fmt: skip
        if isinstance(error, api.APIConnectionError):
            if found and found.accepted:
                return _Failed(f"{self._unfinished(found)} ({_root(error)})", True)
            return _Failed(f"{self.address} cannot be reached ({_root(error)}). Is the server running?", True)
        if isinstance(error, api.APIStatusError):
            return self._refused(error)
        if isinstance(error, api.APIError):  # in the stream itself
            return _Failed(f"{self.address} failed while it answered: {error.message!s:.{SAID}}", True)
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return _Failed(f"{self.address} answered what is no JSON: {getattr(error, 'doc', error)!r:.100}", True)
        return _Failed(f"{self.address} answered what is no completion ({type(error).__name__}: {error!s:.100})", True)

    def _refused(self, error: Any) -> _Failed:
        status = error.status_code
        cure = {
            401: ". Set MOMENTS_API_KEY", 403: ". Does MOMENTS_API_KEY belong to this server?",
            404: ". Does the address end as the server wants it (often /v1), and is the model's name right?",
        }.get(status, "")  # fmt: skip
        if 300 <= status < 400:
            cure = f". It points to {error.response.headers.get('location', 'another address')!r:.100}; give that one"
        return _Failed(
            f"{self.address} answered HTTP {status}: {_message(error)}{cure}", status in AGAIN, _asked(error)
        )

    def _clean(self, said: str) -> str:
        """One printable line without the key, which some servers repeat."""
        line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
        return line.replace(self._key, "***") if self._key else line

    def close(self) -> None:
        self.client.close()


LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Settings of the servers' own that are not neutral where nothing is said: llama-cpp-python's penalty is 1.1.
PENALTIES: dict[str, float] = {"repeat_penalty": 1.0, "repetition_penalty": 1.0}
CUTS: dict[str, float] = {"top_k": 0, "min_p": 0.0}
# What is left out, or said otherwise, for a server whose refusal names the word beside it.
OPTIONAL = (
    ("stream_options", "stream_options"), ("max_tokens", "max_completion_tokens"),
    *((name, name) for name in (*PENALTIES, *CUTS)),
)  # fmt: skip


def _caused(error: BaseException | None) -> TooMuch | None:
    while error is not None and not isinstance(error, TooMuch):
        error = error.__cause__
    return error


def _read(chunk: Any, found: Answered) -> tuple[str, bool]:
    """The new text of one chunk, and whether it brings an answer further; usage, timings and the reason of the end go
    into `found`."""
    usage, choices = getattr(chunk, "usage", None), getattr(chunk, "choices", None)
    if usage is not None:
        found.new, found.read = _count(usage, "completion_tokens"), _count(usage, "prompt_tokens")
        found.reused = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    timings = getattr(chunk, "timings", None)
    if isinstance(timings, Mapping) and isinstance(timings.get("prompt_ms"), int | float):
        found.prefill_s = timings["prompt_ms"] / 1000
    if not choices:
        if choices is None and usage is None:
            raise _Failed(f"the server answered what is no completion: {chunk!r:.100}", True)
        return "", False
    choice = choices[0]
    inner = getattr(choice, "delta", choice)
    text = getattr(inner, "content", None) if inner is not choice else getattr(choice, "text", None)
    thought = getattr(inner, "reasoning_content", None)
    if text is not None and not isinstance(text, str):
        raise _Failed(f"the server answered {text!r:.60} where a text belongs", True)
    if (text or thought) and found.first is None:
        found.first = time.perf_counter()
    if reason := getattr(choice, "finish_reason", None):
        found.finish = _finish(reason)
    return text or "", bool(text or thought or reason)


def _finish(reason: Any) -> Literal["stop", "length"]:
    return "length" if reason == "length" else "stop"


def _count(holder: Any, name: str) -> int | None:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _message(error: Any) -> str:
    """The server's own words: OpenAI's {"error": {"message"}}, FastAPI's {"detail"}, or the body as it is."""
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        body = inner.get("message") or inner.get("detail") or inner if isinstance(inner, Mapping) else inner
    return f"{str(body or error.message):.{SAID}}"


def _asked(error: Any) -> float | None:
    """Seconds of a Retry-After header, where it gives seconds."""
    try:
        wait = float(error.response.headers.get("retry-after"))
    except (TypeError, ValueError):
        return None
    return max(wait, 0.0) if wait == wait else None


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{error!s:.120}" or type(error).__name__


def _from_environment(name: str, default: float, low: float = 0.0) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= 1e6:
        raise InputError(f"{name} is a number from {low:g} on, not {text!r}")
    return value
