"""How likely a model finds texts that are given, token by token: what is asked, and what an engine answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BEST = 5  # likeliest tokens that are told of each place


@dataclass(frozen=True)
class Asked:
    """The tokens `told` after the tokens `ids`; of an encoder-decoder, `ids` begin the answer, and prompt is the Prompt that it reads."""

    ids: tuple[int, ...]
    told: tuple[int, ...]
    prompt: Any = None


@dataclass(frozen=True)
class Detail:
    """Of each token of an answer: entropy of what might have come, nats [tokens]; best: the likeliest tokens
    [tokens, BEST]; best_logprob: float64 [tokens, BEST]."""

    entropy: np.ndarray
    best: np.ndarray
    best_logprob: np.ndarray


@dataclass(frozen=True)
class Scored:
    """logprob: float64 [tokens], nats. likeliest: bool [tokens], whether no other token was likelier there, where the engine
    tells that. read: tokens that went through the model for it; what other rows had read already is not read again."""

    logprob: np.ndarray
    likeliest: np.ndarray | None
    read: int
    detail: Detail | None = None


def scored(table: np.ndarray, told: Sequence[int], read: int, detailed: bool = False) -> Scored:
    """table: float [tokens, vocabulary], log-probabilities at each place of `told`."""
    tokens = np.asarray(told, np.int64)
    own = table[np.arange(len(tokens)), tokens].astype(np.float64)
    return Scored(own, own >= table.max(axis=1), read, detail(table) if detailed else None)


def detail(table: np.ndarray) -> Detail:
    count = min(BEST, table.shape[1])
    some = np.argpartition(-table, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(table, some, 1), axis=1, kind="stable")
    best = np.take_along_axis(some, order, 1)
    finite = np.where(table > -np.inf, table, 0.0).astype(np.float64)
    entropy = -(np.exp(table.astype(np.float64)) * finite).sum(axis=1)
    return Detail(entropy, best, np.take_along_axis(table, best, 1).astype(np.float64))
