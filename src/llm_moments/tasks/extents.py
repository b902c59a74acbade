"""How much of an input a model is given: tokens of a text, pixels of an image. What a search walks along."""

from __future__ import annotations

from collections.abc import Iterator

from llm_moments.core import Change, Pipeline
from llm_moments.core.pipeline import knobs_of
from llm_moments.core.task import Extent
from llm_moments.steps.truncate import LENGTHS

TOKEN_RUNGS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)

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


def shorter(pipe: Pipeline, longest: int) -> Iterator[Change]:
    """Shorter texts. longest: tokens of the longest row of the data."""
    now = int(pipe.plan.get_choice("truncate.max_length") or pipe.model.max_length)
    rungs = [n for n in LENGTHS if 16 <= n < min(now, longest)]
    for length in rungs:
        yield Change(f"cut at {length} tokens", {"truncate.max_length": length})
    if rungs and "truncate.side" in knobs_of(pipe):
        middle = rungs[len(rungs) // 2]
        for side in ("tail", "head+tail"):
            choices = {"truncate.max_length": middle, "truncate.side": side}
            yield Change(f"cut at {middle} tokens, {side}", choices)
