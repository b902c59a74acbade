"""Features of words: hashed, or of a vocabulary and weighted by how rare each is (tf-idf)."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, InputError

KINDS = ("tf-idf", "hashed")
WORD = re.compile(r"\w+")
SECOND = "2/"  # before every word of the second text of a pair; no word holds a stroke


@dataclass(frozen=True)
class Vectorizer:
    """What makes features of words, as plain data.

    kind: tf-idf or hashed. ngrams: runs of up to so many words are features, too. size: features. vocabulary
    and idf (float32 [size]) are of tf-idf only. A row's values are (1 + ln count) · idf, its length made 1
    (Salton and Buckley 1988, doi:10.1016/0306-4573(88)90021-0).
    """

    kind: str
    ngrams: int
    size: int
    vocabulary: tuple[str, ...] = ()
    idf: np.ndarray | None = field(default=None, compare=False)

    @classmethod
    def fit(cls, values: Iterable[Any], kind: str = "tf-idf", ngrams: int = 2, most: int = 50_000) -> Vectorizer:
        """Of training inputs. tf-idf: the `most` features that the most rows have, at least two of them where
        any has two; hashed: `most` rounded up to a power of two, and nothing is learnt."""
        if kind not in KINDS:
            raise InputError(f"features are {' or '.join(KINDS)}, not {kind!r}")
        if not (1 <= ngrams <= 5 and 1 <= most <= 2**24):
            raise InputError(f"ngrams are 1 to 5 and features 1 to {2**24:,}, not {ngrams!r} and {most!r}")
        if kind == "hashed":
            return cls(kind, ngrams, 1 << (most - 1).bit_length() if most > 1 else 2)
        seen: Counter[str] = Counter()
        rows = 0
        for rows, value in enumerate(values, 1):  # noqa: B007 - the last one is their number
            seen.update(set(grams(words(value), ngrams)))
        known = [(g, n) for g, n in seen.items() if n > 1] or list(seen.items())
        if not known:
            raise DataError("no text of the training data holds a word, so that there are no features to learn from")
        chosen = sorted(known, key=lambda one: (-one[1], one[0]))[:most]
        names = sorted(g for g, _ in chosen)
        counts = np.array([seen[g] for g in names], np.float64)
        idf = np.log((1 + rows) / (1 + counts)) + 1  # as scikit-learn has it, with smoothing
        return cls(kind, ngrams, len(names), tuple(names), idf.astype(np.float32))

    @cached_property
    def index(self) -> Mapping[str, int]:
        return {name: at for at, name in enumerate(self.vocabulary)}

    def features(self, value: Any, most_words: int = 0, longest: int = 0) -> list[int]:
        """Numbers of the features of one input, as often as they occur."""
        found = grams(words(value, most_words), min(longest or self.ngrams, self.ngrams))
        if self.kind == "hashed":
            shift = 33 - self.size.bit_length()  # the multiplier spreads what differs in the last bytes only
            return [(zlib.crc32(g.encode("utf-8", "replace")) * 2654435761 & 0xFFFFFFFF) >> shift for g in found]
        known = self.index
        return [known[g] for g in found if g in known]

    def rows(self, values: Sequence[Any], most_words: int = 0, longest: int = 0) -> tuple[np.ndarray, ...]:
        """(features int64 [all], values float32 [all], length of each row int64 [n]), rows one after the other."""
        raw = [self.features(value, most_words, longest) for value in values]
        counts = np.fromiter(map(len, raw), np.int64, len(raw))
        flat = np.fromiter(chain.from_iterable(raw), np.int64, int(counts.sum()))
        at = np.repeat(np.arange(len(raw)), counts)
        keys, times = np.unique(at * self.size + flat, return_counts=True)
        at, flat = np.divmod(keys, self.size)
        weights = 1 + np.log(times)
        if self.idf is not None:
            weights *= self.idf[flat]
        norms = np.sqrt(np.bincount(at, weights**2, len(raw)))
        return flat, (weights / norms[at]).astype(np.float32), np.bincount(at, minlength=len(raw))


def words(value: Any, most: int = 0) -> list[str]:
    """Runs of letters and digits in lower case, of a pair those of both texts; the first `most` of each if not 0."""
    if not isinstance(value, str):
        first, second = (words(text, most) for text in value)
        return [*first, *(SECOND + word for word in second)]
    text = value.lower()
    return [m[0] for m in islice(WORD.finditer(text), most)] if most else WORD.findall(text)


def beyond(text: str, most: int) -> int:
    """The first character after the first `most` words of a text; its length where there are no more of them."""
    ends = [m.end() for m in islice(WORD.finditer(text.lower()), most + 1)] if most else []
    return ends[most - 1] if len(ends) > most and len(text.lower()) == len(text) else len(text)


def grams(found: list[str], longest: int) -> list[str]:
    made = list(found)
    for length in range(2, longest + 1):
        made += map(" ".join, zip(*(found[at:] for at in range(length)), strict=False))
    return made
