"""From logits to the next token, and guesses of tokens to come: for engines whose decode loop is written here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_moments.engines.generator import Decoding

NGRAM = 3  # the longest run of tokens that is looked for


class Picker:
    """Of one answer. Greedy at temperature 0; else drawn as transformers draws: penalty, temperature, top_k, top_p.

    One number is drawn a token, so that an answer is the same whatever was guessed ahead.
    """

    def __init__(self, decoding: Decoding, prompt: Sequence[int]):
        self.decoding = decoding
        self.random = np.random.default_rng(decoding.seed)
        self.seen = set(prompt) if decoding.repetition_penalty != 1 else None

    def __call__(self, logits: np.ndarray) -> int:
        """logits: float32 [vocabulary], not changed."""
        if self.seen:
            logits = self._penalised(logits)
        token = int(logits.argmax()) if self.decoding.temperature == 0 else self._drawn(logits)
        if self.seen is not None:
            self.seen.add(token)
        return token

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        at = np.fromiter(self.seen or (), np.int64)
        logits, penalty = logits.copy(), self.decoding.repetition_penalty
        logits[at] = np.where(logits[at] < 0, logits[at] * penalty, logits[at] / penalty)
        return logits

    def _drawn(self, logits: np.ndarray) -> int:
        order = np.argsort(-logits, kind="stable")
        if self.decoding.top_k:
            order = order[: self.decoding.top_k]
        scores = logits[order].astype(np.float64) / self.decoding.temperature
        shares = np.exp(scores - scores[0])
        shares /= shares.sum()
        reach = np.cumsum(shares)
        kept = int(np.searchsorted(reach, self.decoding.top_p)) + 1 if self.decoding.top_p < 1 else len(order)
        kept = min(kept, len(order))
        return int(order[min(int(np.searchsorted(reach[:kept], self.random.random() * reach[kept - 1])), kept - 1)])


def looked_up(ids: Sequence[int], most: int) -> list[int]:
    """What came after the last place where the text's last tokens stood before: at most `most` tokens, maybe none."""
    for length in range(min(NGRAM, len(ids) - 1), 0, -1):
        end = list(ids[-length:])
        for at in range(len(ids) - length - 1, -1, -1):
            if list(ids[at : at + length]) == end:
                return list(ids[at + length : at + length + most])
    return []
