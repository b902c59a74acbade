"""Words with their times, from the times of the tokens that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")  # written without spaces: every character is a word there


def words_of(
    ids: Sequence[int], starts: np.ndarray, decode: Callable[[Sequence[int]], str], language: str
) -> list[tuple[float, float, str]]:
    """(begin, end, word) in seconds of the chunk. starts: [len(ids) + 1], where each token begins and the last ends."""
    found: list[tuple[int, int, str]] = []
    at = 0
    for stop in range(1, len(ids) + 1):
        piece = decode(ids[at:stop])
        if "\ufffd" in piece and stop < len(ids):  # a part of a character: the rest comes with the next token
            continue
        glued = found and not piece.startswith(" ") and (language not in UNSPACED or not _letter(piece))
        if glued:
            begin, _, word = found[-1]
            found[-1] = (begin, stop, word + piece)
        else:
            found.append((at, stop, piece))
        at = stop
    return [(float(starts[a]), float(starts[b]), word.strip()) for a, b, word in found if word.strip()]


def _letter(piece: str) -> bool:
    return any(c.isalnum() for c in piece)


def as_dicts(words: Sequence[tuple[float, float, str]], time: Callable[[float], float]) -> list[dict[str, Any]]:
    """time: seconds of the chunk as seconds of the sound."""
    return [{"start": round(time(a), 2), "end": round(time(b), 2), "word": word} for a, b, word in words]
