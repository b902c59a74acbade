"""What is done otherwise than a folder or file says is told: once a process, as a warning, which the command line writes
on stderr as `note: …`."""

from __future__ import annotations

import warnings

_SAID: set[str] = set()


class Note(UserWarning):
    """Nothing failed; the answers are not quite what was asked for, and why."""


def note(said: str) -> None:
    if said not in _SAID:
        _SAID.add(said)
        warnings.warn(said, Note, stacklevel=2)


def shown(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """As `warnings.formatwarning`, for the command line: a note is its text alone."""
    if issubclass(category, Note):
        return f"note: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
