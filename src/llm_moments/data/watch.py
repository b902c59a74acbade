"""Whether a file of examples is still what it was when it was begun: rows of a changed one would be doubled or lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError


class Watch:
    """Begin it before the file is read. content: also look into it, so that a mere touch is no change; it is the
    `fingerprint` then."""

    def __init__(self, path: str, *, content: bool):
        from llm_moments.data.readers import fingerprint

        self.path = Path(path)
        self._seen = _state(self.path)
        self.content = fingerprint(path) if content else ""

    def check(self, kept: str, *, inside: bool = True) -> None:
        """DataError if it has changed. inside: of a folder, too, every file of which is looked at."""
        if (self.path.is_dir() and not inside) or (now := _state(self.path)) == self._seen:
            return
        if self.content and now is not None:
            from llm_moments.data.readers import fingerprint

            if fingerprint(self.path) == self.content:
                self._seen = now
                return
        raise DataError(f"{self.path} was changed while it was read: rows would be doubled or missing. {kept}")


def _state(path: Path) -> Any:
    """None where it is gone, or where there is nothing to tell a change by, as of a pipe."""
    if path.is_dir():
        return [(str(file), *_told(os.stat(file))) for file in sorted(path.rglob("*")) if file.is_file()]
    return _told(path.stat()) if path.is_file() else None


def _told(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
