"""What a label says, decided in one place for reading, judging and learning alike.

Numbers that are equal are one label, however they are written (1, 1.0, True, "1", Decimal("1.0")). A label means, in
this order: the class of that name (as it stands, without blanks at the ends, without regard to case); the class whose
name is that number; where names hold numbers ("4 stars", "label_1") the only one that holds it; and only where no name
holds a number the place in the list, from 0. Anything else is unknown.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
SEPARATOR = "|"  # between the labels of one cell
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
HELD = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
GENERIC = re.compile(r"LABEL_\d+")
MOST_DIGITS = 60


class Named(str):
    """The name that a file gives to a class it numbers (ClassLabel): a text, with that number and all the names."""

    number: int
    names: tuple[str, ...]

    def __new__(cls, number: int, names: Sequence[str]) -> Named:
        made = super().__new__(cls, names[number])
        made.number, made.names = number, tuple(names)
        return made

    def __reduce__(self) -> Any:
        return Named, (self.number, self.names)


# ---------------------------------------------------------------------------------------- one label


def missing(value: Any) -> bool:
    """Nothing there: null, NaN (a gap, as pandas writes it), or a text of blanks."""
    if value is None:
        return True
    if isinstance(value, str | bytes):
        return not value.strip()
    if isinstance(value, Decimal):
        return value.is_nan()
    return (isinstance(value, Real) and bool(value != value)) or type(value).__name__ in ("NAType", "NaTType")


def number(value: Any) -> Decimal | None:
    """The finite number that a value is, or that a text spells; None for anything else."""
    if isinstance(value, bool | np.bool_ | Integral):
        text = str(int(value))
    elif isinstance(value, str | bytes | Real | Decimal):
        text = text_of(value)
    else:
        return None
    if len(text) > MOST_DIGITS or not NUMBER.fullmatch(text):
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if abs(found.adjusted()) <= MOST_DIGITS else None


def text_of(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip()


def spelt(value: Any) -> str:
    """A label as a name: numbers in one way (1 for 1.0 and True), texts without blanks at the ends."""
    found = number(value)
    if found is None:
        return text_of(value)
    if found == found.to_integral_value():
        return str(int(found))
    return format(found.normalize(), "f")


def class_names(values: Iterable[Any]) -> list[str]:
    """The classes that occur, equal numbers as one; numbers by size, then texts. "01" stays where nothing else equals
    it. Of a file that names its classes: all of them, in its order."""
    found: dict[Hashable, set[str]] = {}
    told: set[tuple[str, ...] | None] = set()
    for value in values:
        told.add(value.names if isinstance(value, Named) else None)
        one = number(value)
        found.setdefault(text_of(value) if one is None else one, set()).add(text_of(value))
    if len(told) == 1 and (names := told.pop()):
        return list(names)
    return [_name(key, ways) for key, ways in sorted(found.items(), key=_order)]


def _order(item: tuple[Hashable, set[str]]) -> tuple[bool, Decimal, str]:
    key = item[0]
    return (False, key, "") if isinstance(key, Decimal) else (True, Decimal(0), str(key))


def _name(key: Hashable, ways: set[str]) -> str:
    only = next(iter(ways)) if len(ways) == 1 else ""
    return only if not isinstance(key, Decimal) or re.fullmatch(r"0\d+", only) else spelt(key)


# -------------------------------------------------------------------------------- several labels


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset | np.ndarray)


def listed(value: Any, known: Known | None = None) -> list[Any]:
    """The labels of one cell: a list, a list written as a text, or a text with | between them. Of names that are
    known those that hold a separator stay whole, and commas or semicolons may stand between them, too."""
    if is_list(value):
        return value.tolist() if isinstance(value, np.ndarray) else list(value)
    if not isinstance(value, str | bytes) or isinstance(value, Named):
        return [value]
    text = text_of(value)
    if not text:
        return []
    if known is not None and known.named(text):
        return [text]
    if (found := _written(text)) is not None:
        return found
    parts = _parts(text, SEPARATOR, known)
    if known is not None and len(parts) == 1 and known.place(parts[0]) is None:
        for mark in ";,":
            split = _parts(text, mark, known)
            if len(split) > 1 and all(known.place(part) is not None for part in split):
                return list(split)
    return list(parts)


def _written(text: str) -> list[Any] | None:
    """A list as JSON, Python or numpy writes it."""
    if not (text[0] in "[(" and text[-1] in "])"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = text[1:-1].split() if re.fullmatch(r"\[[\d.\s]*\]", text) else None
        if isinstance(found, list) and len(found) == 1 and re.search(r"['\"]\s+['\"]", text):  # numpy's, without commas
            found = [a or b for a, b in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)]
    return list(found) if isinstance(found, list | tuple) else None


def _parts(text: str, mark: str, known: Known | None) -> list[str]:
    parts, found, at = [part.strip() for part in text.split(mark)], [], 0
    while at < len(parts):
        joined = (n for n in range(len(parts), at + 1, -1) if known and known.named(mark.join(parts[at:n])))
        end = next(joined, at + 1)
        found.append(mark.join(parts[at:end]))
        at = end
    return [part for part in found if part]


def cell_of(labels: Sequence[Any], among: Iterable[Any] = ()) -> str:
    """Several labels as one text that `listed` reads as the same ones. among: all names that there are."""
    names = [str(label) for label in labels]
    plain = all(n == n.strip() and n and SEPARATOR not in n and n[0] not in "[(" for n in names)
    if plain and not any(SEPARATOR in str(name) for name in among):
        return SEPARATOR.join(names)
    return json.dumps(names, ensure_ascii=False)


def is_several(value: Any) -> bool:
    """Whether a value is several labels even where nothing is known of the names."""
    if is_list(value):
        return True
    if isinstance(value, Named) or not isinstance(value, str):
        return False
    return len(listed(value)) > 1 or bool(value.strip() and _written(value.strip()) is not None)


def places(lists: Iterable[Sequence[Any]], classes: int | None = None) -> int:
    """How many places a column of multi-hot vectors has; 0 where its lists are none.

    All are of one length (that of the classes, if these are known) and hold nothing but 0 and 1. A list of texts or of
    a single whole number is taken so only where it could not be a list of classes: where something stands in it twice.
    """
    length, sure, twice = 0, False, False
    for one in lists:
        numbers = [number(v) for v in one]
        if any(n is None or n not in (0, 1) for n in numbers) or len(one) != (length or len(one)) or not one:
            return 0
        length = len(one)
        sure = sure or any(isinstance(v, float | np.floating | bool | np.bool_) for v in one)
        sure = sure or (length > 1 and not any(isinstance(v, str) for v in one))
        twice = twice or len(set(numbers)) < length
    if classes is not None and length != classes:
        return 0
    return length if sure or twice else 0


# ------------------------------------------------------------------------------- names of a model


class Known:
    """The names of a model's classes, and which of them a label means."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.generic = all(GENERIC.fullmatch(name) for name in names)
        self._ways = [
            {name: at for at, name in enumerate(names)}, _once(map(str.strip, names)), _once(map(_folded, names)),
        ]  # fmt: skip
        self._numbers = _once(_as_number(name) for name in names)
        self._held = _once(_held(name) for name in names)
        self._holds = any(HELD.search(name) for name in names) or bool(self._numbers)

    def named(self, text: str) -> bool:
        """Whether a text is a name itself (never a number that stands for one)."""
        return any(key in way for way, key in zip(self._ways, (text, text.strip(), _folded(text)), strict=True))

    def place(self, value: Any) -> int | None:
        """The place of the class that a label means; None where it is unknown."""
        raw = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for way, key in zip(self._ways, (raw, raw.strip(), _folded(raw)), strict=True):
            if key in way:
                return way[key]
        if isinstance(value, Named) and self.generic:
            value = value.number
        found = _as_number(value)
        if found is None:
            return None
        if (named := self._ways[0].get(spelt(value))) is not None:  # of "+1" and "1" the number is the second
            return named
        if found in self._numbers:
            return self._numbers[found]
        if self._holds:
            return self._held.get(found)
        return int(found) if found == found.to_integral_value() and 0 <= found < len(self.names) else None

    def one(self, value: Any) -> int:
        """As `place`, of a single label (a list of one, and a one-hot vector, are one, too); DataError if unknown."""
        written = isinstance(value, str) and value.strip()[:1] in ("[", "(") and not self.named(value)
        several = listed(value, self) if is_list(value) or written else [value]
        if hot := places([several], len(self.names)) if len(several) > 1 else 0:
            several = [at for at in range(hot) if number(several[at]) == 1]
            if len(several) == 1:
                return int(several[0])
        if len(several) != 1:
            raise DataError(f"the label {value!r:.80} is {len(several)} labels, and this model knows one an example")
        found = self.place(several[0])
        if found is None:
            raise DataError(
                f"the model does not know the label {several[0]!r:.80}; it knows {self.few()}{self._why(value)}"
            )
        return found

    def _why(self, value: Any) -> str:
        if self._holds and not self._numbers and number(value) is not None:
            return " (a number is no place in this list, whose names hold numbers themselves: write the names)"
        return ""

    def set_of(self, value: Any, hot: int = 0) -> frozenset[int]:
        """The places of several labels. hot: how many places the column's vectors have (`places`), 0 for lists of names."""
        several = listed(value, self)
        if len(several) == len(self.names) > 2 and places(
            [several]
        ):  # something stands twice in it: no list of classes
            hot = hot or len(several)
        if hot:
            if len(several) != hot or any(number(v) not in (0, 1) for v in several):
                raise DataError(f"the labels {value!r:.80} are no vector of {hot} zeros and ones, as other rows have")
            return frozenset(at for at in range(hot) if number(several[at]) == 1)
        if len(several) > 2 and len(several) != len(self.names) and places([several]):
            raise DataError(
                f"the labels {value!r:.80} are {len(several)} zeros and ones, and the model knows {len(self.names)} classes"
            )
        return frozenset(self.one(v) for v in several)

    def few(self) -> str:
        return few(self.names, 12)


