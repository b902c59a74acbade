"""Watches answers grow: tells new text as it comes, and finds stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_moments.engines.generator import OnText


class TextWatch:
    """ended(prompt, ids) is asked after each step with all new tokens so far; true once a stop string is there.

    Text is told up to where it is certain: a half character, or a beginning of a stop string, waits for the rest.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), on_text: OnText | None = None):
        self.tokenizer, self.stop, self.on_text = tokenizer, tuple(stop), on_text
        self.told: dict[int, int] = {}

    def ended(self, at: int, ids: Sequence[int], *, last: bool = False) -> bool:
        """last: nothing more will come, so what waited is told."""
        if not self.stop and self.on_text is None:
            return False
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        found = [where for word in self.stop if (where := text.find(word)) >= 0]
        certain = text[: min(found)] if found else text if last else self._certain(text)
        told = self.told.get(at, 0)
        if self.on_text is not None and len(certain) > told:
            self.on_text(at, certain[told:])
            self.told[at] = len(certain)
        return bool(found)

    def _certain(self, text: str) -> str:
        text = text.rstrip("\ufffd")
        held = max((_overlap(text, word) for word in self.stop), default=0)
        return text[: len(text) - held] if held else text


def _overlap(text: str, word: str) -> int:
    """Characters at the end of the text that may be the beginning of the word."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
