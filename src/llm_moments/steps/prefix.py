"""What an encoder of sentences wants before every text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_moments.core import Batch, Knob, Recorder


class Prefix:
    """Writes `input`: each text with the prompt before it, in lower case where the folder asks for that."""

    name = "prefix"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("input",)
    knobs: tuple[Knob, ...] = (
        Knob("prompt", "", (), False, lambda v: isinstance(v, str), "a text put before each input, such as 'query: '"),
    )

    def __init__(self, settings: Mapping[str, Any], lower: bool):
        self.prompt, self.lower = str(settings.get("prompt", "")), lower

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        made = [self.prompt + text for text in batch["input"]]
        return batch.with_(input=[text.lower() for text in made] if self.lower else made)