def few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().casefold())


def _as_number(value: Any) -> Decimal | None:
    """Also of "true" and "false", as tables write what other files hold as 1 and 0."""
    if isinstance(value, str) and _folded(value) in ("true", "false"):
        return Decimal(int(_folded(value) == "true"))
    return number(value)


def _held(name: str) -> Decimal | None:
    """The only number in a name."""
    found = HELD.findall(name)
    return Decimal(found[0]) if len(found) == 1 and len(found[0]) <= MOST_DIGITS else None


def _once(keys: Iterable[Any]) -> dict[Any, int]:
    """Keys that occur once, with their places."""
    found, twice = {}, set()
    for at, key in enumerate(keys):
        if key in found:
            twice.add(key)
        found[key] = at
    return {key: at for key, at in found.items() if key not in twice and key is not None}


# ----------------------------------------------------------------------------------- a column of them

Reading = Callable[[Any], Any]


def finite(value: Any) -> float:
    """The number of a regression; DataError."""
    several = listed(value) if is_list(value) else [value]
    found = number(several[0]) if len(several) == 1 else None
    if found is not None:
        return float(found)
    if isinstance(value, Real | Decimal) or text_of(value).lower().strip("+-") in ("inf", "infinity", "nan"):
        raise DataError(f"the label {value!r} is not finite")
    raise DataError(f"the label {value!r:.80} is not a number, and this model is a regression")


def reading(problem: str, names: Sequence[str], column: Iterable[Any]) -> Reading:
    """What each label of a column means to a model: a place, a set of places, a number; None where it is missing. The
    whole column says whether its lists are vectors of 0 and 1. It raises DataError for a label that means nothing."""
    if problem == REGRESSION:
        return lambda value: None if missing(value) else finite(value)
    known = Known(names)
    if problem != MULTI:
        return lambda value: None if missing(value) else known.one(value)
    hot = places((listed(v, known) for v in column if labelled(v, problem) and not is_empty(v)), len(known.names))
    return lambda value: known.set_of(value, 0 if is_empty(value) else hot) if labelled(value, problem) else None


def is_empty(value: Any) -> bool:
    """A list of no label, or an empty cell."""
    return (is_list(value) and len(value) == 0) or (isinstance(value, str) and not value.strip())


def labelled(value: Any, problem: str) -> bool:
    """Whether a row has a label: of several labels an empty cell says that there is none of them."""
    return is_list(value) or not missing(value) or (problem == MULTI and isinstance(value, str))
