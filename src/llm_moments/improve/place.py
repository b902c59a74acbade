"""The folder of an improvement: what may be in it before, and how the artefact comes to lie beside its study."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from llm_moments.assembly.artefact import MANIFEST, is_artefact, verify, write_into
from llm_moments.base.atomic import sibling, writing
from llm_moments.base.errors import ArtefactError, MomentsError, OutputExists
from llm_moments.improve.certify import Certificate
from llm_moments.improve.improvement import Improvement
from llm_moments.models.model import _read_json

STUDY = "study"  # the folder inside --out that holds the trials
CERTIFICATE = "certificate.json"


def make_way(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that is something else; a study of the same question may go on."""
    if overwrite and (is_artefact(folder) or (folder / STUDY).exists()):
        shutil.rmtree(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputExists(folder)
    strange = folder.is_dir() and any(folder.iterdir()) and not (folder / STUDY / "study.json").exists()
    if strange:
        raise OutputExists(folder)


def standing(folder: Path) -> Certificate | None:
    """The certificate of the whole, certified artefact in a folder, if there is one: it must not be lost by a second run."""
    if not (folder / MANIFEST).exists() or not (folder / CERTIFICATE).exists():
        return None
    try:
        verify(folder)
        found = Certificate.from_dict(_read_json(folder / CERTIFICATE))
    except (MomentsError, TypeError, ValueError):
        return None  # damaged: the new one replaces it
    return found if found.certified else None


def place(done: Improvement, folder: Path, *, slim: bool) -> None:
    """Puts the artefact's files beside the study, the manifest last; the old manifest goes first."""
    with sibling(folder / ".artefact") as made:
        write_into(done.pipeline, made, certificate=done.certificate.to_dict(), report=done.report(), slim=slim)
    made = folder / ".artefact"
    with writing(folder, "The study is kept; the same command goes on from there."):
        (folder / MANIFEST).unlink(missing_ok=True)
        for entry in sorted(made.iterdir(), key=lambda p: p.name == MANIFEST):
            target = folder / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
        made.rmdir()
    try:
        verify(folder)
    except ArtefactError as error:
        raise ArtefactError(f"{error} (the disk may be full)") from error
