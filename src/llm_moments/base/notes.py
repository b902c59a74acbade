"""What is done otherwise than a folder or file says is told: once a process, as a warning, which the command line writes
on stderr as `note: …`."""

from __future__ import annotations

import contextvars
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds that nobody needs to be told of
_SAID: set[str] = set()
_TELL: Callable[[str], None] | None = None


class Note(UserWarning):
    """Nothing failed; the answers are not quite what was asked for, and why."""


def note(said: str) -> None:
    if said not in _SAID:
        _SAID.add(said)
        warnings.warn(said, Note, stacklevel=2)


def tell_by(tell: Callable[[str], None] | None) -> None:
    """What takes long is told by this; None, as it is at first: it is not. It may be called in a thread of its own."""
    global _TELL
    _TELL = tell


@contextmanager
def slowly(said: str) -> Iterator[None]:
    """A block that may take long: what it does is told, once a process, when it has taken longer than PATIENCE."""
    if _TELL is None or said in _SAID:
        yield
        return
    timer = threading.Timer(PATIENCE, contextvars.copy_context().run, (_told, _TELL, said))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _told(tell: Callable[[str], None], said: str) -> None:
    if said not in _SAID:
        _SAID.add(said)
        tell(said)


def shown(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """As `warnings.formatwarning`, for the command line: a note is its text alone."""
    if issubclass(category, Note):
        return f"note: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
