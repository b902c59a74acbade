"""What of its teacher a student keeps, as `--student` says it: `layers=3 heads=half neurons=third`, or `as-is`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llm_moments.base.errors import InputError

SHARES = {"half": 2, "third": 3}  # so many of the teacher's to one of the student's
WHOLE = "as-is"
_ONE = re.compile(r"(layers|heads|neurons)=(half|third|\d+(?:,\d+)*)")


@dataclass(frozen=True)
class Parts:
    """layers: how many, as `layers_of` takes it, or which; heads and neurons of each layer: how many; None: all."""

    layers: str | list[int] | None = None
    heads: str | None = None
    neurons: str | None = None


def parts_of(student: str) -> Parts | None:
    """What a student keeps of its teacher; None if it is a model of its own."""
    if student == WHOLE:
        return Parts()
    said = re.split(r"[\s;]+", student.strip())
    if not any(re.match(r"(layers|heads|neurons)\b", one) for one in said):
        word = re.match(r"(\w+)=", student)
        if word and word[1] != "width" and not Path(student).exists():
            raise InputError(f"a student keeps layers, heads or neurons of its teacher, not {student!r}")
        return None
    found: dict[str, str | list[int]] = {}
    for one in said:
        match = _ONE.fullmatch(one)
        if not match or match[1] in found or ("," in match[2] and match[1] != "layers"):
            raise InputError(
                "a student is made of layers=3, layers=0,2,5, layers=half or layers=third; heads=6, heads=half or "
                f"heads=third of each layer; neurons alike; several with spaces between; not of {student!r}"
            )
        numbers = match[2].split(",")
        found[match[1]] = [int(n) for n in numbers] if len(numbers) > 1 else match[2]
    return Parts(**found)  # type: ignore[arg-type]


def share_of(total: int, word: str) -> int:
    """How many one, a third, half or a number of them are."""
    return int(word) if word.isdigit() else max(total // SHARES[word], 1) if word in SHARES else 1
