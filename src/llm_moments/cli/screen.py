"""Standard output and standard error while a verb runs: no text from outside steers the terminal, none that it
cannot show ends the command, and a stream that was closed before the start is empty."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_moments.base.visible import ESCAPE, visible


class Screen:
    """A stream of text that shows what is written to it, whoever writes: see `visible`. `raw` is the stream below."""

    def __init__(self, raw: Any):
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would pass by
            raise AttributeError(name)
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text is written here, not {type(text).__name__}")
        self.raw.write(visible(text, keep="\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Any:
        return iter(self.raw)


def raw(stream: Any) -> Any:
    """The stream below, for what steers the terminal on purpose: colours and bars."""
    return stream.raw if isinstance(stream, Screen) else stream


@contextmanager
def screens() -> Iterator[None]:
    """Both streams as `Screen`s; what stood in their place comes back in the end."""
    _reopen()
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ESCAPE)
    sys.stdout, sys.stderr = (Screen(raw(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _reopen() -> None:
    """Streams that the caller has closed lead nowhere: the next file that is opened must not take their number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            made = os.open(os.devnull, os.O_RDWR)
            if made != number:
                os.dup2(made, number)
                os.close(made)
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
