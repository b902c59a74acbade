"""A sound as its seconds, any of which can be made silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.core.parts import Part, Parts
from llm_moments.data.audio import RATE, blocks


def samples_of(value: Any) -> np.ndarray:
    """float32 [n] at RATE: the whole sound."""
    found = list(blocks(value))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def sound_parts(value: Any) -> Parts:
    samples = samples_of(value)
    ends = [(at, min(at + RATE, len(samples))) for at in range(0, len(samples), RATE)]
    parts = tuple(Part(f"{a / RATE:g} s to {b / RATE:g} s", ("audio", a / RATE, b / RATE)) for a, b in ends)

    def keep(kept: Sequence[bool]) -> Any:
        made = samples.copy()
        for (start, end), on in zip(ends, kept, strict=True):
            if not on:
                made[start:end] = 0
        return {"array": made, "sampling_rate": RATE}

    return Parts("seconds", parts, keep)
