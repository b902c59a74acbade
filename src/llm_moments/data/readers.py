"""Readers: a file of examples as a stream, its columns found, its bad rows named."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.core import Example
from llm_moments.data.columns import ASKED, IDS, cell, find_columns, unused
from llm_moments.data.formats import reader
from llm_moments.data.labels import is_list, missing
from llm_moments.data.rows import BadRow

MAX_CHARS = 1_000_000
PEEK = 200  # rows looked at to find the columns
KEPT = 20  # reported rows that are kept in full; all are counted


@dataclass
class Data:
    """A re-iterable stream of Examples in constant memory. `errors` counts what the last pass skipped.

    images: whether the column `text` holds images; with on_error "skip" each is decoded, so that damaged ones
    are known before any step sees them. sounds: whether it holds sounds, whose headers are always looked at. notes: which
    columns are used and which are not, how the file was taken, what of it is left out.
    """

    path: str
    columns: dict[str, str | None]
    rows: Any = field(repr=False)
    on_error: str = "fail"
    limit: int | None = None
    max_chars: int = MAX_CHARS
    images: bool = False
    sounds: bool = False
    errors: Counter[str] = field(default_factory=Counter)
    reported: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip"):
            raise DataError(f"on_error is fail or skip, not {self.on_error!r}")

    def __iter__(self) -> Iterator[Example]:
        self.errors.clear()
        self.reported.clear()
        return islice(self._examples(), self.limit)

    def _examples(self) -> Iterator[Example]:
        source = self.rows()
        while True:
            try:
                number, row = next(source)
                example, group = self._example(number, row), row.get(self.columns.get("group") or "")
                yield example if group is None else replace(example, group=group)
            except StopIteration:
                return
            except BadRow as bad:
                if self.on_error == "fail":
                    raise DataError(f"{self.path}, row {bad.row}: {bad}. Mend it or pass --on-error skip.") from None
                self.skipped(bad.kind, f"row {bad.row}: {bad}")

    def skipped(self, kind: str, what: str) -> None:
        self.errors[kind] += 1
        if len(self.reported) < KEPT:
            self.reported.append(what)

    def _example(self, number: int, row: Mapping[str, Any]) -> Example:
        return Example(self._input(number, row), self._label(row), self._id(number, row))

    def _input(self, number: int, row: Mapping[str, Any]) -> Any:
        column = self.columns["text"]
        if (other := self.columns.get("or")) and missing(cell(row, column)) and not missing(cell(row, other)):
            column = other
        if self.columns.get("choices"):
            asked = "messages" if column == "messages" else "prompt"
            return {asked: cell(row, column), "choices": cell(row, self.columns["choices"])}
        if self.images:
            return self._image(number, row)
        if column in ASKED and (turns := listed(cell(row, column), column)) is not None:
            return {"messages": turns}
        if self.sounds:
            return {"audio": self._sound(number, row)}
        text = self._text(number, row, column)
        if self.columns["pair"]:
            return text, self._text(number, row, self.columns["pair"])
        if (more := self.columns.get("more")) and not missing(cell(row, more)):
            return f"{text}\n{self._text(number, row, more)}"
        return text

    def _sound(self, number: int, row: Mapping[str, Any]) -> Any:
        from llm_moments.data.sound_formats import sound_in

        return sound_in(row, str(self.columns["text"]), number, self._root())

    def _root(self) -> Path:
        """The folder that paths inside the data are below."""
        place = Path(self.path)
        return (place if place.is_dir() else place.parent).resolve()

    def _text(self, number: int, row: Mapping[str, Any], column: str | None) -> str:
        value = cell(row, column)
        if not isinstance(value, str):
            raise BadRow(number, "not a text", f"column {column!r} holds {value!r:.60}, not a text")
        if not value.strip():
            raise BadRow(number, "empty text", f"column {column!r} is empty")
        if not value.isascii():
            _whole_characters(number, value)
        if len(value) > self.max_chars:
            raise BadRow(
                number,
                "too long",
                f"column {column!r} has {len(value):,} characters ({value[:30]!r}…), over {self.max_chars:,}",
            )
        return value

    def _image(self, number: int, row: Mapping[str, Any]) -> Any:
        from llm_moments.data.image_formats import image_in

        return image_in(
            row, str(self.columns["text"]), number, self._root(), whole=self.on_error == "skip", table=self.path
        )

    def _label(self, row: Mapping[str, Any]) -> Any:
        """None where there is none. An empty cell stays one: of several labels it says that there is none of them."""
        column = self.columns["label"]
        value = cell(row, column) if column else None
        if is_list(value) or not missing(value):
            return value
        return "" if isinstance(value, str) else None

    def _id(self, number: int, row: Mapping[str, Any]) -> Any:
        return row.get(self.columns["id"]) if self.columns["id"] else number

    def count(self) -> int:
        """Rows that are read, by reading them."""
        return sum(1 for _ in self)


def read(
    path: str | Path, *, text: str | None = None, pair: str | None = None, label: str | None = None,
    id: str | None = None, encoding: str | None = None, on_error: str = "fail", limit: int | None = None,
    max_chars: int = MAX_CHARS, group: str | None = None,
) -> Data:  # fmt: skip
    """The examples of a CSV, TSV, JSONL, JSON, Parquet, text or Orange file, a folder of class folders, or stdin (-)."""
    file = Path(path)
    if str(path) != "-" and not _there(file):
        near = get_close_matches(file.name, [p.name for p in file.parent.iterdir()], 1) if file.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file" + (f"; did you mean {near[0]}?" if near else ""))
    if str(path) != "-" and file.is_file() and file.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    source = reader(file, encoding)
    # A pipe is read once: what is peeked at would be lost, and its only column is known.
    peeked = [{"text": ""}] if str(path) == "-" else _peek(lambda: source.rows(None), path)
    rest = _apart(peeked, text, id, group)
    sounds = _sound_column(rest, text)
    images = None if sounds else _image_column(rest, text)
    columns = find_columns(
        peeked, path, sounds, text=sounds or images or text, pair=pair, label=label, id=id, group=group
    )
    columns["text"] = columns["text"] or "text"
    columns |= {"group": group} if group else {}
    name = "stdin" if str(path) == "-" else str(path)
    needed = {column for column in columns.values() if column}
    notes = [*source.notes, *([_told(peeked, columns)] if source.named else [])]
    return Data(
        name, columns, lambda: source.rows(needed), on_error, limit, max_chars, bool(images), bool(sounds), notes=notes
    )


def _told(peeked: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None]) -> str:
    """Which columns are used and which are not."""
    names = {
        "text": "input",
        "or": "or where that is empty",
        "more": "after it on a new line",
        "pair": "second text",
        "choices": "choices",
    }
    names |= {"label": "label", "id": "id", "group": "group"}
    used = ", ".join(f"{said} {columns[kind]!r}" for kind, said in names.items() if columns.get(kind))
    left = unused(peeked, columns)
    return f"columns: {used}" + (
        f"; not used: {', '.join(map(repr, left[:12]))}{' …' if len(left) > 12 else ''}" if left else ""
    )


def _there(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError) as error:  # a name too long, a NUL in it
        raise DataError(f"{str(file)[:80]!r} cannot be a file: {error!s:.120}") from None


def _apart(rows: Sequence[Any], text: str | None, id: str | None, group: str | None) -> list[Any]:
    """The columns among which sounds and images are looked for: an id or a group may be of any type, bytes or the name of
    a file, too."""
    names = {name for row in rows for name in row}
    out = {name for name in names if name == id or (id is None and name.casefold().strip() in IDS)} | {group}
    return [
        row if getattr(row, "problem", None) else {k: v for k, v in dict(row).items() if k not in out - {text}}
        for row in rows
    ]


def _sound_column(rows: Sequence[Mapping[str, Any]], named: str | None) -> str | None:
    from llm_moments.data.sound_formats import sound_column

    return sound_column(rows, named)


def _image_column(rows: Sequence[Mapping[str, Any]], named: str | None) -> str | None:
    from llm_moments.data.image_formats import image_column

    return image_column(rows, named)


def source_of(data: Any) -> Data:
    """What examples are read from; of an iterable in memory a source that knows nothing but that."""
    return data if isinstance(data, Data) else Data("examples", {}, lambda: iter(()))


def given(texts: Sequence[str], *, on_error: str = "fail", limit: int | None = None) -> Data:
    """Texts in memory, such as those of a command line, read as a file of them would be."""
    return Data("the command line", {"text": "text", "pair": None, "label": None, "id": None},
                lambda: ((n, {"text": text}) for n, text in enumerate(texts, 1)), on_error, limit)  # fmt: skip


def listed(value: Any, column: str) -> list[Any] | None:
    """The messages of a dialogue: a list, or in tables its JSON. None: a plain text."""
    if isinstance(value, str) and column == "messages" and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _whole_characters(number: int, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = f"{value[error.start]!r} after {value[max(0, error.start - 20) : error.start]!r}"
        raise BadRow(number, "undecodable", f"{broken} is half a character (a lone surrogate)") from None


def _peek(rows: Any, path: Any) -> list[Any]:
    seen: list[Any] = []
    source = rows()
    while len(seen) < PEEK:
        try:
            seen.append(next(source)[1])
        except StopIteration:
            break
        except BadRow:
            continue
    broken = [row for row in seen if getattr(row, "problem", None) is not None]
    if seen and len(broken) == len(seen):
        raise DataError(f"{path} has no rows that can be read; row {broken[0].number}: {broken[0].problem}")
    if not seen:
        raise DataError(f"{path} has no rows that can be read")
    return seen


# --------------------------------------------------------------------------- identity and splits


def split(examples: Iterable[Example], *, fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[Example]]:
    """Parts by a hash of the normalised input or its group: the same for every order of the rows; equal and near-equal
    rows and rows of one group stay together."""
    from llm_moments.data.independent import units

    examples = list(examples)
    parts: dict[str, list[Example]] = {name: [] for name in fractions}
    edges, total = [], 0.0
    for name, share in fractions.items():
        total += share
        edges.append((total, name))
    for example, unit in zip(examples, units(examples), strict=True):
        digest = hashlib.sha256(seed.to_bytes(8, "big") + unit.tobytes()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64 * total
        parts[next((name for edge, name in edges if place < edge), edges[-1][1])].append(example)
    return parts


def fingerprint(path: str | Path) -> str:
    """sha256 of a file's content, or of a folder's names and contents; about a second a gigabyte."""
    path, digest = Path(path), hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]
