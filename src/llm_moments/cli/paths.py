"""What options and arguments that take a path are read by: `~` is the home folder, however it has come here
(`--data=~/a.csv` and a MOMENTS_* variable pass by the shell, and so do settings in TOML)."""

from __future__ import annotations

import json
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


def json_object(file: Path, option: str) -> str:
    """The JSON object in a file, as one line of it; InputError names the option for what is none."""

    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{option} {file}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{option} {file} should hold a JSON object")
    return json.dumps(found)
