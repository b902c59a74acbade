"""Bounds on what a server may send, and for how long: one that never ends is not listened to for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

LINE = 1 << 20  # bytes without the end of a line
BYTES = 8 << 20  # of an answer that is no stream, such as an error
EACH = 16 << 10  # and for each token that was asked for
SLOWEST_S = 10.0  # seconds a token, over the whole answer
AFTER_S = 5.0  # seconds in which usage may follow the end of an answer
TICK_S = 0.25

_Made = TypeVar("_Made")


class TooMuch(Exception):
    """A server sends more, or for longer, than an answer can need."""


class Budget(threading.local):
    """Of the thread that asks: bytes a response may have, and whether it is still wanted."""

    most: int = BYTES
    wanted: Callable[[], bool] = staticmethod(lambda: True)


class Bounded:
    """A response's bytes as they come, no more than the budget of the thread that began to read them.

    It is what httpx calls a SyncByteStream: those have `__iter__` and `close`.
    """

    def __init__(self, stream: Any, budget: Budget):
        self.stream, self.most, self.wanted = stream, budget.most, budget.wanted

    def __iter__(self) -> Iterator[bytes]:
        seen = line = 0
        for data in self.stream:
            seen += len(data)
            at = data.rfind(b"\n")
            line = line + len(data) if at < 0 else len(data) - at
            if seen > self.most or line > LINE:
                raise TooMuch(f"sent {seen:,} bytes{' without the end of a line' if line > LINE else ''}, and goes on")
            if not self.wanted():
                raise TooMuch("is not listened to any more")
            yield data

    def close(self) -> None:
        self.stream.close()


def bounding(budget: Budget) -> Callable[[Any], None]:
    """For an httpx client's `event_hooks`: bounds each response; packed ones, which grow when opened, are not read."""

    def bound(response: Any) -> None:
        packed = response.headers.get("content-encoding", "identity")
        if packed.lower() not in ("identity", ""):
            raise TooMuch(f"packs its answer ({packed:.20}), which was not asked for")
        # The client's library has this class under several names (httpx, httpx2), and asks for it.
        base = next(cls for cls in type(response.stream).__mro__ if cls.__name__ == "SyncByteStream")
        response.stream = type("Bound", (Bounded, base), {})(response.stream, budget)

    return bound


class Watch:
    """Seconds since something came that belongs to an answer, for whoever waits for it in another thread."""

    def __init__(self, patience: float, longest: float):
        """patience: seconds without any of it; longest: seconds of all."""
        self.patience, self.longest = patience, longest
        self.start = self.last = time.monotonic()
        self.given_up = threading.Event()
        self.done: Callable[[], Any] = lambda: None

    def alive(self) -> None:
        self.last = time.monotonic()

    def over(self) -> str:
        """What is wrong by now, or ''."""
        now = time.monotonic()
        if now - self.last > self.patience:
            return f"sent nothing of an answer for {self.patience:g} s"
        return f"did not end its answer in {self.longest:g} s" if now - self.start > self.longest else ""

    def run(self, work: Callable[[], _Made]) -> _Made:
        """What `work` gives, in a thread of its own; TooMuch once it takes too long. done: gives what is whole already,
        though the server goes on, once AFTER_S have passed; else None."""
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def inside() -> None:
            try:
                heard.put((work(), None))
            except BaseException as error:  # of this thread; the caller's raises it
                heard.put((None, error))

        threading.Thread(target=inside, daemon=True).start()
        while True:
            try:
                made, error = heard.get(timeout=min(TICK_S, self.patience))
            except queue.Empty:
                whole = self.done() if time.monotonic() - self.last > min(AFTER_S, self.patience) else None
                said = self.over()
                if whole is not None or said:
                    self.given_up.set()
                if whole is not None:
                    return whole  # type: ignore[no-any-return]
                if said:
                    raise TooMuch(said) from None
                continue
            if error is not None:
                raise error
            return made  # type: ignore[no-any-return]
