"""Cut a text before it is tokenized: tokens that truncation would drop need not be made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_moments.core import Batch, Knob, Recorder, whole

SPACES = " \t\n\r"  # others (\x0b, \x85 …) are deleted by some normalisers: the words beside them are one


class Precut:
    """Keeps about `chars_per_token * max_length` characters, cut at white space.

    The tokenize step checks that enough tokens came of it and tokenizes the whole text where they did
    not, so a wrong guess costs time, never an answer. Pairs and head+tail cuts are left whole.
    """

    name = "precut"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("text", "shortened")
    knobs: tuple[Knob, ...] = (
        Knob(
            "chars_per_token", 0, (0, 6, 8, 10, 12, 16), lossless=True, valid=whole(0, 1000),
            means="characters kept for each token of truncate.max_length; 0 keeps the text whole",
        ),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], max_length: int, side: str):
        self.keep = int(settings.get("chars_per_token", 0)) * max_length if side != "head+tail" else 0
        self.from_end = side == "tail"

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        texts = list(batch["input"])
        shortened = []
        if self.keep:
            for row, text in enumerate(texts):
                if isinstance(text, str) and len(text) > self.keep:
                    cut = self.tail(text) if self.from_end else self.head(text)
                    if cut is not None:
                        texts[row] = cut
                        shortened.append(row)
        recorder.count(shortened=len(shortened))
        return batch.with_(text=texts, shortened=shortened)

    def head(self, text: str) -> str | None:
        """Everything before the last white space among the kept characters; None if there is none."""
        end = self.keep
        while end > 0 and text[end] not in SPACES:
            end -= 1
        return text[:end] if end else None

    def tail(self, text: str) -> str | None:
        """Everything from the first white space among the kept characters on; None if there is none."""
        start = len(text) - self.keep
        while start < len(text) and text[start] not in SPACES:
            start += 1
        return text[start:] if start < len(text) else None
