"""Rows to padded arrays: which rows go together, in which order, and which need not go at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.engines.padding import NONE, RIGHT, padded
from llm_moments.models.encoder import Encoder


class MakeBatches:
    """Rows of like length share a batch of at most `tokens` padded tokens (or `size` rows).

    Writes `batches`, a list of (rows, arrays): int64 arrays [len(rows), longest]. With `reuse`, rows
    of identical tokens are computed once; `same_as[i]` is the row whose output row i takes.
    """

    name = "batch"
    reads: tuple[str, ...] = ("ids", "types", "second")
    writes: tuple[str, ...] = ("batches", "same_as")
    knobs: tuple[Knob, ...] = (
        Knob("order", "input", ("input", "length"), True, one_of("input", "length"), "input or length"),
        Knob("size", 32, (8, 16, 32, 64, 128, 256), True, whole(1), "most rows a batch, >= 1"),
        Knob("tokens", 0, (0, 1024, 2048, 4096, 8192, 16384), True, whole(0), "most padded tokens a batch; 0: no bound"),
        Knob("multiple", 1, (1, 8, 16), True, whole(1, 512), "lengths are padded to a multiple of this"),
        Knob("reuse", False, (False, True), True, one_of(False, True), "true or false: exact duplicates are computed once"),
        Knob("window", 2048, (512, 2048, 4096), True, whole(1, 1_000_000), "rows that are sorted together"),
    )  # fmt: skip

    def __init__(
        self, settings: Mapping[str, Any], encoder: Encoder, max_length: int, padding: Callable[[], str] = lambda: RIGHT
    ):
        """padding: tells on which side the model takes it; asked when rows of unlike length come."""
        known = {knob.name: knob.default for knob in self.knobs} | dict(settings)
        self.order, self.size, self.tokens = known["order"], known["size"], known["tokens"]
        self.multiple, self.reuse = known["multiple"], known["reuse"]
        self.encoder, self.max_length, self.padding = encoder, max_length, padding
        self.side = RIGHT

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        ids = batch["ids"]
        rows, same_as = unique(ids, batch["types"]) if self.reuse else (np.arange(batch.size), None)
        lengths = np.fromiter((len(ids[r]) for r in rows), np.int64, len(rows))
        if self.order == "length":
            order = np.argsort(-lengths, kind="stable")
            rows, lengths = rows[order], lengths[order]
        if len(set(lengths.tolist())) > 1 or self.multiple > 1:
            self.side = self.padding() if self.encoder.pad_id is not None else NONE
        alone = np.fromiter((self.encoder.pad_id in ids[r] for r in rows), bool, len(rows))
        made = [self.pad(batch, rows[part]) for part in self.parts(lengths, alone)]
        if recorder.active:
            padded = sum(a["input_ids"].size for _, a in made)
            recorder.count(batches=len(made), tokens=int(lengths.sum()), padded_tokens=int(padded))
            squares = sum(a["input_ids"].size * a["input_ids"].shape[1] for _, a in made)  # attention grows with them
            recorder.count(reused_rows=batch.size - len(rows), squares=squares)
        return batch.with_(batches=made, same_as=same_as)

    def parts(self, lengths: np.ndarray, alone: np.ndarray) -> Iterator[slice]:
        """Slices of consecutive rows. Without a padding token each row goes alone, and so does one that holds it
        itself (`alone`): some models look for it to find a row's end."""
        start, longest = 0, 0
        for row, length in enumerate(lengths):
            grown = max(longest, self.rounded(int(length)))
            count = row - start + 1
            full = count > self.size or (self.tokens and grown * count > self.tokens)
            apart = self.encoder.pad_id is None or alone[row] or alone[row - 1]
            unlike = self.side == NONE and row > start and length != lengths[row - 1]
            if row > start and (full or apart or unlike):
                yield slice(start, row)
                start, grown = row, self.rounded(int(length))
            longest = grown
        if len(lengths):
            yield slice(start, len(lengths))

    def rounded(self, length: int) -> int:
        if self.encoder.pad_id is None or self.side == NONE:
            return length
        return max(length, min(-(-length // self.multiple) * self.multiple, self.max_length))

    def pad(self, batch: Batch, rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        ids, types = batch["ids"], batch["types"]
        width = self.rounded(max(len(ids[r]) for r in rows))
        return rows, padded(self.encoder, [(ids[r], types[r]) for r in rows], self.side, width)


def unique(ids: list[list[int]], types: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct sequence of tokens and types, and for every row its representative."""
    first: dict[Any, int] = {}
    keys = ((tuple(row), tuple(kinds)) for row, kinds in zip(ids, types, strict=True))
    same_as = np.fromiter((first.setdefault(key, at) for at, key in enumerate(keys)), np.int64, len(ids))
    return np.fromiter(first.values(), np.int64, len(first)), same_as
