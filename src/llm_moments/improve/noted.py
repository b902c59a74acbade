"""What a study notes beside its trials: each fact by its name and type, and the looks with the answers that they judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NotRequired, TypedDict

from llm_moments.base import schema
from llm_moments.base.errors import DataError
from llm_moments.improve.certify import Look


class StockCost(TypedDict):
    stock: float
    sorted: float


class Rows(TypedDict):
    calibrate: int
    search: int
    certify: int


class Taught(TypedDict):
    seconds: float
    examples: int


class First(Taught):
    score: NotRequired[float]  # of the search split
    baseline: NotRequired[float]


class Healed(Taught):
    students: dict[str, float]


class Stand(TypedDict):
    engine: str
    apart: float
    held: int
    cost: float


# Under which keys the baseline's answers are stored: to the search split, and to the certification split or its thirds.
BASELINE = ("search", "certify", "certify+1", "certify+2")
NOTES: Mapping[str, Any] = {
    "stock_cost": StockCost, "rows": Rows, "calibration": str, "layers": int, "hand": str, "sequence": list[str],
    "looks": list[Look], "judged": list[str], "heal": str | Healed, "first": str | First,
    "stand_in": Stand, "cascades": dict[str, tuple[str, str, float]], "asked": dict[str, int],
}  # fmt: skip


def checked(notes: Any) -> dict[str, Any]:
    """The notes of a file; DataError for one of another type. What is not in NOTES is as its stage left it."""
    if not isinstance(notes, dict):
        raise DataError("it holds no notes by their names")
    for name, value in notes.items():
        try:
            schema.convert(value, NOTES.get(name, Any))
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    return notes


def seal(look: Mapping[str, Any], baseline: str, answers: str) -> str:
    """Of a look and the digests of what it judged: neither can be changed or exchanged without the other."""
    return hashlib.sha256(json.dumps([look, baseline, answers], sort_keys=True).encode()).hexdigest()


def wrong_with(
    looks: Sequence[Mapping[str, Any]], notes: Mapping[str, Any], digests: Mapping[str, str], sealed: bool
) -> str:
    """Why looks are not those at the answers that are stored, in that order; empty where they are. sealed: whether
    every look must have its seal; an older version's have none, and "" stands for it."""
    keys = [look["key"] for look in looks]
    if keys != notes.get("sequence", [])[: len(keys)]:
        return "they are not of the plans that were to be looked at"
    if "certify" not in digests:
        return "the baseline's own answers are gone"
    judged = notes.get("judged", [] if sealed else [""] * len(looks))
    if len(judged) != len(looks):
        return "it is not noted which answers they judged"
    for look, told in zip(looks, judged, strict=True):
        if not told and not sealed:
            continue
        if answers_of(look["key"]) not in digests:
            return f"the answers that plan {look['key']} was judged by are gone"
        if told != seal(look, digests["certify"], digests[answers_of(look["key"])]):
            return f"the look at plan {look['key']} is of other answers, or was changed"
    return ""


def answers_of(key: str) -> str:
    """Under which key the answers of a plan on the certification split are stored."""
    return f"certify-{key}"


def plain(look: Look) -> dict[str, Any]:
    return dict(json.loads(json.dumps(asdict(look))))
