"""The first line of a delimited file: the names of its columns, or a row like the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_moments.data.columns import ABOUT, ANSWERS, IDS, LABEL, MADE_FROM, PAIR, PAIRS, REFERENCE, TEXT, plain
from llm_moments.data.labels import number

USUAL = {plain(name) for name in (*TEXT, *PAIR, *LABEL, *MADE_FROM, *REFERENCE, *IDS, *ABOUT, *ANSWERS, "choices",
                                  "instruction", "image", "audio", "file", "filename", "path", *sum(PAIRS, ()))}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """names: of the columns, those that nobody named empty; twice: names of several; lines: how many lines it takes (0
    where the first line is a row itself). said: what the user should know of it."""

    names: list[str]
    twice: frozenset[str] = frozenset()
    lines: int = 1
    said: str = ""
    few: int = field(default=0)  # fields that a row may leave out: nothing has a name from there on

    def fits(self, cells: Sequence[str]) -> bool:
        """Whether a row has a field for each name, but for empty ones at the end."""
        return len(cells) >= self.few and not any(cell.strip() for cell in cells[len(self.names) :])


def header_of(first: Sequence[str], rows: Sequence[Sequence[str]]) -> Header:
    """rows: some of those that follow."""
    names = [_printable(name.strip()) for name in first]
    counts = Counter(name for name in names if name)
    if not any(plain(name) in USUAL for name in names):
        if _is_row(names, rows):
            made = [str(at) for at in range(1, len(names) + 1)]
            said = f"it has no header: its columns are called {', '.join(made[:3])}{' …' if len(made) > 3 else ''}"
            return Header(made, lines=0, said=said, few=len(made))
        if any(_sentence(name) for name in names):
            said = f"its first line ({', '.join(names)[:60]!r}) is taken for the names of the columns; if it is a row, put names above it"
            return _named(names, counts, said)
    return _named(names, counts, "")


def _named(names: list[str], counts: Counter[str], said: str) -> Header:
    few = max((at for at, name in enumerate(names, 1) if name), default=len(names))
    return Header(names, frozenset(name for name, count in counts.items() if count > 1), said=said, few=few)


def _is_row(cells: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """A number stands where numbers follow, or something that comes again below. (0, 1, 2 … are the names that pandas
    gives.)"""
    if [cell for cell in cells if cell] == [str(at) for at in range(sum(map(bool, cells)))]:
        return False
    columns = [[row[at] for row in rows if at < len(row)] for at in range(len(cells))]
    numbers = [number(c) is not None and all(number(v) is not None for v in col if v) for c, col in zip(cells, columns, strict=True)]  # fmt: skip
    if any(numbers):
        return True
    named = any(col and all(number(v) is not None for v in col) for col in columns)  # a word above numbers is a name
    again = any(c and c in col for c, col in zip(cells, columns, strict=True))
    return not named and again and len(rows) > 1


def _sentence(text: str) -> bool:
    return len(text.split()) > 4 or bool(re.search(r"\w\s.*[.!?…]$", text)) or len(text) > 60


def _printable(name: str) -> str:
    """Bytes that could not be decoded, as they are written in a message."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
