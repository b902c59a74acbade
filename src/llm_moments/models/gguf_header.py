"""The header of a .gguf file: facts and tensors, without its weights and word lists. Little-endian, versions 2 and 3.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package reads the same, in seconds instead of
a tenth of one, as it makes an array of every word.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_KEPT = 1_000_000
DEEPEST = 4  # lists in lists
KEY = 65_535  # bytes of a name, as the format has it
SHOWN = 256  # entries of an array that are kept; of a longer one only that it is there
BLOCKS = {  # by the type's number: values of a block, and its bytes
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """shape: as the file has it, the fastest dimension first. start: its first byte in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def end(self) -> int:
        """The byte after its last one; KeyError for a type that is not known."""
        values, size = BLOCKS[self.kind]
        return self.start + math.prod(self.shape) // values * size


class Reader:
    def __init__(self, data: Any):
        self.data, self.at, self.kept = data, 0, 0

    def one(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def text(self, most: int | None = None) -> str:
        length = self.one("Q")
        if length > len(self.data) - self.at:
            raise ValueError(f"a text of {length:,} bytes is longer than the file")
        if most is not None and length > most:
            raise ValueError(f"a name of {length:,} bytes")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            if kind not in KINDS:
                raise ValueError(f"a value of the unknown type {kind}")
            return self.one(KINDS[kind])
        if depth == DEEPEST:
            raise ValueError(f"lists in lists, over {DEEPEST} deep")
        inner, count = self.one("I"), self.one("Q")
        if count > len(self.data) - self.at:
            raise ValueError(f"a list of {count:,} entries is longer than the file")
        if count <= SHOWN:
            self.kept += count
            if self.kept > MOST_KEPT:
                raise ValueError(f"over {MOST_KEPT:,} entries of short lists")
            return [self.value(inner, depth + 1) for _ in range(count)]
        self.skip(inner, count)
        return None

    def skip(self, kind: int, count: int) -> None:
        if kind in KINDS:
            self.at += count * struct.calcsize(KINDS[kind])
            return
        if kind != STRING:
            raise ValueError("a list of lists is too long")
        at, data, length = self.at, self.data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
        self.at = at


def read_header(file: Path) -> tuple[dict[str, Any], list[Tensor]]:
    """Facts by name (None for a long list) and tensors. ValueError, KeyError or struct.error where the file is broken."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = Reader(data)
        if data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        reader.at = 4
        version = reader.one("I")
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}; 2 and 3 are read")
        tensors, facts = reader.one("Q"), reader.one("Q")
        if max(tensors, facts) > len(data):
            raise ValueError(f"{max(tensors, facts):,} entries are more than the file has bytes")
        found = {reader.text(KEY): reader.value(reader.one("I")) for _ in range(facts)}
        told = [_tensor(reader) for _ in range(tensors)]
        step = whole_number(found, "general.alignment", 32, 1, 1 << 20)
        begin = -(-reader.at // step) * step
    return found, [Tensor(name, shape, kind, begin + offset) for name, shape, kind, offset in told]


def whole_number(facts: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    """A fact that must be a whole number in these bounds; ValueError names it and what stands there instead. Where it is
    absent the default; without one it must be there."""
    value = facts.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} should be a whole number from {low:,} to {high:,}, not {value!r:.60}")
    return value


def text_of(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} should be a text, not {value!r:.60}")
    return value


def _tensor(reader: Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, many = reader.text(KEY), reader.one("I")
    if many > 8:
        raise ValueError(f"a tensor of {many} dimensions")
    return name, tuple(reader.one("Q") for _ in range(many)), reader.one("I"), reader.one("Q")
