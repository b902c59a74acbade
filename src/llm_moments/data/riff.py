"""WAV files: where their samples lie, whether all are there that the header tells of, and sizes that are guesses.

Who writes to a pipe cannot come back and fill in the sizes, and puts there 0, the largest number there is, or one near
2^31 (sox, espeak, arecord, ffmpeg). What is there is then all of it. RIFF: Microsoft and IBM 1991; RF64: EBU Tech 3306.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from llm_moments.base.errors import DataError

KINDS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<", b"BW64": "<"}
UNTOLD = 0xFFFFFFFF  # a size of 32 bits that says: unknown, or (RF64) that ds64 has it
NEAR = 0x10000  # so far from 2^31 a size is a guess, and below 2^32, 2^63 and 2^64
HEAD = 1 << 20  # bytes before the samples that are held when sizes are put right


@dataclass(frozen=True)
class Samples:
    """begin: their first byte. told: their bytes as the header has them; left: those that are there."""

    begin: int
    told: int
    left: int
    kind: bytes

    @property
    def guessed(self) -> bool:
        return self.told == 0 or is_guess(self.told)

    @property
    def cut(self) -> bool:
        return self.told > self.left and not self.guessed


def is_guess(size: int) -> bool:
    return abs(size - (1 << 31)) <= NEAR or any(0 < (1 << bits) - size <= NEAR for bits in (32, 63, 64))


def samples_in(stream: BinaryIO, size: int, name: Any) -> Samples | None:
    """Of a WAV file of so many bytes; None for another kind of file, DataError where it has no samples' chunk."""
    head = stream.read(12)
    if head[:4] not in KINDS or head[8:12] != b"WAVE":
        return None
    order, whole = KINDS[head[:4]], None
    while len(part := stream.read(8)) == 8:
        length = struct.unpack(f"{order}I", part[4:])[0]
        at = stream.tell()
        if part[:4] == b"data":
            told = whole if whole is not None and length == UNTOLD else length
            if told == 0 and _chunks_to_the_end(stream, size, order):
                return Samples(at, 0, 0, head[:4])
            return Samples(at, told, size - at, head[:4])
        if part[:4] == b"ds64" and length >= 16:
            whole = struct.unpack("<QQ", stream.read(16).ljust(16, b"\0"))[1]
        stream.seek(at + length + length % 2)
    raise DataError(f"{name} is a WAV file without a data chunk: its header is broken")


def _chunks_to_the_end(stream: BinaryIO, size: int, order: str) -> bool:
    """Whether what follows here is chunks, up to the file's last byte: samples would not look so."""
    while len(part := stream.read(8)) == 8 and part[:4].isascii() and part[:4].decode().isprintable():
        length = struct.unpack(f"{order}I", part[4:])[0]
        stream.seek(length + length % 2, 1)
    return not part and abs(stream.tell() - size) <= 1


class Mended(io.RawIOBase):
    """The same file with the size that its samples have: a header in memory, the rest as it lies there."""

    def __init__(self, stream: BinaryIO, samples: Samples):
        super().__init__()
        order = KINDS[samples.kind]
        stream.seek(12)
        middle = stream.read(min(samples.begin - 20, HEAD)).replace(b"ds64", b"JUNK", 1)
        own = samples.left if samples.guessed else samples.told
        size = min(own, UNTOLD)
        kind = b"RIFX" if order == ">" else b"RIFF"
        total = min(4 + len(middle) + 8 + size, UNTOLD)
        self.head = kind + struct.pack(f"{order}I", total) + b"WAVE" + middle + b"data" + struct.pack(f"{order}I", size)
        self.stream, self.begin, self.at, self.size = stream, samples.begin, 0, len(self.head) + own

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max({0: 0, 1: self.at, 2: self.size}[whence] + offset, 0)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        most = min(len(buffer), max(self.size - self.at, 0))
        data = self.head[self.at : self.at + most]
        if len(data) < most:
            self.stream.seek(self.begin + self.at + len(data) - len(self.head))
            data += self.stream.read(most - len(data))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()
