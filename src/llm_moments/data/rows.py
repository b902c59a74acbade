"""What every reader of a file gives: numbered rows, whose faults are told when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = tuple[int, Mapping[str, Any]]  # 1-based row of data, and its columns


class BadRow(Exception):
    def __init__(self, row: int, kind: str, message: str):
        super().__init__(message)
        self.row, self.kind = row, kind


@dataclass
class Source:
    """rows: starts a new pass (of stdin: the only one), over these columns where they are named. notes: what was left
    out, or how the file was taken. named: whether its columns have names of its own."""

    rows: Callable[[Collection[str] | None], Iterator[Row]]
    notes: list[str] = field(default_factory=list)
    named: bool = False


class Cells(dict[str, Any]):
    """A row that is checked when it is read, so that a bad one does not end the pass over the file. twice: names that
    several columns have."""

    twice: frozenset[str] = frozenset()

    def __init__(self, number: int, cells: Mapping[str, Any], problem: BadRow | None = None):
        super().__init__(cells)
        self.number, self.problem = number, problem

    def get(self, key: str, default: Any = None) -> Any:
        if self.problem:
            raise self.problem
        value = super().get(key, default)
        if isinstance(value, Unreadable):
            raise BadRow(self.number, "unreadable value", f"column {key!r}: {value.why}")
        return clean(self.number, value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Unreadable:
    """In the place of a value that its file holds damaged."""

    why: str


def clean(number: int, value: str) -> str:
    """The text itself (with what it is more than one); BadRow where a byte of it could not be decoded."""
    for at, char in enumerate(value) if not value.isascii() else ():
        if "\udc80" <= char <= "\udcff":
            byte = ord(char) - 0xDC00
            raise BadRow(
                number,
                "undecodable",
                f"byte 0x{byte:02x} after {value[max(0, at - 20) : at]!r} is not UTF-8 (try --encoding cp1252)",
            )
    return value
