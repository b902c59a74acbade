"""Settings from a TOML file: `--config FILE` or MOMENTS_CONFIG, for every verb.

Keys at the top hold for every verb that has such an option, those of a table such as [improve] for that
verb alone. Names are the options' without dashes in front: `max-drop = 0.005` or `max_drop = 0.005`.
What is said on the command line or by a MOMENTS_* variable comes first.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError


def take(context: Any, file: str | None) -> str | None:
    """The callback of the eager option `--config`: it is read before the others look for their defaults."""
    if file is not None:
        context.default_map = settings(Path(file), context)
    return file


def settings(file: Path, context: Any) -> dict[str, Any]:
    """What the file says for this verb, by parameter; InputError names the file, the key and a near one."""
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"--config {file} is not TOML: {error}") from error
    verb = context.command
    verbs = dict(context.parent.command.commands) if context.parent else {}
    own: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            if key not in verbs:
                raise InputError(f"--config {file}: there is no verb [{key}]{_near(key, verbs)}")
            if key == verb.name:
                own |= {_known(file, name, v, _options(verb)): v for name, v in value.items()}
    everywhere = {name: option for each in verbs.values() for name, option in _options(each).items()}
    shared = {_known(file, key, v, everywhere): v for key, v in found.items() if not isinstance(v, dict)}
    mine = _options(verb)
    merged = {name: value for name, value in shared.items() if name in mine} | own
    return {mine[name].name: [v] if mine[name].multiple and isinstance(v, str) else v for name, v in merged.items()}


def _options(command: Any) -> dict[str, Any]:
    """Long names, without the dashes, of what a file may set."""
    return {
        long[2:]: p
        for p in command.params
        if p.param_type_name == "option"
        for long in p.opts
        if long.startswith("--") and long not in ("--config", "--help", "--trust-remote-code")
    }


def _known(file: Path, key: str, value: Any, options: dict[str, Any]) -> str:
    name = key.replace("_", "-")
    if name not in options:
        raise InputError(f"--config {file}: there is no setting {key!r} here{_near(name, options)}")
    if isinstance(value, dict) or (isinstance(value, list) and not options[name].multiple):
        raise InputError(f"--config {file}: {key} is a single value, not {value!r}")
    return name


def _near(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""
