"""Columns and folders of sounds: paths to files, or the files' bytes in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.data.folders import LARGEST, Survey
from llm_moments.data.image_formats import inside
from llm_moments.data.rows import BadRow, Cells, Row

SUFFIXES = (".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au")
COLUMNS = ("audio", "audio_path", "audio_filepath")  # sounds by their name, whatever they hold
INPUT = "audio"


def sound_column(rows: Sequence[Mapping[str, Any]], named: str | None = None) -> str | None:
    """The column whose values are sounds: by its name, or because all its values end as files of sound do."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen = [named] if named else sorted(names, key=lambda name: name.casefold().strip() not in COLUMNS)
    for name in chosen:
        values = [row[name] for row in rows if name in row and row[name] not in (None, "")]
        if name.casefold().strip() in COLUMNS or (values and all(map(_names_sound, values))):
            return name
    return None


def _names_sound(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.get("path")
    return isinstance(value, str) and value.strip().lower().endswith(SUFFIXES)


def sound_in(row: Mapping[str, Any], column: str, number: int, root: Path) -> Any:
    """A path below root, or {"bytes": …, "path": name}, whose header (and end, where it can be entered there) can be
    read; BadRow otherwise."""
    from llm_moments.data.audio import Held, check

    value = row.get(column)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        name = str(value.get("path") or f"the sound of row {number}")
        sound: Any = {"bytes": value["bytes"], "path": name}
        file: Any = Held(value["bytes"], name)
    elif isinstance(value, bytes):
        sound, file = {"bytes": value, "path": ""}, Held(value, f"the sound of row {number}")
    else:
        named = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(named, str) or not named.strip():
            raise BadRow(number, "no sound", f"column {column!r} holds {value!r:.60}, not the path of a sound")
        file = _inside(root, named.strip(), number)
        sound = str(file)
    try:
        check(file)
    except DataError as error:
        raise BadRow(number, "no sound", str(error)) from None
    return sound


def _inside(root: Path, name: str, number: int) -> Path:
    file = inside(root, name, number, "no sound").resolve()
    if not file.is_file():
        raise BadRow(number, "no such file", f"{name!r}: there is no such file in {root}")
    return file


BEGINNINGS = (b"fLaC", b"OggS", b"ID3", b".snd", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


def is_sound(file: Path) -> bool:
    """By its name; a file without a suffix by its beginning."""
    if file.suffix:
        return file.suffix.lower() in SUFFIXES and file.is_file()
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            head = stream.read(12)
    except OSError:
        return False
    return head.startswith(BEGINNINGS) or (head[:4], head[8:12]) in ((b"RIFF", b"WAVE"), (b"FORM", b"AIFF"))


def folder_rows(found: Survey) -> Iterator[Row]:
    """Each sound with what is said in it, where a text of the same name lies beside it (clip.wav, clip.txt)."""
    for number, file in enumerate(found.files, 1):
        name = str(file.relative_to(found.folder))
        row: dict[str, Any] = {INPUT: name, "id": name}
        beside = file.with_suffix(".txt")
        problem = None
        if beside.is_file():
            try:
                if beside.stat().st_size > LARGEST:
                    raise BadRow(number, "too long", f"{beside} has more than {LARGEST:,} bytes")
                row["text"] = beside.read_text(encoding="utf-8-sig").strip()
            except UnicodeError as error:
                problem = BadRow(number, "undecodable", f"{beside} is no UTF-8: {error}")
            except BadRow as bad:
                problem = bad
        yield number, Cells(number, row, problem)
