"""Many explanations in one: which fields, places, words and layers decide, and how often what is said to matter beats chance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm_moments.base import schema
from llm_moments.explain.explanation import Explanation, PartWorth

TOP = 5  # parts of a row that are kept
WORDS = 30  # that are told of all rows
TENTHS = 10
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Named:
    """A word (or a layer). rows: in how many rows it is the part that the answer loses most by (or changes the answer);
    worth: what the answer loses without it, on the mean over the rows that it was left out in."""

    name: str
    rows: int
    worth: float


@dataclass(frozen=True)
class Overview:
    """What the explanations of many rows have in common. tested, holds: rows whose parts were held against chance, and those
    where they beat it. alone: rows that one part alone turns. fields, places: of the part that the answer loses most by, in
    how many rows it stands there. cut, cut_turned: rows of which something never reached the model, and those where it would
    have changed the answer."""

    model: str
    task: str
    data: str
    plan: Mapping[str, Mapping[str, Any]]
    unit: str
    parts_are: str
    rows: int
    answers: Mapping[str, int]
    tested: int
    holds: int
    alone: int
    fields: Mapping[str, int]
    places: Mapping[str, int]
    words: tuple[Named, ...]
    layers: tuple[Named, ...]
    cut: int
    cut_turned: int
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "explanations", "format": schema.FORMAT, **asdict(self)}


def row_of(found: Explanation) -> dict[str, Any]:
    """An explanation as a row of a table: what is summed up, without the whole of its parts."""
    strongest = [part for part in found.strongest(TOP) if (part.worth or 0.0) > 0]
    return {
        "answer": found.answer, "score": found.score, "support": found.support, "said": found.said,
        "strongest": strongest[0].name if strongest else None,
        "worth": strongest[0].worth if strongest else None,
        "field": str(strongest[0].place[0]) if strongest else None,
        "place": where(found, strongest[0]) if strongest else None,
        "parts": [{"name": p.name, "place": list(p.place), "worth": p.worth} for p in strongest],
        "parts_are": found.parts_are, "unit": found.unit, "lost": found.test.lost, "by_chance": found.test.by_chance,
        "tested": bool(found.test.orders), "holds": bool(found.test.orders) and found.test.holds,
        "turns": None if found.turns is None else len(found.turns), "turned": found.turned or None,
        "keeps": None if found.keeps is None else len(found.keeps), "unseen": len(found.unseen),
        "seen_all": found.seen_all or None, "layers": {layer.name: layer.worth for layer in found.layers},
        # of a text only its beginning is known without a layer, so that it is not told which one turns it
        "layers_that_turn": [] if found.tokens else [one.name for one in found.layers if one.answer != found.answer],
        "asked": found.asked, "seconds": found.seconds,
    }  # fmt: skip


def where(found: Explanation, part: PartWorth) -> str:
    """In which tenth of its text or sound a part begins; in which ninth of an image its middle lies."""
    field, *ends = part.place
    own = [other.place[1:] for other in found.parts if other.place[0] == field]
    if len(ends) == 4:
        wide, high = max(box[2] for box in own), max(box[3] for box in own)
        across, down = (ends[0] + ends[2]) / 2 / max(wide, 1), (ends[1] + ends[3]) / 2 / max(high, 1)
        return f"{ROWS[min(int(3 * down), 2)]} {COLUMNS[min(int(3 * across), 2)]}"
    if len(ends) == 2:
        length = max(float(end) for _, end in own)
        return f"tenth {min(int(TENTHS * float(ends[0]) / max(length, 1e-9)), TENTHS - 1) + 1}"
    return " ".join(map(str, ends)) or str(field)


def summed_up(
    rows: Sequence[Mapping[str, Any]], *, model: Any, data: str, seconds: float, notes: Iterable[str]
) -> Overview:
    """The rows of `row_of`, together. model: the pipeline."""
    first = rows[0] if rows else {"unit": "", "parts_are": ""}
    return Overview(
        model=model.model.name, task=model.task.name, data=data, plan=model.plan.to_dict(), unit=first["unit"],
        parts_are=first["parts_are"], rows=len(rows), answers=_counted(rows, "answer"),
        tested=sum(row["tested"] for row in rows), holds=sum(row["holds"] for row in rows),
        alone=sum(row["turns"] == 1 for row in rows), fields=_counted(rows, "field"), places=_counted(rows, "place"),
        words=_words(rows), layers=_layers(rows), cut=sum(row["unseen"] > 0 for row in rows),
        cut_turned=sum(row["seen_all"] not in (None, row["answer"]) for row in rows), seconds=round(seconds, 1),
        notes=tuple(notes),
    )  # fmt: skip


def _counted(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, int]:
    found = Counter(str(row[column]) for row in rows if row[column] is not None)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _words(rows: Sequence[Mapping[str, Any]]) -> tuple[Named, ...]:
    """Parts by their name in small letters without punctuation: those that stand first in most rows."""
    first: Counter[str] = Counter()
    worths: dict[str, list[float]] = {}
    for row in rows:
        for at, part in enumerate(row["parts"]):
            name = re.sub(r"^\W+|\W+$", "", str(part["name"]).casefold()) or str(part["name"])
            first[name] += at == 0
            worths.setdefault(name, []).append(float(part["worth"]))
    told = [Named(name, first[name], sum(some) / len(some)) for name, some in worths.items() if first[name]]
    return tuple(sorted(told, key=lambda one: (-one.rows, -one.worth, one.name))[:WORDS])


def _layers(rows: Sequence[Mapping[str, Any]]) -> tuple[Named, ...]:
    worths: dict[str, list[float]] = {}
    turned = Counter(name for row in rows for name in row["layers_that_turn"])
    for row in rows:
        for name, worth in row["layers"].items():
            worths.setdefault(name, []).append(float(worth))
    return tuple(Named(name, turned[name], sum(some) / len(some)) for name, some in worths.items())
