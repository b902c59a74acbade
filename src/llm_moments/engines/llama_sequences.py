"""A context of llama.cpp that grows with what is asked, and the tokens that each of its sequences holds."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.engines.llama_context import LlamaContext, LlamaModel, Piece

GRAIN = 256  # a context has room for a multiple of so many tokens


class Sequences:
    """`known[s]`: the tokens whose keys and values sequence s holds. keeps: they outlive a call of `generate`."""

    def __init__(self, model: LlamaModel, count: int, settings: Mapping[str, Any], *, keeps: bool = False):
        self.model, self.count, self.settings, self.keeps = model, count, settings, keeps
        self.context: LlamaContext | None = None
        self.known: list[list[int]] = [[] for _ in range(count)]

    def with_room(self, tokens: int) -> LlamaContext:
        """The context, made anew where it has too little room; what is kept moves along."""
        old = self.context
        if old is not None and old.room >= tokens:
            return old
        if old is not None and self.keeps:
            tokens = max(tokens, 2 * old.room)  # a dialogue grows: not anew at every turn
        states = self._states() if self.keeps else {}
        self.close()
        self.context = LlamaContext(self.model, -(-tokens // GRAIN) * GRAIN, self.count, self.settings)
        for sequence, (ids, state) in states.items():
            if self.model.api.llama_state_seq_set_data(self.context.pointer, state, len(state), sequence):
                self.known[sequence] = ids
        return self.context

    def _states(self) -> dict[int, tuple[list[int], Any]]:
        """What each sequence holds, in llama.cpp's own bytes."""
        api, found = self.model.api, {}
        for sequence, ids in enumerate(self.known):
            if self.context is not None and ids:
                state = (ctypes.c_uint8 * api.llama_state_seq_get_size(self.context.pointer, sequence))()
                if api.llama_state_seq_get_data(self.context.pointer, state, len(state), sequence):
                    found[sequence] = ids, state
        return found

    def begin(self, sequence: int, ids: Sequence[int], *, share: bool) -> int:
        """Makes a sequence ready to go on with these tokens: how many of them it holds, always fewer than all.

        share: beginnings that a sequence holds are taken, from another one if that holds more.
        """
        held = 0
        if share:
            best = max(range(self.count), key=lambda s: (common(self.known[s], ids), s == sequence))
            held = min(common(self.known[best], ids), len(ids) - 1)
            if best != sequence and held and self.context is not None:
                self.context.copy(best, sequence, held)
        self.cut(sequence, held)
        self.known[sequence] = list(ids[:held])
        return held

    def cut(self, sequence: int, length: int) -> None:
        """Drops what a sequence holds from that position on."""
        if self.context is not None:
            self.context.forget(sequence, length)
        del self.known[sequence][length:]

    def read(self, sequence: int, ids: Sequence[int], start: int) -> np.ndarray:
        """Goes on with all of `ids` that the sequence does not hold: float32 [len(ids) - start, vocabulary], the
        logits after each of the tokens ids[start:]. There must be room for them (`with_room`)."""
        assert self.context is not None
        rows, at = [], len(self.known[sequence])
        while at < len(ids):
            tokens = list(ids[at : at + self.context.most])
            told = min(max(at + len(tokens) - start, 0), len(tokens))
            rows.append(np.array(self.context.read([Piece(sequence, at, tokens, told)])[0]))
            at += len(tokens)
        self.known[sequence] = list(ids)
        return np.concatenate(rows)

    def forget(self) -> None:
        """Drops all tokens of all sequences; the context and its memory stay."""
        if self.context is not None:
            self.context.clear()
        self.known = [[] for _ in range(self.count)]

    def close(self) -> None:
        if self.context is not None:
            self.context.close()
        self.context, self.known = None, [[] for _ in range(self.count)]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
