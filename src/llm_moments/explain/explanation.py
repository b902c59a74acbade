"""One answer opened up, as plain data: it saves and loads itself, and is drawn elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic
from llm_moments.base.views import drawn
from llm_moments.core.parts import AnswerToken
from llm_moments.record.session import Session

SURE = 0.9  # of the orders by chance that must have lost less


@dataclass(frozen=True)
class PartWorth:
    """worth: what the answer loses without this part, in the explanation's unit; None where it was not left out alone. title:
    what it is called, such as "turn 2". asks: it is the question. token: the most that one token of the answer loses without
    it. inside: parts of it, where it was taken apart."""

    name: str
    place: tuple[Any, ...]
    worth: float | None
    title: str = ""
    asks: bool = False
    token: float | None = None
    inside: tuple[PartWorth, ...] = ()

    @property
    def called(self) -> str:
        return self.title or f"“{self.name[:60]}”"


@dataclass(frozen=True)
class PairWorth:
    """What the answer loses without two parts, by their numbers, together."""

    one: int
    other: int
    worth: float


@dataclass(frozen=True)
class Unseen:
    """A stretch of the input that never reached the model."""

    name: str
    place: tuple[Any, ...]


@dataclass(frozen=True)
class AgainstChance:
    """The explanation held against chance: `sizes` parts that are said to matter most, and as many by chance, are left out.

    lost, by_chance: what the answer loses, on the mean over the sizes; better: of `orders` by chance, how many lost less.
    without_strongest, without_another: the answer without the strongest part, and without one by chance that is as long."""

    sizes: tuple[int, ...]
    lost: float
    by_chance: float
    better: int
    orders: int
    without_strongest: str = ""
    without_another: str = ""
    another: str = ""  # which one that was

    @property
    def holds(self) -> bool:
        """An order by chance would pass at most one time in ten. One of them may do as well: where one word decides of
        ten, it comes first by chance, too."""
        return self.orders > 0 and self.better >= max(SURE * self.orders, 1)


@dataclass(frozen=True)
class LayerWorth:
    """What leaving a layer out does to this answer, in the unit; the answer then."""

    name: str
    worth: float
    answer: str


@dataclass(frozen=True)
class Other:
    """A plan under which the answer is another one, or is not."""

    name: str
    answer: str
    same: bool
    worth: float


@dataclass(frozen=True)
class Against:
    """Another plan on the same input. name: what it is called; answer, score: what it says; same: whether that is the same
    answer; where: the first step at which the two part (a step's name, "layer 3", "token 5"; "" where they do not), and that in
    a sentence; plan: its choices."""

    name: str
    answer: str
    score: float | None
    same: bool
    where: str
    said: str
    plan: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Explanation:
    """said: the one sentence on top. parts_are: words, sentences, patches …. answer: as a person reads it; score: its probability, where there is one. support: how far the model speaks for it,
    in `unit`. stage: which stage of a cascade gave it. keeps: numbers of few parts that give it by themselves; turns: of few
    parts without which it is another one. seen_all: the answer with what was not seen, where it can be had. asked: times
    that the model was asked. Of answers that are texts: tokens; pairs: of the strongest parts; without_all: what is lost
    without all parts but the question; faithful: where it was judged, and whether the answer is the same there; read, spared:
    tokens that went through the model, and that had not to be read again. against: another plan on the same input."""

    input: Any
    answer: str
    score: float | None
    support: float
    unit: str
    said: str
    parts_are: str
    parts: tuple[PartWorth, ...]
    test: AgainstChance
    keeps: tuple[int, ...] | None
    turns: tuple[int, ...] | None
    turned: str
    unseen: tuple[Unseen, ...]
    seen_all: str
    layers: tuple[LayerWorth, ...]
    others: tuple[Other, ...]
    stage: str
    asked: int
    seconds: float
    session: Session | None
    notes: tuple[str, ...]
    model: str
    plan: Mapping[str, Mapping[str, Any]]
    tokens: tuple[AnswerToken, ...] = ()
    pairs: tuple[PairWorth, ...] = ()
    without_all: float | None = None
    faithful: str = ""
    read: int = 0
    spared: int = 0
    against: Against | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "explanation", "format": schema.FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Explanation:
        return schema.result(data, "explanation", cls)

    def save(self, path: str | Path) -> Path:
        write_atomic(Path(path), json.dumps(self.to_dict(), indent=1))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        return schema.read(Path(path), "a saved explanation", cls.from_dict)

    def with_sentence(self, said: str) -> Explanation:
        return replace(self, said=said)

    def _repr_html_(self) -> str:
        return drawn("explanation", self)

    def named(self, numbers: tuple[int, ...]) -> str:
        """Some parts as they stand, for a sentence."""
        return ", ".join(self.parts[at].title or f"“{self.parts[at].name[:40]}”" for at in numbers)

    def strongest(self, count: int = 10) -> list[PartWorth]:
        """The parts that the answer loses most by, the question left aside."""
        known = [part for part in self.parts if part.worth is not None and not part.asks]
        return sorted(known, key=lambda part: -(part.worth or 0.0))[:count]
