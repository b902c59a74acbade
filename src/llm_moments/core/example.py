"""What goes in: Example, Batch, and how many of them are a handful."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

WINDOW = 2048  # examples that are tokenized, sorted and batched together; bounds the memory of `run`


@dataclass(frozen=True)
class SampleSizes:
    """How many examples are a handful: a classifier answers hundreds while a language model answers one.

    window: rows that `run` holds at a time. block: fewest rows that are timed at a time; warm: rows on which an
    engine is opened. few, most: fewest and most rows of the splits that `improve` searches and certifies on.
    """

    window: int = WINDOW
    block: int = 32
    warm: int = 8
    few: Mapping[str, int] = field(default_factory=lambda: {"search": 150, "certify": 400})
    most: Mapping[str, int] = field(default_factory=lambda: {"calibrate": 200, "search": 800, "certify": 4000})


@dataclass(frozen=True, slots=True)
class Example:
    """One input (a text, or a pair of texts), its reference answer if there is one, an id, and the group (a user, a
    document, a speaker) whose rows are not independent of one another."""

    input: Any
    reference: Any = None
    id: Any = None
    group: Any = None


@dataclass
class Batch:
    """Named fields for `size` examples; every field but the `shared` ones has one entry an example."""

    size: int
    fields: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)  # when its inputs were there
    details: dict[str, Any] = field(default_factory=dict)  # a column an entry: what is told of each answer (usage.py)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def with_(self, **fields: Any) -> Batch:
        return replace(self, fields={**self.fields, **fields})

    def told(self, **details: Any) -> Batch:
        """The same, with more to be told of each row's answer."""
        return replace(self, details={**self.details, **details})

    def take(self, rows: np.ndarray) -> Batch:
        """The inputs of some rows, as a batch of its own: whatever steps have added is left behind."""
        inputs = self.fields["input"]
        return Batch(len(rows), {"input": [inputs[i] for i in rows]})
