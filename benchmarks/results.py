"""RESULTS.md: one section a benchmark, each with its date; the other sections stay as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llm_moments.base.atomic import write_atomic
from llm_moments.base.environment import fingerprint, peaks

FILE = Path(__file__).parent / "RESULTS.md"
HEAD = """# Results

Each section is written by one benchmark of `make bench`, in one run of its own, everything in turn.
"""


def write(title: str, lines: Iterable[str], file: Path = FILE) -> None:
    """Puts the section in the place of the one with that title, or at the end."""
    old = file.read_text(encoding="utf-8") if file.exists() else HEAD
    parts = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    section = "\n".join([f"## {title}", "", f"{datetime.now(UTC):%Y-%m-%d}. {machine()}", "", *lines, "", ""])
    kept = [part if part.endswith("\n\n") else part.rstrip("\n") + "\n\n" for part in parts]
    at = next((i for i, part in enumerate(parts) if part.startswith(f"## {title}\n")), None)
    if at is None:
        kept.append(section)
    else:
        kept[at] = section
    write_atomic(file, "".join(kept).rstrip("\n") + "\n")
    print(section)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def machine() -> str:
    known = fingerprint()
    limits = ", ".join(f"{name} {value:,.0f}" for name, value in peaks().items())
    return f"{', '.join(f'{k} {v}' for k, v in known.items())}. Measured peaks (GFLOP/s; GB/s): {limits}."
