"""Save and load an artefact: a folder with plan, model, certificate, report and, last, its manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from llm_moments.assembly import chain
from llm_moments.base import schema
from llm_moments.base.atomic import recover, sibling, sync, write_atomic, writing
from llm_moments.base.errors import ArtefactError, ModelError, OutputExists, PlanError
from llm_moments.core import Pipeline, Plan
from llm_moments.models import formats
from llm_moments.models.config_check import NOTES, check
from llm_moments.models.model import Model, _read_json, checked_config

MANIFEST = "MANIFEST.json"
PLAN = "moments.toml"
FORMAT = 1
MODEL_FILES = (
    "*.json",
    "*.txt",
    "*.model",
    "*.spm",
    "*.jinja",
    "*.tiktoken",
    "[0-9]*_*/*.json",
    "[0-9]*_*/*.safetensors",
)


def is_artefact(ref: Any) -> bool:
    """A folder with a plan or a manifest; whether it is whole is checked when it is opened."""
    path = Path(ref)
    with writing(path, f"A killed save has left the artefact as .{path.name}.old: rename it."):
        recover(path)
    return path.is_dir() and ((path / MANIFEST).exists() or (path / PLAN).exists())


def open_artefact(path: Path, *, trust_remote_code: bool = False) -> tuple[Model, Plan]:
    """Model and plan of an artefact whose every file has the size and hash its manifest states."""
    manifest = verify(path)
    try:
        plan = Plan.from_toml((path / PLAN).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, PlanError) as error:
        raise ArtefactError(f"{path / PLAN} is not a plan: {error}") from error
    _tell_of_other_hardware(path)
    folder = path / "model"
    opened = formats.folder(folder, str(path)) or Model(folder, checked_config(folder, trust_remote_code))
    model = replace(
        opened, trust_remote_code=trust_remote_code, source=str(path), claimed_digest=manifest["model_digest"],
        notes=manifest.get("notes", {}),
    )  # fmt: skip
    return model, plan


def _tell_of_other_hardware(path: Path) -> None:
    """A speed-up that was certified elsewhere need not hold here; the answers may differ in rounding."""
    from llm_moments.base.environment import fingerprint

    if not (path / "certificate.json").exists():
        return
    there = _read_json(path / "certificate.json").get("environment", {})
    if not isinstance(there, dict):
        raise ArtefactError(f"{path / 'certificate.json'} is no certificate: its environment is {there!r:.40}")
    here = fingerprint()
    other = [f"{k}: {there.get(k)} there, {here[k]} here" for k in ("cpu", "cores", "flags") if there.get(k) != here[k]]
    if other:
        warnings.warn(
            f"{path} was certified on other hardware ({'; '.join(other)}). Measure it again here: "
            f"moments compare ORIGINAL {path} --data FILE",
            stacklevel=4,
        )


def verify(path: Path) -> dict[str, Any]:
    """The manifest, once everything it names has been found as it says; ArtefactError otherwise."""
    if not (path / MANIFEST).exists():
        raise ArtefactError(f"{path} has no {MANIFEST}: saving it was interrupted. Make it again.")
    manifest = schema.read(path / MANIFEST, "a manifest", _checked, ArtefactError)
    try:
        check(path / MANIFEST, manifest.get("notes", {}), NOTES)
    except ModelError as error:
        raise ArtefactError(f"{error}. Make the artefact again.") from error
    if manifest["format"] != FORMAT:
        raise ArtefactError(f"{path} has format {manifest['format']!r}; this version reads {FORMAT}")
    for name, expected in manifest["files"].items():
        file = path / name
        if not _inside(file, path):
            raise ArtefactError(f"{path / MANIFEST} names {name!r:.200}, outside the artefact")
        if not os.path.isfile(file):  # of a name that no system takes, too
            raise ArtefactError(f"{path} lacks {name:.200}, which its manifest names")
        if sha256(file) != expected:
            raise ArtefactError(f"{file} is not what the manifest says (another sha256): it was changed or damaged")
    if PLAN not in manifest["files"]:
        raise ArtefactError(f"{path / MANIFEST} names no {PLAN}, the plan. Make the artefact again.")
    return dict(manifest)


class Manifest(TypedDict):
    """What a manifest says. files: SHA-256 by name."""

    format: int
    model_digest: str
    model: NotRequired[str]
    notes: NotRequired[dict[str, Any]]
    files: dict[str, str]


def _checked(data: Any) -> Manifest:
    return schema.convert(data, Manifest)


def _inside(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL in the name; a loop of links
        return False


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(
    pipe: Pipeline,
    path: str | Path,
    *,
    certificate: dict[str, Any] | None = None,
    report: str | None = None,
    overwrite: bool = False,
    slim: bool = False,
) -> Path:
    """Writes the pipeline as an artefact. `slim` leaves out weights that no stage of the plan needs.

    Made in a sibling folder and renamed, so a crash leaves the old artefact or none.
    """
    path = Path(path)
    with writing(path, "Nothing was changed."):
        recover(path)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]) and not overwrite:
        raise OutputExists(path)
    with sibling(path) as made:
        write_into(pipe, made, certificate=certificate, report=report, slim=slim)
    return path


def write_into(
    pipe: Pipeline,
    folder: Path,
    *,
    certificate: dict[str, Any] | None = None,
    report: str | None = None,
    slim: bool = False,
) -> None:
    """The files of an artefact, the manifest last."""
    (folder / PLAN).write_text(pipe.plan.to_toml(), encoding="utf-8")
    _copy_model(pipe, folder / "model", slim)
    if certificate is not None:
        (folder / "certificate.json").write_text(json.dumps(certificate, indent=2), encoding="utf-8")
    if report is not None:
        (folder / "report.html").write_text(report, encoding="utf-8")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        "format": FORMAT,
        "model_digest": pipe.model.digest,
        "model": pipe.model.name,
        "notes": {**pipe.model.notes, "task": pipe.task.name},
        "files": {str(p.relative_to(folder)): sha256(p) for p in files},
    }
    for file in files:
        sync(file)
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2))


def _copy_model(pipe: Pipeline, target: Path, slim: bool) -> None:
    from llm_moments.engines.base import built_key, engine_class

    target.mkdir(parents=True)
    if pipe.task.parts(pipe.plan):
        chain.write(pipe, target, partial(write_into, slim=slim))
        return
    needed = {"": not slim}  # by name of the weights: whether any stage loads them as they are
    for stage in pipe.stages:
        settings = stage.engine_settings
        name = settings.get("weights", "")
        needed.setdefault(name, not slim)
        if engine_class(settings.get("engine", "torch")).builds:
            pipe.engines.get(settings)  # builds it if it is not there yet
        if (built := pipe.engines.built(settings)) is not None:
            shutil.copytree(built, target / "built" / built_key(settings), dirs_exist_ok=True)
        else:
            needed[name] = True
    for name, whole in needed.items():
        folder = target / "weights" / name if name else target
        folder.mkdir(parents=True, exist_ok=True)
        source = pipe.engines.model_for({"weights": name})
        patterns: tuple[str, ...] = ("config.json",) if name else MODEL_FILES
        if source.format in ("gguf", "onnx"):
            patterns, whole = (
                (),
                True,
            )  # one file that holds all, the tokenizer too; what lies beside it need not be its own
        files = {p for pattern in patterns for p in source.path.glob(pattern)}
        for file in sorted(files.union(source.weight_files if whole else ())):
            place = folder / file.relative_to(source.path)  # shards may lie in folders of their own
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
