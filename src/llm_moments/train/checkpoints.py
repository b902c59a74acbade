"""Checkpoints: weights, optimiser, schedule, random states and the position in the data, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from llm_moments.base import schema
from llm_moments.base.atomic import remove, sibling, sync
from llm_moments.base.errors import ArtefactError, DataError, WriteError

STATE, WEIGHTS, OPTIMISER = "state.json", "weights.safetensors", "optimiser.safetensors"
KEPT = 2  # the last ones; should one be damaged, the one before it is gone on from


def save(folder: Path, step: int, module: Any, optimizer: Any, scheduler: Any, position: Mapping[str, Any]) -> Path:
    """Writes `folder/step-N` atomically and drops all but the last few. position: plain data of the loop's own."""
    import torch
    from safetensors.torch import save_file, save_model

    path = folder / f"step-{step:08d}"
    tensors, plain = _flat(optimizer.state_dict())
    with _kept(folder), sibling(path) as made:
        save_model(module, str(made / WEIGHTS))
        save_file({**tensors, "random": torch.get_rng_state()}, str(made / OPTIMISER))
        state = {
            "format": 1, "step": step, "position": dict(position), "optimiser": plain,
            "schedule": _plain(scheduler.state_dict()),
            "files": {name: digest(made / name) for name in (WEIGHTS, OPTIMISER)},
        }  # fmt: skip
        (made / STATE).write_text(json.dumps({**state, "digest": _sealed(state)}), encoding="utf-8")
        for file in made.iterdir():
            sync(file)
    for old in list(found(folder))[KEPT:]:
        remove(old)
    return path


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """What a killed process left half-written is dropped; of a failed write it is said what there still is."""
    for half in folder.glob(".step-*"):
        if not half.name.endswith(".old"):
            shutil.rmtree(half, ignore_errors=True)
    try:
        yield
    except WriteError as error:
        last = next(found(folder), None)
        kept = (
            f"The last checkpoint is kept: {last}; the same command goes on from it." if last else "None was there yet."
        )
        raise WriteError(f"{error} {kept}") from error


def found(folder: Path) -> Iterator[Path]:
    """Checkpoints, the last first; what is still being written has a name of another kind."""
    yield from sorted(folder.glob("step-*"), reverse=True)


def latest(folder: Path, position: Any = dict) -> Path | None:
    """The last checkpoint whose files are what was written; ArtefactError if there are some but none is whole.

    position: the type of what the loop keeps of its own.
    """
    damaged = []
    for path in found(folder):
        try:
            _verified(path, position)
        except ArtefactError as error:
            damaged.append(str(error))
        else:
            return path
    if damaged:
        raise ArtefactError(f"no checkpoint in {folder} is whole: {'; '.join(damaged)}. Begin anew with --overwrite.")
    return None


def restore(path: Path, module: Any, optimizer: Any, scheduler: Any, position: Any = dict) -> dict[str, Any]:
    """Puts all states back and gives the position; ArtefactError for a damaged one or another model's."""
    import torch
    from safetensors.torch import load_file, load_model

    state = _verified(path, position)
    tensors = load_file(path / OPTIMISER)
    try:
        load_model(module, path / WEIGHTS)
        random = tensors.pop("random")
        optimizer.load_state_dict(_deep(tensors, state.optimiser))
        _laid_out(optimizer)
        scheduler.load_state_dict(dict(state.schedule))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArtefactError(f"{path} is a checkpoint of another model or optimiser: {error!s:.300}") from error
    torch.set_rng_state(random)
    return dict(state.position)


class Optimiser(TypedDict):
    rest: dict[str, dict[str, Any]]
    groups: list[dict[str, Any]]


@dataclass(frozen=True)
class _State:
    """What is written of a checkpoint beside its tensors. digest: of all the rest; an older version's has none."""

    step: int
    position: Mapping[str, Any]
    optimiser: Optimiser
    schedule: Mapping[str, Any]
    files: Mapping[str, str]
    format: Literal[1]
    digest: str = ""


def _verified(path: Path, position: Any) -> _State:
    def checked(data: Any) -> _State:
        state = schema.convert(data, _State)
        if state.digest and state.digest != _sealed({k: v for k, v in data.items() if k != "digest"}):
            raise DataError("it is not what was written")
        schema.convert(state.position, position)
        return state

    state = schema.read(path / STATE, "the state of a checkpoint", checked, ArtefactError)
    for name in (WEIGHTS, OPTIMISER):
        if not intact(path / name, state.files.get(name, "")):
            raise ArtefactError(f"{path / name} is not what was written")
    return state


def _sealed(state: Mapping[str, Any]) -> str:
    said = json.loads(json.dumps(state))  # as it is read: a number as a name becomes a text
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def intact(file: Path, expected: str) -> bool:
    """Whether a file is there and has that digest."""
    try:
        return digest(file) == expected
    except OSError:
        return False


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An optimiser's state as tensors by name (`number/name`) and plain data; no pickle is needed for it."""
    import torch

    tensors: dict[str, Any] = {}
    rest: dict[str, dict[str, Any]] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}/{name}"] = value.contiguous()
            else:
                rest.setdefault(str(number), {})[name] = value
    return tensors, {"rest": rest, "groups": [_plain(group) for group in state["param_groups"]]}


def _deep(tensors: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(number): dict(entries) for number, entries in plain["rest"].items()}
    for key, value in tensors.items():
        number, name = key.split("/", 1)
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": plain["groups"]}


def _laid_out(optimizer: Any) -> None:
    """Puts moments in the memory order of their parameters: in another one the last bits of sums may differ."""
    import torch

    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _plain(value: Any) -> Any:
    """As JSON can hold it; numbers of torch and NumPy become Python's own, exactly."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic) or hasattr(value, "item"):
        return value.item()
    return value
