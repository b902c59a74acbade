"""Another choice of a plan, or several that belong together: what is weighed, and what a report says of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """name: in words. choices: what `Plan.with_` takes. lossless: no answer changes by it. kind: the step it is of."""

    name: str
    choices: Mapping[str, Any]
    lossless: bool = False
    kind: str = ""

    @property
    def step(self) -> str:
        """Of a change without a kind, the step of its first choice."""
        return self.kind or next(iter(self.choices), "").rpartition(".")[0]


SAID = {  # how a choice reads; any other one is said as "step: knob value"
    "truncate.max_length": "cut at {} tokens", "truncate.side": "{} kept", "resize.size": "images of {} pixels",
    "vectorize.words": "the first {} words", "decode.max_new_tokens": "at most {} tokens",
    "context.max_tokens": "a context of {} tokens", "forward.streams": "{} together", "forward.weights": "the weights {}",
    "forward.skip_layers": "without layers {}", "vad.kind": "silence left out ({})", "chunk.length": "chunks of {} s",
    "chunk.overlap": "chunks share {} s", "features.margin": "{} s of silence after a chunk",
}  # fmt: skip


def in_words(name: str, value: Any, default: Any = None) -> str:
    """One choice; the default is named as it is, since "the first 0 words" would mislead."""
    if name in SAID and value != default:
        return SAID[name].format(plain(value))
    step, _, knob = name.rpartition(".")
    return f"{step}: {knob.replace('_', ' ')} {plain(value)}"


def plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def by_step(names: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(step, its names), in their order."""
    steps = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return ((step, [name for name in names if name.startswith(f"{step}.")]) for step in steps)
