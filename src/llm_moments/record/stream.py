"""Answers piece by piece as they are made, and a conversation that keeps its history."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llm_moments.base.errors import DataError, InputError
from llm_moments.core import NULL, Pipeline
from llm_moments.core.usage import Usage
from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, Session
from llm_moments.steps.decode import Decode


class _Stop(BaseException):
    """Raised inside the engine when nobody wants the rest; no `except Exception` on its way takes it."""


def generates(pipe: Pipeline) -> bool:
    """Whether its answers are made token by token, so that they can be had piece by piece."""
    return any(isinstance(step, Decode) for step in pipe.steps)


class Stream:
    """The answer to one input, as an iterator of its pieces; together they are the answer's text.

    The engine works in a thread of its own. `close` (or an interruption) ends the answer at its next token.
    text: what came so far; answer: the task's answer once it is whole, else None; first_s: seconds to the first piece.
    """

    def __init__(self, pipe: Pipeline, value: Any, recorder: Any = NULL):
        if not generates(pipe):
            raise InputError(f"{pipe.model.name} gives its answers whole: the task {pipe.task.name} makes no text")
        self.text, self.answer, self.seconds = "", None, 0.0
        self.first_s: float | None = None
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._unwanted = threading.Event()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._work, args=(self._tapped(pipe), value, recorder), daemon=True)
        self._thread.start()

    def _tapped(self, pipe: Pipeline) -> Pipeline:
        """The same pipeline with a decode step that tells its text; the caller's own is left as it is."""
        step = copy.copy(next(s for s in pipe.steps if isinstance(s, Decode)))
        step.on_text = self._told
        return pipe.replace(step.name, step)

    def _told(self, at: int, piece: str) -> None:
        if self._unwanted.is_set():
            raise _Stop
        self._heard.put(piece)

    def _work(self, pipe: Pipeline, value: Any, recorder: Any) -> None:
        try:
            self._heard.put((next(pipe.run([value], recorder)),))
        except BaseException as error:  # of this thread; the reader's raises it
            self._heard.put(error)

    def __iter__(self) -> Iterator[str]:
        try:
            while self.answer is None:
                told = self._heard.get()
                if isinstance(told, BaseException):
                    raise told
                piece = told if isinstance(told, str) else self._rest(told[0])
                if piece:
                    if self.first_s is None:
                        self.first_s = time.perf_counter() - self._start
                    self.text += piece
                    yield piece
        finally:
            self.close()

    def _rest(self, answer: Any) -> str:
        """What the engine has not told: all of it, where it tells nothing before the end."""
        self.answer = answer
        if answer.text.startswith(self.text):
            return str(answer.text[len(self.text) :])
        self.text = str(answer.text)  # more was told than belongs to the answer, such as a stop string's beginning
        return ""

    def close(self) -> None:
        self._unwanted.set()
        self.seconds = self.seconds or time.perf_counter() - self._start

    def wait(self) -> None:
        """Until the engine has let go; it may be asked again then."""
        self._thread.join()


class Conversation:
    """`for piece in conversation.say("Hello"): …` The history goes along with every question.

    turns: (role, content) pairs so far. dropped: turns that the last question's context had no room for (they stay
    in the history). An answer that is stopped half-way is kept as far as it came.
    """

    def __init__(self, pipe: Pipeline):
        if pipe.task.name != "chat":
            raise InputError(f"{pipe.model.name} is no model to talk with: its task is {pipe.task.name}, not chat")
        self.pipe = pipe
        self.turns: list[tuple[str, str]] = []
        self.dropped = 0
        self._recorder: Recorder | None = None
        self._stream: Stream | None = None

    def say(self, text: str) -> Iterator[str]:
        """The answer, piece by piece. Nothing is asked before the first piece is wanted."""
        if not text.strip():
            raise DataError("a message is empty")
        if self._stream is not None:
            self._stream.wait()
        question = ("user", text)
        self.pipe.task.normalise([*self.turns, question])
        self._recorder = Recorder()
        self._stream = Stream(self.pipe, [*self.turns, question], self._recorder)
        try:
            yield from self._stream
        finally:
            said = self._stream.text
            self.dropped = _cut(self._recorder)
            if said or self._stream.answer is not None:
                self.turns += [question, ("assistant", said)]

    @property
    def usage(self) -> Usage:
        """The bill of the last answer; nothing is told before the first, or of one that was stopped half-way."""
        answer = None if self._stream is None else self._stream.answer
        return Usage() if answer is None else answer.usage

    def reset(self) -> None:
        """Forgets what was said; the system prompt is the plan's and stays."""
        self.turns.clear()
        self.dropped = 0

    def undo(self) -> bool:
        """Forgets the last question and its answer; False where nothing was said."""
        undone = bool(self.turns)
        del self.turns[-2:]
        self.dropped = 0
        return undone

    @property
    def session(self) -> Session | None:
        """Where the last answer's time went; None before the first. Figures: ttft (s), throughput (tokens/s)."""
        if self._recorder is None or self._stream is None:
            return None
        from llm_moments.base.environment import fingerprint

        seconds, tree = self._stream.seconds, self._recorder.tree()
        decode = next((step for _, step in tree.walk() if step.name == "decode"), tree)
        inner = next((step.counts for step in decode.children if step.name == "decode"), {})
        new = decode.counts.get("new_tokens", inner.get("tokens"))
        figures = {
            "ttft": _figure(self._stream.first_s, "s", "no token came"),
            "throughput": _figure(new / seconds if new and seconds else None, "tokens/s", "tokens were not counted"),
        }
        return Session(
            replace(tree, name="answer", calls=1, wall_s=seconds), figures, self.pipe.model.name, self.pipe.task.name,
            self.pipe.plan.to_dict(), fingerprint(),
        )  # fmt: skip


def _cut(recorder: Recorder) -> int:
    """Turns that the context step left out; a server that has the context does not tell."""
    found = (step.counts for _, step in recorder.tree().walk() if step.name == "context")
    return int(sum(counts.get("cut_turns", 0) for counts in found))


def _figure(value: float | None, unit: str, why: str) -> Figure:
    return Figure.none(unit, why) if value is None else Figure(value, unit)
