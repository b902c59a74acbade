"""transformers' reading of .gguf files in a second instead of twenty: its loader, with two parts of the gguf package
replaced while it works.

gguf's reader makes two numpy.memmap objects for each word of the vocabulary (100,000 and more), and the loader has the
map of tensor names built anew for every module of the model. What is read is the same (tests/test_gguf_reading.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import Any

import numpy as np

_TURN = RLock()  # the package is changed for whoever reads meanwhile: one at a time


@contextmanager
def read_quickly() -> Iterator[None]:
    """While it lasts, whoever opens a .gguf file by the gguf package does so quickly."""
    import gguf

    package: Any = gguf
    with _TURN:
        kept = package.GGUFReader, package.get_tensor_name_map
        package.GGUFReader, package.get_tensor_name_map = _reader(), cache(package.get_tensor_name_map)
        try:
            yield
        finally:
            package.GGUFReader, package.get_tensor_name_map = kept


@cache
def _reader() -> Any:
    """The package's reader over a plain array, and with its own reading of lists; what it does not know goes to the
    package, as all does where another version of that has no such method."""
    import gguf

    string, list_of = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, found: Any) -> None:
            self._data: Any = found.view(np.ndarray)  # a memmap's slices cost ten times those of an array

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if int(raw_type) != list_of or self.byte_order != "I":
                return super()._get_field_parts(orig_offs, raw_type)
            inner, count = struct.unpack_from("=IQ", self._data, orig_offs)
            scalar = self.gguf_scalar_to_np.get(inner)
            if not count or (inner != string and scalar is None):
                return super()._get_field_parts(orig_offs, raw_type)
            begin = orig_offs + 12
            head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
            types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(inner)]
            if scalar is not None:
                values = self._get(begin, scalar, count)
                return 12 + values.nbytes, [*head, *values.reshape(-1, 1)], list(range(2, 2 + count)), types
            parts, at = _texts(self._data, begin, count)
            return at - orig_offs, head + parts, list(range(3, 3 + 2 * count, 2)), types

    return Reader


def _texts(data: Any, at: int, count: int) -> tuple[list[np.ndarray], int]:
    """The length and the bytes of each of the texts that stand there, one after the other, and where they end."""
    parts, length = [], struct.Struct("=Q").unpack_from
    for _ in range(count):
        middle = at + 8
        end = middle + length(data, at)[0]
        if end > len(data):
            raise ValueError("a text of a list ends behind the file")
        parts += [data[at:middle].view(np.uint64), data[middle:end]]
        at = end
    return parts, at
