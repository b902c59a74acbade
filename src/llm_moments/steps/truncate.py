"""Cut rows to `max_length` tokens, special tokens included, and set the special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from llm_moments.base.errors import RowsTooLong
from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.core.parts import Part
from llm_moments.core.usage import numbers
from llm_moments.models.encoder import Encoder
from llm_moments.steps.overflow import OVERFLOW, fails

LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)


class Truncate:
    """Tells of each row `cut_tokens`; nothing of one that was cut before it was tokenized (precut), as nobody knows."""

    name = "truncate"
    reads: tuple[str, ...] = ("first", "second")
    writes: tuple[str, ...] = ("ids", "types")
    knobs: tuple[Knob, ...] = (
        Knob("max_length", 512, LENGTHS, valid=whole(4), means="most tokens a row, special ones included, >= 4"),
        Knob(
            "side", "head", ("head", "tail", "head+tail"), valid=one_of("head", "tail", "head+tail"),
            means="which part of a long text is kept: head, tail or head+tail",
        ),
        OVERFLOW,
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], encoder: Encoder):
        self.max_length = int(settings["max_length"])
        self.side, self.may_cut = settings.get("side", "head"), not fails(settings)
        self.encoder = encoder

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        first, second, short = batch["first"], batch["second"], batch.fields.get("shortened", ())
        ids, types = [], []
        cut: dict[int, int] = {}
        for row in range(batch.size):
            one, two = first[row], second[row]
            template = self.encoder.template(two is not None)
            room = max(self.max_length - template.extra, 0)
            over = len(one) + len(two or ()) - room
            if over > 0:
                cut[row] = over
                keep1, keep2 = (room, 0) if two is None else longest_first(len(one), len(two), room)
                one = keep(one, keep1, self.side)
                two = None if two is None else keep(two, keep2, self.side)
            row_ids, row_types = template.build(one, two)
            ids.append(row_ids)
            types.append(row_types)
        recorder.count(cut_rows=len(cut), cut_tokens=sum(cut.values()))
        if cut and not self.may_cut:
            raise RowsTooLong({row: self.refusal(over, row in short) for row, over in cut.items()})
        told = [None if row in cut and row in short else cut.get(row, 0) for row in range(batch.size)]
        return batch.with_(ids=ids, types=types).told(cut_tokens=numbers(told))

    def refusal(self, over: int, more: bool) -> str:
        return (
            f"an input of {over:,} {'and more ' if more else ''}tokens beyond the {self.max_length:,} that are kept "
            "(truncate.max_length); it may not be cut (truncate.on_overflow = fail)"
        )


def cut_places(encoder: Encoder, value: str | tuple[str, str], max_length: int, side: str) -> list[Part]:
    """The stretches of a text, or of a pair's texts, whose tokens are cut away at that length."""
    texts = (value,) if isinstance(value, str) else value
    spans = [encoder.spans(text) for text in texts]
    room = max(max_length - encoder.template(len(texts) > 1).extra, 0)
    counts = (room,) if len(texts) == 1 else longest_first(len(spans[0]), len(spans[1]), room)
    found = []
    for name, text, told, count in zip(("text", "text_pair"), texts, spans, counts, strict=False):
        kept = set(keep(list(range(len(told))), count, side))
        for first, last in _runs([at for at in range(len(told)) if at not in kept]):
            start, end = told[first][0], told[last][1]
            found.append(Part(text[start:end], (name, start, end)))
    return found


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of numbers without a gap."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        some = [number for _, number in run]
        yield some[0], some[-1]


def keep(ids: list[int], count: int, side: str) -> list[int]:
    if len(ids) <= count:
        return ids
    if side == "head":
        return ids[:count]
    if side == "tail":
        return ids[len(ids) - count :]
    head = count - count // 2
    return ids[:head] + ids[len(ids) - count // 2 :]


def longest_first(one: int, two: int, room: int) -> tuple[int, int]:
    """How much of each text of a pair is kept: as Hugging Face tokenizers' `longest_first` has it."""
    small, large = sorted((one, two))
    large = small if small > room else max(small, room - small)
    if small + large > room:
        small = room // 2
        large = small + room % 2
    return (large, small) if one > two else (small, large)
