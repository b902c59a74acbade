"""Text to token ids, without special tokens: those are set when the row is cut to its length."""

from __future__ import annotations

from typing import Any

from llm_moments.core import Batch, Knob, Recorder
from llm_moments.models.encoder import Encoder


class Tokenize:
    """Writes `first` and `second`: token ids of each text, and of a pair's second text (None without one)."""

    name = "tokenize"
    reads: tuple[str, ...] = ("text", "shortened", "input")
    writes: tuple[str, ...] = ("first", "second")
    knobs: tuple[Knob, ...] = ()

    def __init__(self, encoder: Encoder, needed: int):
        self.encoder, self.needed = encoder, needed

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        texts, shortened = batch["text"], batch["shortened"]
        first = self.encoder.encode([t if isinstance(t, str) else t[0] for t in texts])
        pairs = [row for row, t in enumerate(texts) if not isinstance(t, str)]
        second: list[list[int] | None] = [None] * len(texts)
        self._fill(second, pairs, [texts[row][1] for row in pairs])
        short = [row for row, slack in shortened.items() if len(first[row]) < self.needed + slack]
        self._fill(first, short, [batch["input"][row] for row in short])
        if recorder.active:
            made = sum(map(len, first)) + sum(len(ids) for ids in second if ids)
            recorder.count(tokens=made, whole_again=len(short))
        return batch.with_(first=first, second=second)

    def _fill(self, ids: list[Any], rows: list[int], texts: list[str]) -> None:
        for row, encoded in zip(rows, self.encoder.encode(texts) if rows else (), strict=True):
            ids[row] = encoded
