"""A sound of any length as chunks a speech model can hear: cut in silence, silence left out, or where it is quietest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.core import NULL, Knob, Recorder, one_of
from llm_moments.data.audio import RATE, blocks
from llm_moments.steps.decode import share
from llm_moments.steps.vad import KINDS, WINDOW, Detector, Spans, detector

HEARD_S = 30.0  # seconds that Whisper's encoder takes at a time
SLACK = 0.2  # of a chunk's length: its end is put where it is quietest in there
HOP = RATE // 50  # samples whose loudness is looked at
LEAST_S = 0.1  # speech that is shorter is a click

VAD = (
    Knob("kind", "off", KINDS, False, one_of(*KINDS), "off: all is speech; energy: what is louder than the noise; silero: a small network"),
    Knob("threshold", 0.5, (0.35, 0.5, 0.65), False, share(0.01, 0.99), "probability from which it is speech", {"kind": "off"}),
    Knob("gap", 2.0, (0.5, 1.0, 2.0), False, share(0.05, 30), "seconds of silence that end a span of speech", {"kind": "off"}),
    Knob("pad", 0.5, (0.2, 0.5), False, share(0, 5), "seconds kept before and after speech", {"kind": "off"}),
)  # fmt: skip
CHUNK = (
    Knob("length", HEARD_S, (30.0, 20.0, 12.0), False, share(1, HEARD_S), "most seconds of a chunk, 1 to 30"),
    Knob("overlap", 0.0, (0.0, 2.0), False, share(0, 10), "seconds that chunks cut in speech share, 0 to 10; words that both heard are written once"),
)  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """samples: float32 [n] at RATE. spans: (begin in the chunk, begin in the sound, length), in samples. joined: its
    beginning was heard in the chunk before, too."""

    samples: np.ndarray
    spans: tuple[tuple[int, int, int], ...]
    joined: bool = False

    def time(self, seconds: float) -> float:
        """Seconds into the chunk as seconds into the sound."""
        at = round(seconds * RATE)
        inside, outside, length = next((s for s in reversed(self.spans) if s[0] <= at), self.spans[0])
        return (outside + min(max(at - inside, 0), length)) / RATE

    @property
    def begin(self) -> float:
        return self.spans[0][1] / RATE

    @property
    def end(self) -> float:
        return (self.spans[-1][1] + self.spans[-1][2]) / RATE


def settled(knobs: tuple[Knob, ...], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {knob.name: knob.default for knob in knobs} | dict(settings)


class Chunker:
    """Gives the chunks of a sound as they come, in order. vad, chunk: the plan's sections of these names."""

    def __init__(self, vad: Mapping[str, Any], chunk: Mapping[str, Any]):
        self.vad, chosen = settled(VAD, vad), settled(CHUNK, chunk)
        self.listens = self.vad["kind"] != "off"
        self.most = int(chosen["length"] * RATE)
        self.overlap = min(int(chosen["overlap"] * RATE), self.most // 3)

    def __call__(self, value: Any, recorder: Recorder = NULL) -> Iterator[Chunk]:
        """At most two chunks and a block are held, whatever the sound's length."""
        vad = self.vad
        hears = detector(vad["kind"]) if self.listens else _all
        spans = Spans(vad["threshold"], vad["gap"], vad["pad"], LEAST_S) if self.listens else Spans(0.5, 1.0, 0.0)
        cutter, packed = _Cutter(hears, spans, self.most, self.overlap), _Packed(self.most)
        for block in blocks(value, recorder):
            with recorder.step("vad"):
                found = cutter.add(block)
                recorder.count(speech_s=sum(len(p.samples) for p in found) / RATE)
            yield from packed.add(found)
        with recorder.step("vad"):
            found = cutter.end()
            recorder.count(speech_s=sum(len(p.samples) for p in found) / RATE)
        yield from packed.add(found)
        yield from packed.flush()


@dataclass(frozen=True)
class _Piece:
    samples: np.ndarray
    begin: int
    joined: bool


class _Cutter:
    """Blocks to pieces of speech no longer than `most` samples; holds the samples that may still be needed."""

    def __init__(self, hears: Detector, spans: Spans, most: int, overlap: int):
        self.hears, self.spans, self.most, self.overlap = hears, spans, most, overlap
        self.held, self.base = np.zeros(0, np.float32), 0  # base: where in the sound `held` begins
        self.joined = False

    def add(self, block: np.ndarray) -> list[_Piece]:
        self.held = np.concatenate([self.held, block])
        start = self.spans.at - self.base
        count = (len(self.held) - start) // WINDOW
        found: list[_Piece] = []
        if count:
            for p in self.hears(self.held[start : start + count * WINDOW]).tolist():
                found += [self.piece(*span) for span in self.spans(p)]
                if self.spans.length >= self.most - self.spans.pad:
                    found.append(self.cut())
        gone = min(self.spans.settled, self.base + len(self.held)) - self.base
        self.held, self.base = self.held[gone:], self.base + gone
        return found

    def end(self) -> list[_Piece]:
        length = self.base + len(self.held)
        rest = length - self.spans.at
        found = self.add(np.zeros(WINDOW - rest, np.float32)) if rest else []
        return found + [self.piece(begin, min(stop, length)) for begin, stop in self.spans.end(length)]

    def cut(self) -> _Piece:
        """What is open, up to where it is quietest."""
        begin, stop = self.spans.open_from, self.spans.at
        at = self._quietest(stop - int(self.most * SLACK), stop)
        piece = self.piece(begin, at)
        self.spans.cut(at - self.overlap)
        self.joined = self.overlap > 0
        return piece

    def piece(self, begin: int, stop: int) -> _Piece:
        joined, self.joined = self.joined, False
        return _Piece(self.held[begin - self.base : stop - self.base].copy(), begin, joined)

    def _quietest(self, begin: int, stop: int) -> int:
        """The middle of the quietest tenth of a second."""
        hops = (stop - begin) // HOP
        power = (self.held[begin - self.base :][: hops * HOP].reshape(hops, HOP) ** 2).mean(axis=1)
        smooth = np.convolve(power, np.ones(5), mode="valid")
        return begin + (int(smooth.argmin()) + 2) * HOP + HOP // 2


def _all(block: np.ndarray) -> np.ndarray:
    """Without voice activity detection all is speech."""
    return np.ones(len(block) // WINDOW, np.float32)


class _Packed:
    """Pieces to chunks: as many as fit go together; one that repeats the end of the last begins a new chunk."""

    def __init__(self, most: int):
        self.most = most
        self.pieces: list[_Piece] = []

    def add(self, pieces: list[_Piece]) -> Iterator[Chunk]:
        for piece in pieces:
            if self.pieces and (piece.joined or self.length + len(piece.samples) > self.most):
                yield from self.flush()
            if len(piece.samples):
                self.pieces.append(piece)

    @property
    def length(self) -> int:
        return sum(len(p.samples) for p in self.pieces)

    def flush(self) -> Iterator[Chunk]:
        if not self.pieces:
            return
        at, spans = 0, []
        for piece in self.pieces:
            spans.append((at, piece.begin, len(piece.samples)))
            at += len(piece.samples)
        samples = np.concatenate([p.samples for p in self.pieces])
        yield Chunk(samples, tuple(spans), self.pieces[0].joined)
        self.pieces = []
