"""A model behind any OpenAI-compatible server (vLLM, SGLang, llama.cpp's, …), asked through the official client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError, Unfinished
from llm_moments.core import NULL, Recorder
from llm_moments.engines.generator import Decoding, Generated, Generator, OnText, Prompt
from llm_moments.engines.remote_stream import Answered, Server, Stopped

PHASES = ("queue", "prefill", "decode")


class Remote(Generator):
    """`forward.streams` prompts are asked at a time. MOMENTS_TIMEOUT (seconds of silence) and MOMENTS_RETRIES bound
    the patience; the key is MOMENTS_API_KEY or OPENAI_API_KEY. Only the address of the model is contacted.

    Time is read from the stream. queue: no answer had begun to be made yet (up to the headers; where the server
    tells its own prefill time, as llama.cpp's does, up to its start); prefill: up to the first token; decode: at
    least one answer was coming. A moment in which several answers are on their way counts once, as the latest phase.
    """

    name: ClassVar[str] = "remote"
    extra: ClassVar[str] = "remote"
    package: ClassVar[str] = "openai"
    precisions: ClassVar[tuple[str, ...]] = ("as-is",)
    takes: ClassVar[tuple[str, ...]] = ("streams",)
    decodes: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "seed", "stop")
    scoring: ClassVar[bool] = False
    formats: ClassVar[tuple[str, ...]] = ("remote",)
    cpu_only: ClassVar[bool] = False
    builds: ClassVar[bool] = False

    def __init__(self, server: Server, streams: int = 1):
        self.server, self.streams = server, streams

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> Remote:
        if model.format != "remote":
            raise EngineError(
                "the engine remote asks a server; give its address as the model: http://HOST:PORT/v1#NAME"
            )
        if device != "auto":
            raise EngineError(f"a server has its own device; leave out --device {device}")
        return cls(Server(model.config["address"], model.config["name"]), int(settings.get("streams", 1)))

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        """Unfinished, with the answers before the first that failed, when the server does not go on."""
        if any(not p.messages and not p.text for p in prompts):
            raise EngineError("a server is asked with messages or a text, not with token ids or features")
        if prompts:
            _ = self.server.name  # asked for once, before there are several threads
        calls = _Calls(self.server, prompts, decoding, self.streams, on_text is not None)
        try:
            for at, piece in calls.pieces():
                on_text(at, piece)  # type: ignore[misc]
        finally:
            calls.stop.set()
            _tell(recorder, calls.answered)
        if calls.failed:
            at, error = min(calls.failed.items())
            done = [_generated(calls.answered[i]) for i in range(at)]
            raise Unfinished(f"{error} (asked: {_begin(prompts[at])!r})", done) from error
        return [_generated(calls.answered[at]) for at in range(len(prompts))]

    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        raise EngineError("a server does not tell the log-probability of every token; use an engine that runs here")

    def forget(self) -> None:
        """What the server keeps of earlier prompts is its own; it cannot be told to drop it."""

    def close(self) -> None:
        self.server.close()


class _Calls:
    """Prompts asked by a few threads; what they hear comes to the caller's thread through a queue.

    The threads are daemons: one that waits for a server which hangs does not keep the program from ending.
    """

    def __init__(self, server: Server, prompts: Sequence[Prompt], decoding: Decoding, streams: int, telling: bool):
        self.server, self.prompts, self.decoding, self.telling = server, prompts, decoding, telling
        self.stop = threading.Event()
        self.answered: dict[int, Answered] = {}
        self.failed: dict[int, EngineError] = {}
        self._todo = iter(range(len(prompts)))
        self._lock = threading.Lock()
        self._heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._workers = min(streams, len(prompts))

    def pieces(self) -> Iterator[tuple[int, str]]:
        """(prompt, new text) as it comes, until all are answered, or all before the first that failed."""
        for _ in range(self._workers):
            threading.Thread(target=self._work, daemon=True).start()
        while len(self.answered) < len(self.prompts):
            if self.failed and all(at in self.answered for at in range(min(self.failed))):
                return
            at, told = self._heard.get()
            if isinstance(told, str):
                yield at, told
            elif isinstance(told, Answered):
                self.answered[at] = told
            elif isinstance(told, EngineError):
                self.failed[at] = told
            else:
                raise told

    def none_further(self) -> None:
        with self._lock:
            self._todo = iter(())

    def _work(self) -> None:
        while not self.stop.is_set():
            with self._lock:
                at = next(self._todo, None)
            if at is None:
                return
            try:
                tell = (lambda piece, at=at: self._heard.put((at, piece))) if self.telling else None
                self._heard.put((at, self.server.answer(self.prompts[at], self.decoding, tell, self.stop)))
            except Stopped:
                return
            except Exception as error:  # of this thread; the caller's raises it
                self.none_further()  # before this thread takes the next one
                self._heard.put((at, error))


def _generated(one: Answered) -> Generated:
    first = None if one.first is None else one.first - one.sent
    later = None if one.first is None else one.end - one.first
    return Generated(
        None, one.text, one.finish or "stop", first, later, one.reused, read=one.read, new=one.new
    )  # fmt: skip


def _begin(prompt: Prompt) -> str:
    text = prompt.messages[-1][1] if prompt.messages else prompt.text
    return text if len(text) <= 40 else text[:40] + "…"


def _tell(recorder: Recorder, answered: Mapping[int, Answered]) -> None:
    if not recorder.active or not answered:
        return
    all_of = list(answered.values())
    seconds = phases([spans(one) for one in all_of])
    new, read = _sum([a.new for a in all_of]), _sum([a.read for a in all_of])
    reused = _sum([a.reused for a in all_of])
    recorder.spent("queue", seconds[0], len(all_of))
    recorder.spent("prefill", seconds[1], len(all_of), **_known(tokens=read, reused_tokens=reused))
    recorder.spent("decode", seconds[2], len(all_of), pieces=sum(len(a.pieces) for a in all_of), **_known(tokens=new))
    recorder.count(**_known(new_tokens=new, prompt_tokens=read))
    for one in all_of:
        told = _known(tokens=one.new, first_s=None if one.first is None else one.first - one.sent)
        recorder.ran("prompt", one.sent, one.end - one.sent, **told)


def _sum(values: Sequence[int | None]) -> int | None:
    """None where any of them was not told: half a sum is no sum."""
    told = [v for v in values if v is not None]
    return sum(told) if len(told) == len(values) else None


def _known(**counts: float | None) -> dict[str, float]:
    return {name: value for name, value in counts.items() if value is not None}


def spans(one: Answered) -> tuple[float, float, float, float]:
    """Where queue, prefill and decode of an answer begin, and where it ends."""
    first = one.end if one.first is None else one.first
    began = one.accepted if one.prefill_s is None else first - one.prefill_s
    return one.sent, min(max(began, one.sent), first), first, one.end


def phases(answers: Sequence[tuple[float, float, float, float]]) -> list[float]:
    """Seconds of queue, prefill and decode: each moment once, as the latest phase that any answer is in."""
    edges = sorted({edge for spans in answers for edge in spans})
    seconds = [0.0] * len(PHASES)
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [p for s in answers for p in range(len(PHASES)) if s[p] <= low and high <= s[p + 1]]
        if inside:
            seconds[max(inside)] += high - low
    return seconds
