"""Which rows are independent of one another: equal and near-equal inputs, and rows of one group, are one unit.

Two inputs are near-equal when they differ in nothing but case, spaces, punctuation and words that hold a digit (a running
number, a date, an id): whoever appends such a thing to a text has no new example. A text that is nothing but numbers is
its numbers. Images and sounds are equal when their bytes are. Whatever is near-equal to a row of a group joins it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.core import Example
from llm_moments.data.image_formats import SUFFIXES as IMAGES
from llm_moments.data.sound_formats import SUFFIXES as SOUNDS

UNSEEN = {ord(c): None for c in "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"}  # characters that show nothing
# The look-behind tries each word once, so that a word of a million letters takes no longer than many of a few.
NUMBERED = re.compile(r"(?<![a-z\d_])[a-z_]*+\d[a-z\d_]*+")
MARKS = re.compile(r"[\s!-/:-@\[-`{-~\u2010-\u206f\u3000-\u303f]+")


def units(examples: Sequence[Example]) -> np.ndarray:
    """uint64 [n]: rows with the same number are one unit. It depends on the rows' own content, not on their order."""
    inputs = np.fromiter((_number(input_key(e.input)) for e in examples), np.uint64, len(examples))
    if not any(has_group(e) for e in examples):
        return inputs
    own = np.fromiter(
        (_number(str(e.group).encode("utf-8", "surrogatepass"), b"group") if has_group(e) else int(key)
         for e, key in zip(examples, inputs, strict=True)), np.uint64, len(examples),
    )  # fmt: skip
    return _joined(inputs, own)


def has_group(example: Example) -> bool:
    return example.group is not None and example.group != "" and example.group == example.group


def _joined(inputs: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Each row ties its input to its group; the least number of whatever hangs together names the unit."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, one = np.unique(inputs, return_inverse=True)
    _, two = np.unique(own, return_inverse=True)
    size, first = int(one.max() + two.max() + 2), int(one.max() + 1)
    ties = coo_array((np.ones(len(one), np.int8), (one, first + two)), shape=(size, size))
    _, parts = connected_components(ties, directed=False)
    names = np.full(size, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(names, parts[one], own)
    return names[parts[one]]


def input_key(value: Any) -> bytes:
    """Hash of an input; near-equal ones share it."""
    digest = hashlib.blake2b(digest_size=16)
    _into(digest, value)
    return digest.digest()


def _into(digest: Any, value: Any) -> None:
    """Every piece with its kind and length before it, so that no two inputs run into one another."""
    if isinstance(value, str):
        _add(digest, b"t", _file(value) or normalised(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, Mapping) and value.get("bytes") is not None:  # an encoded image or sound, whatever its name
        _into(digest, value["bytes"])
    elif isinstance(value, Mapping):
        told = {str(k): v for k, v in value.items() if v is not None}
        digest.update(b"{%d" % len(told))
        for name in sorted(told):
            _add(digest, b"k", name.encode("utf-8", "surrogatepass"))
            _into(digest, told[name])
    elif isinstance(value, list | tuple):
        digest.update(b"[%d" % len(value))
        for item in value:
            _into(digest, item)
    else:
        _add(digest, b"o", _content(value))


def _content(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).digest()
    if isinstance(value, np.ndarray):
        return f"{value.shape}{value.dtype}".encode() + hashlib.sha256(np.ascontiguousarray(value).data).digest()
    if isinstance(value, Path):
        return _file(str(value)) or str(value).encode("utf-8", "surrogatepass")
    if type(value).__module__.startswith("PIL."):
        return f"{value.size}{value.mode}".encode() + hashlib.sha256(value.tobytes()).digest()
    return str(value).encode("utf-8", "surrogatepass")  # an Image tells the digest of its content


def _add(digest: Any, kind: bytes, content: bytes) -> None:
    digest.update(kind + len(content).to_bytes(8, "big"))
    digest.update(content)


def _number(key: bytes, kind: bytes = b"") -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=kind).digest(), "big")


def _file(text: str) -> bytes | None:
    """The content of an image or a sound that a text names; the name itself where there is no such file."""
    if len(text) > 4096 or not text.lower().endswith((*IMAGES, *SOUNDS)):
        return None
    try:
        with Path(text).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except (OSError, ValueError):
        return text.encode("utf-8", "surrogatepass")


def normalised(text: str) -> str:
    """Without case, marks, spaces at will and words with a digit; what has no other words keeps them."""
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold().translate(UNSEEN)
    words = MARKS.sub(" ", NUMBERED.sub(" ", plain)).strip()
    return words or MARKS.sub(" ", plain).strip() or " ".join(plain.split())
