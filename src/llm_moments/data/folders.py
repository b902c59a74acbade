"""Folders of examples: which of their files are examples, of which class, and which are left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llm_moments.base.errors import DataError
from llm_moments.data.rows import BadRow, Cells, Row

PARTS = {"train", "training", "test", "testing", "valid", "validation", "val", "dev", "eval", "unsup", "unlabelled"}
TEXTS = (".txt", ".text")
LARGEST = 16_000_000  # bytes of one text


@dataclass
class Survey:
    """The files of a folder that are examples, those below class folders if there are any, else those right in it; and
    how many were left out."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)
    hidden: int = 0

    def label(self, file: Path) -> str | None:
        """The folder right below the root, however deep the file is in it."""
        inner = file.relative_to(self.folder).parts
        return inner[0] if len(inner) > 1 else None

    def said(self, what: str) -> list[str]:
        """What is left out, in words."""
        notes = []
        if self.left:
            shown = ", ".join(str(file.relative_to(self.folder)) for file in self.left[:4])
            notes.append(
                f"{len(self.left):,} files that are no {what} of a class are left out: {shown}{' …' if len(self.left) > 4 else ''}"
            )
        if self.hidden:
            notes.append(f"{self.hidden:,} hidden files are left out")
        return notes


def walk(folder: Path) -> tuple[list[Path], int]:
    """All files below, sorted, and how many are hidden; a folder is entered once, whatever links lead to it."""
    found, hidden, seen = [], 0, set()
    for place, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner[:] = []
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        hidden += sum(name.startswith(".") for name in names)
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(found), hidden


def survey(folder: Path, wanted: Callable[[Path], bool], *, classes: bool = True) -> Survey:
    """wanted: whether a file is an example. classes: whether folders are classes; DataError where they are the parts of a
    set (train, test), or lie deeper."""
    files, hidden = walk(folder)
    found = [file for file in files if wanted(file)]
    if not classes:
        return Survey(folder, found, [f for f in files if f not in set(found)], hidden)
    deep = [file for file in found if len(file.relative_to(folder).parts) > 1]
    _below(folder, deep)
    kept = set(deep or found)
    return Survey(folder, deep or found, [file for file in files if file not in kept], hidden)


def _below(folder: Path, deep: list[Path]) -> None:
    tops = sorted({file.relative_to(folder).parts[0] for file in deep})
    flat = any(len(file.relative_to(folder).parts) == 2 for file in deep)
    parts = [top for top in tops if top.casefold() in PARTS]
    if tops and (len(parts) == len(tops) or not flat):
        first = folder / (parts or tops)[0]
        raise DataError(
            f"{folder} holds no texts and no images of classes (CLASS/*.txt, CLASS/*.jpg, …) but {', '.join(tops[:4])}, with "
            f"more folders or parts of a set in them. Did you mean {first}?"
        )


def is_text(file: Path) -> bool:
    """By its name; a file without a suffix by what it begins with."""
    if file.suffix.lower() in TEXTS:
        return True
    if file.suffix and not file.suffix[1:].isdigit():
        return False
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return b"\0" not in stream.read(1024)
    except OSError:
        return False


def text_rows(found: Survey, encoding: str) -> Iterator[Row]:
    """folder/CLASS/anything.txt, each one text; one that cannot be read is one bad row."""
    root = found.folder.resolve()
    for number, file in enumerate(found.files, 1):
        name = str(file.relative_to(found.folder))
        row = {"label": found.label(file), "id": name}
        try:
            text = _text(file, name, root, number).decode(encoding, errors="surrogateescape")
            yield number, Cells(number, {"text": text, **row})
        except BadRow as bad:
            yield number, Cells(number, {"text": "", **row}, bad)


def _text(file: Path, name: str, root: Path, number: int) -> bytes:
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(root):
            raise BadRow(number, "outside", f"{name!r} leads out of {root}")
        if not real.is_file():
            raise BadRow(number, "no file", f"{name!r} is a pipe or a device, not a file")
        if real.stat().st_size > LARGEST:
            raise BadRow(number, "too long", f"{name!r} has {real.stat().st_size:,} bytes, over {LARGEST:,}")
        return real.read_bytes()
    except (OSError, RuntimeError) as error:  # a link to nothing, or in a circle
        raise BadRow(number, "no file", f"{name!r} cannot be read: {getattr(error, 'strerror', '') or error}") from None
