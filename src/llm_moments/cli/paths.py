"""What options and arguments that take a path are read by: `~` is the home folder, however it has come here
(`--data=~/a.csv` and a MOMENTS_* variable pass by the shell, and so do settings in TOML)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError


def path(value: Any) -> Path:
    """For options of type Path; the name is what `--help` shows."""
    return Path(text(value))


def text(value: Any) -> str:
    """For those that may also be something else than a path: a hub id, an address, `-`."""
    told = os.path.expanduser(os.fspath(value))
    if "\0" in told:
        raise InputError(f"{told!r} is no path: it has a NUL in it")
    return told
