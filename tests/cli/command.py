"""The command `moments` in this process: the same words in and out as of a process of its own, without seconds of imports."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from typing import Any
from unittest import mock

from llm_moments.cli import main

QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as Python starts


def moments(
    *words: object, stdin: str | None = None, code: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """code: what it must end with; None: any."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO((stdin or "").encode()), "utf-8")
    argv = ["moments", *map(str, words)]
    with (
        mock.patch.dict(os.environ, env),
        mock.patch.multiple(sys, argv=argv, stdin=given, stdout=out, stderr=err),
        mock.patch.multiple(warnings, formatwarning=warnings.formatwarning),
        warnings.catch_warnings(),
    ):
        _as_python_starts(err)
        try:
            main.main()
            found: object = 0
        except SystemExit as stop:
            found = stop.code or 0
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    assert code is None or found == code, said[1]
    return subprocess.CompletedProcess(argv, found, *said)  # type: ignore[arg-type]


def process(*words: object, stdin: str | None = None, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "llm_moments.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin or "", env={**os.environ, **env})
    assert done.returncode == code, done.stderr
    return done


def _as_python_starts(err: Any) -> None:
    warnings.resetwarnings()
    for kind in QUIET:
        warnings.simplefilter("ignore", kind)

    def shown(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        err.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = shown
