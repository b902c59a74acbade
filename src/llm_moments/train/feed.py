"""What a training is fed with: examples that are all there, or a stream whose end nobody knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from llm_moments.core import Example
from llm_moments.train.augment import oversampled
from llm_moments.train.settings import Settings

Learnt = Callable[[Sequence[Example], int], tuple[list[Any], Any]]


@dataclass(frozen=True)
class Window:
    """Rows whose batches are made together. rows: int64 [n], their numbers; targets: [n, …], None where the loss needs
    none; start: how many rows of the epoch came before."""

    rows: np.ndarray
    values: list[Any]
    targets: Any
    start: int


class Feed(ABC):
    @property
    @abstractmethod
    def size(self) -> int | None:
        """Rows of an epoch; None: nobody knows."""

    @abstractmethod
    def windows(self, rng: np.random.Generator, most: int) -> Iterator[Window]:
        """The rows of an epoch in an order that rng decides, at most so many together."""


class Rows(Feed):
    """Examples in memory, in any order.

    balance: rows of rarer classes come again until all classes are as common. batch: rows of a batch that may not be one
    alone, which then waits for the next epoch (where batches are normalised there is no spread in one); 0: it may.
    """

    def __init__(self, values: Sequence[Any], targets: Any, *, balance: bool = False, batch: int = 0):
        self.values, self.targets, self.balance, self.batch = list(values), targets, balance, batch

    @cached_property
    def size(self) -> int:  # type: ignore[override]  # as the contract's property, but made once
        return len(self.order(np.random.default_rng(0)))

    def order(self, rng: np.random.Generator) -> np.ndarray:
        rows = oversampled(self.targets.numpy(), rng) if self.balance else rng.permutation(len(self.values))
        return rows[: len(rows) - alone(len(rows), self.batch)]

    def windows(self, rng: np.random.Generator, most: int) -> Iterator[Window]:
        order = self.order(rng)
        for start in range(0, len(order), most):
            rows = order[start : start + most]
            targets = None if self.targets is None else self.targets[rows]
            yield Window(rows, [self.values[r] for r in rows], targets, start)


class Stream(Feed):
    """Examples as they come; the rows of a window are in any order, and no more than a window is held.

    examples: from their beginning, once an epoch. learnt: the values and targets of some of them, the first of
    which is number `first` (from 0) of the stream; rows that cannot be learnt are left out there. batch: as in `Rows`.
    """

    size = None

    def __init__(self, examples: Iterable[Example], learnt: Learnt, *, batch: int = 0):
        self.examples, self.learnt, self.batch = examples, learnt, batch

    def windows(self, rng: np.random.Generator, most: int) -> Iterator[Window]:
        source, first = iter(self.examples), 0
        while some := list(islice(source, most)):
            values, targets = self.learnt(some, first)
            order = rng.permutation(len(values))
            if len(order := order[: len(order) - alone(len(order), self.batch)]):
                taken = None if targets is None else targets[order]
                yield Window(first + order, [values[r] for r in order], taken, first)
            first += len(some)


def alone(rows: int, batch: int) -> int:
    """1 where the last batch would be of one row that may not be alone."""
    return int(rows > 1 and batch > 1 and rows % batch == 1)


def least_batch(module: Any, settings: Settings) -> int:
    """What `batch` is for a module: nothing where no batch is normalised."""
    import torch

    normalised = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules())
    return settings.batch_size if normalised else 0
