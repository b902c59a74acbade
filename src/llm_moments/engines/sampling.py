"""From logits to the next token, and guesses of tokens to come: for engines whose decode loop is written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.engines.generator import Decoding

NGRAM = 3  # the longest run of tokens that is looked for


class Rules:
    """What a folder forbids or forces (generation_settings.RULES), as transformers' logits processors do it.

    Of one answer. ends: the tokens that end it, asked for where they are needed.
    """

    follows = (
        "min_length", "min_new_tokens", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
        "begin_suppress_tokens", "forced_eos_token_id",
    )  # fmt: skip

    def __init__(self, asked: Mapping[str, Any], prompt: Sequence[int], most: int, ends: Callable[[], list[int]]):
        self.asked, self.ids, self.start, self.most = asked, list(prompt), len(prompt), most
        least = asked.get("min_new_tokens")
        self.least = int(asked.get("min_length", 0)) - self.start if least is None else int(least)
        self.ends = ends() if self.least > 0 else []

    @classmethod
    def of(
        cls, asked: Mapping[str, Any], prompt: Sequence[int], most: int, ends: Callable[[], list[int]]
    ) -> Rules | None:
        return cls(asked, prompt, most, ends) if any(name in asked for name in cls.follows) else None

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        new, logits = len(self.ids) - self.start, logits.copy()
        forced = self.asked.get("forced_eos_token_id")
        if forced is not None and new == self.most - 1:
            kept = logits[np.atleast_1d(forced)]
            logits[:] = -np.inf
            logits[np.atleast_1d(forced)] = kept
            return logits
        never = [*self.asked.get("suppress_tokens", ()), *self._ending_a_bad_word(), *self._repeating()]
        never += self.asked.get("begin_suppress_tokens", ()) if new == 0 else ()
        never += self.ends if new < self.least else ()
        logits[[token for token in never if token < len(logits)]] = -np.inf
        return logits

    def _ending_a_bad_word(self) -> list[int]:
        words = self.asked.get("bad_words_ids", ())
        return [word[-1] for word in words if len(word) == 1 or self.ids[1 - len(word) :] == word[:-1]]

    def _repeating(self) -> list[int]:
        """Tokens that would make a run of so many tokens that was there before."""
        size = int(self.asked.get("no_repeat_ngram_size", 0))
        if not size or len(self.ids) + 1 < size:
            return []
        last = self.ids[len(self.ids) + 1 - size :]
        return [
            self.ids[at + size - 1] for at in range(len(self.ids) - size + 1) if self.ids[at : at + size - 1] == last
        ]


class Picker:
    """Of one answer. Greedy at temperature 0; else drawn as transformers draws: penalty, temperature, top_k, top_p.

    One number is drawn a token, so that an answer is the same whatever was guessed ahead.
    """

    def __init__(self, decoding: Decoding, prompt: Sequence[int], rules: Rules | None = None):
        self.decoding, self.rules = decoding, rules
        self.random = np.random.default_rng(decoding.seed)
        self.seen = set(prompt) if decoding.repetition_penalty != 1 else None

    def __call__(self, logits: np.ndarray) -> int:
        """logits: float32 [vocabulary], not changed."""
        if self.seen:
            logits = self._penalised(logits)
        if self.rules is not None:
            logits = self.rules(logits)
        token = int(logits.argmax()) if self.decoding.temperature == 0 else self._drawn(logits)
        if self.seen is not None:
            self.seen.add(token)
        if self.rules is not None:
            self.rules.ids.append(token)
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
