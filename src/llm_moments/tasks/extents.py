"""How much of an input a model is given: tokens of a text, pixels of an image. What a search walks along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Changes = Mapping[str, Any]
TOKEN_RUNGS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Extent:
    """knob: the choice of the plan that sets it; unit: what it counts, in words.

    before: lossless choices that save work ahead of the model. tunable: lossless choices that are tried one by
    one on the best plan. others: lossy choices of the input beside the extent.
    """

    knob: str
    unit: str
    before: Changes = field(default_factory=dict)
    tunable: Sequence[tuple[str, Sequence[Any]]] = ()
    others: Sequence[Changes] = ()

    def of(self, plan: Mapping[str, Mapping[str, Any]]) -> int:
        step, _, knob = self.knob.partition(".")
        return int(plan[step][knob])


TOKENS = Extent(
    "truncate.max_length", "tokens",
    before={"precut.chars_per_token": 8},
    tunable=(("batch.tokens", (2048, 4096, 16384)), ("precut.chars_per_token", (6, 10)), ("batch.multiple", (8, 16))),
)  # fmt: skip
PIXELS = Extent(
    "resize.size", "pixels",
    tunable=(("batch.size", (16, 32, 128, 256)),),
    others=(
        {"decode.draft": 2}, {"decode.draft": 1}, {"decode.channels": 1}, {"resize.resample": "box"},
        {"resize.resample": "bilinear"}, {"resize.fit": "squash"},
    ),
)  # fmt: skip
WORDS = Extent(
    "vectorize.words", "words", tunable=(("batch.size", (128, 256)),), others=({"vectorize.ngrams": 1},)
)  # fmt: skip
