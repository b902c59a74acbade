"""Rows of a delimited file in which a quote may have been left open.

The `csv` module reads on from an open quote to the next one, or to the end of the file, and gives all of
that as one row. Here a row that goes on over several lines must be well quoted; where it is not, its first
line is a bad row and the reading goes on with the second. In tab-separated files quotes are mostly just
characters (GLUE's are written so): a line that has the right number of fields as it stands is taken so.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MOST_LINES, MOST_CHARS = 100_000, 16_000_000  # of one row, so that an open quote does not fill the memory


@dataclass(frozen=True, slots=True)
class Fields:
    """One row as it was read: its fields, the line it begins on (from 1), and what is wrong with it."""

    cells: list[str]
    line: int
    fault: str = ""


class _Lines:
    """Lines that can be put back; those of the row being read are held."""

    def __init__(self, lines: Iterable[str]):
        self.source, self.again = iter(lines), deque[str]()
        self.held: list[str] = []
        self.number = self.chars = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.held) >= MOST_LINES or self.chars > MOST_CHARS:
            raise StopIteration
        line = self.again.popleft() if self.again else next(self.source)
        self.held.append(line)
        self.chars += len(line)
        return line

    def keep(self, count: int) -> None:
        """The row takes that many of the lines held; the others come again."""
        self.again.extendleft(reversed(self.held[count:]))
        self.number += count
        self.held, self.chars = [], 0


def rows(stream: Iterable[str], delimiter: str) -> Iterator[Fields]:
    """Every row; blank lines are left out. The first one says how many fields a row should have."""
    lines = _Lines(stream)
    reader, width = csv.reader(lines, delimiter=delimiter, strict=True), 0
    while True:
        try:
            cells, fault = next(reader), ""
        except csv.Error as error:
            cells, fault = [], str(error)
        except StopIteration:
            return
        start, first, count = lines.number + 1, lines.held[0], len(lines.held)
        if fault or count > 1:
            found = _odd(lines.held, cells, fault, delimiter, width)
            count = 1 if found is not None else count
            cells, fault = (found.cells, found.fault) if found is not None else (cells, "")
        elif delimiter == "\t" and width and len(cells) != width:
            cells = _bare(first, delimiter, width) or cells
        lines.keep(count)
        if not cells and not fault:
            continue
        width = width or len(cells)
        yield Fields(cells, start, fault)


def _odd(held: list[str], cells: list[str], fault: str, delimiter: str, width: int) -> Fields | None:
    """The first line as a row of its own, or None if the lines held are rightly one row."""
    first = held[0]
    if delimiter == "\t" and width:
        bare = _bare(first, delimiter, width)
        alone = len(held) == 1 or (width > 1 and _bare(held[1], delimiter, width) is not None)
        if bare is not None and (fault or alone):
            return Fields(bare, 0)
    if not fault and (len(cells) == width or not width or not _fits(held[1], delimiter, width)):
        return None
    if len(held) == 1 and not _open(first, delimiter):
        return Fields(next(csv.reader([first], delimiter=delimiter), []), 0)
    began = first.strip()[:60]
    return Fields([], 0, f'a quote (") is opened and not closed rightly: {began!r} (close it, or write it twice)')


def _bare(line: str, delimiter: str, width: int) -> list[str] | None:
    """The fields if quotes are mere characters, where their number is right."""
    cells = line.rstrip("\r\n").split(delimiter)
    return cells if len(cells) == width else None


def _fits(line: str, delimiter: str, width: int) -> bool:
    """Whether a line is a row on its own."""
    return not _open(line, delimiter) and len(next(csv.reader([line], delimiter=delimiter), [])) == width


def _open(line: str, delimiter: str) -> bool:
    """Whether a quoted field is still open where the line ends."""
    ending = csv.reader([line, "x"], delimiter=delimiter)
    next(ending, None)
    return ending.line_num > 1
