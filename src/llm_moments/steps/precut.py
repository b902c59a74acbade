"""Cut a text before it is tokenized: tokens that truncation would drop need not be made."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from llm_moments.core import Batch, Knob, Recorder, whole
from llm_moments.models.encoder import Encoder

SLACK = 4  # tokens a shortened text must have beyond the need

SPACES = " \t\n\r"  # others (\x0b, \x85 …) are deleted by some normalisers: the words beside them are one


class Precut:
    """Keeps about `chars_per_token * max_length` characters, cut at a single space between two words.

    Writes `text` and `shortened`: for each row that was cut, the tokens beyond the need that it must
    give; the tokenize step takes the whole text where it does not, so a wrong guess costs time, never
    an answer. Pairs, head+tail cuts and tokenizers whose tokens reach across a space are left whole.
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

    def __init__(self, settings: Mapping[str, Any], encoder: Encoder, max_length: int, side: str):
        wanted = int(settings.get("chars_per_token", 0)) if side != "head+tail" else 0
        self.keep = wanted * max_length if wanted and encoder.splits_at_spaces else 0
        self.from_end = side == "tail"

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        texts = list(batch["input"])
        shortened: dict[int, int] = {}
        if self.keep:
            for row, text in enumerate(texts):
                if isinstance(text, str) and len(text) > self.keep:
                    cut = self.tail(text) if self.from_end else self.head(text)
                    if cut is not None:
                        texts[row], shortened[row] = cut
        recorder.count(shortened=len(shortened))
        return batch.with_(text=texts, shortened=shortened)

    def head(self, text: str) -> tuple[str, int] | None:
        """Everything before the last good space among the kept characters; None if there is none."""
        at = text.rfind(" ", 1, self.keep + 1)
        while at > 0 and not _between_words(text, at):
            at = text.rfind(" ", 1, at)
        return (text[:at], SLACK) if at > 0 else None

    def tail(self, text: str) -> tuple[str, int] | None:
        """Everything from the first good space among the kept characters on; None if there is none.

        The first word of what is left may be tokenized in another way than inside the text (some
        tokenizers put a space before a text), so none of its tokens may be among those that count.
        """
        at = text.find(" ", len(text) - self.keep)
        while at >= 0 and not _between_words(text, at):
            at = text.find(" ", at + 1)
        if at < 0:
            return None
        word = text[at + 1 :].split(" ", 1)[0]
        return text[at:], SLACK + len(unicodedata.normalize("NFKD", word).encode("utf-8", "surrogatepass"))


def _between_words(text: str, at: int) -> bool:
    """Whether no normaliser joins, drops or reorders what stands on either side of this space."""
    return 0 < at < len(text) - 1 and _plain(text[at - 1]) and _plain(text[at + 1])


def _plain(char: str) -> bool:
    return "!" <= char <= "~" or char.isalnum()
