"""The file that says which models make a chain, or answer side by side:

[[stage]]
name = "asr"
model = "whisper-tiny"    # a folder, an artefact or a hub id; a folder is looked for beside this file first

[[stage]]
name = "intent"
model = "intents"
plan = { "forward.engine" = "openvino" }    # may be left out, as may task and metric

With `join = "fuse"` before the first stage they are asked the same and the mean of their probabilities decides; a stage may
then have a `weight`, and where a row has several columns an `input`, such as "image".
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from llm_moments.base import schema
from llm_moments.base.errors import DataError, ModelError
from llm_moments.core import Pipeline
from llm_moments.tasks.chain import chain
from llm_moments.tasks.fusion import FusionModel, fusion
from llm_moments.tasks.joined import Joined

FILE = "chain.toml"
LARGEST = 1 << 20  # bytes


class _Stage(TypedDict):
    name: str
    model: str
    task: NotRequired[str]
    metric: NotRequired[str]
    plan: NotRequired[dict[str, Any]]
    weight: NotRequired[float]
    input: NotRequired[str]


class _File(TypedDict):
    stage: list[_Stage]
    join: NotRequired[Literal["chain", "fuse"]]


def file_of(ref: Any) -> Path | None:
    """The file of a chain, if that is what is named: the file, or a folder with one."""
    path = Path(ref).expanduser()
    if path.suffix == ".toml" and "://" not in str(ref):
        if not path.is_file():
            raise ModelError(f"{ref}: there is no such file")
        return path
    return path / FILE if (path / FILE).is_file() else None


def open_chain(
    file: Path, load: Callable[..., Pipeline], source: str = "", *, inside: bool = False, **options: Any
) -> Pipeline:
    """Each stage by `load`; ModelError for a file that is no chain. inside: of an artefact, which brings its models along."""
    parts: dict[str, Pipeline] = {}
    told = _told(file)
    for stage in told["stage"]:
        if stage["name"] in parts:
            raise ModelError(f"{file}: two stages are named {stage['name']!r}")
        if inside and stage["model"] != stage["name"]:
            raise ModelError(f"{file} names a model outside its artefact, {stage['model']!r:.200}; refused")
        beside = file.parent / stage["model"]
        parts[stage["name"]] = load(
            beside if beside.exists() else stage["model"], task=stage.get("task"), metric=stage.get("metric"),
            plan=stage.get("plan"), **options,
        )  # fmt: skip
    if told.get("join") == "fuse":
        weights = {stage["name"]: stage["weight"] for stage in told["stage"] if "weight" in stage}
        inputs = {stage["name"]: stage["input"] for stage in told["stage"] if "input" in stage}
        return fusion(parts, weights=weights, inputs=inputs, source=source or str(file), path=file.parent)
    if strange := next((key for stage in told["stage"] for key in ("weight", "input") if key in stage), ""):
        raise ModelError(f'{file}: a stage of a chain has no {strange}; write join = "fuse" for models side by side')
    return chain(parts, source=source or str(file), path=file.parent)


def _told(file: Path) -> _File:
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(f"it is larger than {LARGEST:,} bytes")
        return schema.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DataError, RecursionError) as error:
        raise ModelError(f"{file} is no chain of models, with [[stage]], name and model: {error!s:.200}") from error


def write(pipe: Pipeline, folder: Path, put: Callable[[Pipeline, Path], None]) -> None:
    """The stages as artefacts of their own, and the file that names them. put: writes one."""
    import tomli_w

    model, stages = pipe.model, []
    task = cast(Joined, pipe.task)
    for name in model.parts:
        (folder / name).mkdir(parents=True)
        put(task.of_stage(name, pipe.plan), folder / name)
        more = {}
        if isinstance(model, FusionModel):
            more = {"weight": model.weights[name]} | ({"input": model.inputs[name]} if model.inputs else {})
        stages.append({"name": name, "model": name, **more})
    told = {"join": "fuse" if isinstance(model, FusionModel) else "chain", "stage": stages}
    (folder / FILE).write_text(tomli_w.dumps(told), encoding="utf-8")
