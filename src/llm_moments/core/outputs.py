"""What a model said of many inputs: named columns, dense or ragged, of numbers or texts; never of objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Rows = Any  # places of rows: a slice, whole numbers, or a bool each


@dataclass(frozen=True)
class Ragged:
    """A column whose rows have unlike lengths. values: [total, …], those of one row after those of the other; lengths:
    int64 [n]."""

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any, shape: Sequence[int] = ()) -> Ragged:
        """shape: of one value, such as (4,) for boxes."""
        made = [np.asarray(row, dtype).reshape(-1, *shape) for row in rows]
        lengths = np.array([len(row) for row in made], np.int64)
        return cls(np.concatenate(made) if made else np.empty((0, *shape), dtype), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def ends(self) -> np.ndarray:
        return np.cumsum(self.lengths)

    def row(self, at: int) -> np.ndarray:
        end = int(self.ends[at])
        return self.values[end - int(self.lengths[at]) : end]

    def take(self, rows: Rows) -> Ragged:
        wanted = np.arange(len(self))[rows]
        parts = [self.row(at) for at in wanted.tolist()]
        return Ragged(np.concatenate(parts) if parts else self.values[:0], self.lengths[wanted])

    def filled(self, fill: Any) -> np.ndarray:
        """[n, longest, …], with `fill` where a row has no more."""
        made = np.full((len(self), int(self.lengths.max(initial=0)), *self.values.shape[1:]), fill, self.values.dtype)
        made[np.arange(made.shape[1]) < self.lengths[:, None]] = self.values
        return made


Column = np.ndarray | Ragged


class Outputs:
    """Columns by name, all of n rows. numpy sees the first one, where it is dense.

    details: more columns of the same rows, which say how each was answered (tokens, seconds; usage.py). They are no part of
    what the model says: nothing is judged by them, and no study keeps them. Where only some parts have one, the whole has not.
    """

    def __init__(self, columns: Mapping[str, Column], details: Mapping[str, Column] | None = None):
        self.columns, self.details = dict(columns), dict(details or {})
        every = {**self.details, **self.columns}
        if not self.columns or len({len(column) for column in every.values()}) > 1:
            raise ValueError(f"columns of one length, not { ({n: len(c) for n, c in every.items()}) }")
        if objects := [n for n, c in every.items() if _values(c).dtype.kind not in "biufU"]:
            raise TypeError(f"the column {objects[0]!r} holds neither numbers nor texts")

    def told(self, details: Mapping[str, Column]) -> Outputs:
        """The same, with more told of each row."""
        return Outputs(self.columns, {**self.details, **details}) if details else self

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, wanted: Any) -> Any:
        """The column of that name, or the rows at those places."""
        return self.columns[wanted] if isinstance(wanted, str) else self.take(wanted)

    __iter__ = None  # a row is no value of its own

    def __repr__(self) -> str:
        return f"Outputs({len(self)} rows: {', '.join(self.columns)})"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        name, first = next(iter(self.columns.items()))
        if isinstance(first, Ragged):
            raise TypeError(f"the column {name!r} is ragged; take it by its name")
        return np.array(first, dtype) if copy else np.asarray(first, dtype)

    def take(self, rows: Rows) -> Outputs:
        return Outputs(*({n: _taken(c, rows) for n, c in some.items()} for some in (self.columns, self.details)))

    def put(self, rows: Rows, other: Outputs) -> Outputs:
        """The same with other rows at these places."""
        places = np.arange(len(self))
        source = np.full(len(self), -1)
        source[rows] = np.arange(len(other))
        return concat([self, other]).take(np.where(source < 0, places, len(self) + source))

    def where(self, chosen: np.ndarray, other: Outputs) -> Outputs:
        """The other's rows where chosen (bool [n]), else the own."""
        return self.put(chosen, other.take(chosen))


def concat(parts: Iterable[Outputs]) -> Outputs:
    """The rows of one after those of the other; all have the same columns."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    shared = [name for name in parts[0].details if all(name in part.details for part in parts)]
    return Outputs(
        {name: _joined([part.columns[name] for part in parts]) for name in parts[0].columns},
        {name: _joined([part.details[name] for part in parts]) for name in shared},
    )


def _taken(column: Column, rows: Rows) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]


def _joined(columns: Sequence[Any]) -> Column:
    if isinstance(columns[0], Ragged):
        return Ragged(np.concatenate([c.values for c in columns]), np.concatenate([c.lengths for c in columns]))
    return np.concatenate(columns)


def _values(column: Column) -> np.ndarray:
    return column.values if isinstance(column, Ragged) else column


def texts(values: Sequence[str], **more: Column) -> Outputs:
    """One text a row, and what else is known of each."""
    return Outputs({"text": np.array(values, np.str_), **more})


def filled(parts: Iterable[tuple[Any, Mapping[str, np.ndarray]]], size: int) -> Outputs | None:
    """Of named arrays for some rows each those of all rows; None where there are none."""
    made: dict[str, np.ndarray] = {}
    for rows, arrays in parts:
        for name, array in arrays.items():
            if name not in made:
                made[name] = np.empty((size, *array.shape[1:]), array.dtype)
            made[name][rows] = array
    return Outputs(made) if made else None
