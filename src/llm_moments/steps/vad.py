"""Voice activity: how likely each 32 ms of a sound hold speech, and which spans do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineMissing
from llm_moments.data.audio import RATE

WINDOW = 512  # samples that get one probability
CONTEXT = 64  # samples before them that Silero's network sees, too
KINDS = ("off", "energy", "silero")
QUIET = 10 ** (-55 / 20)  # of full scale: what is below is silence, whatever surrounds it
Detector = Callable[[np.ndarray], np.ndarray]  # of one sound, in order: a block [n * WINDOW] -> float32 [n]
ABOVE = 10 ** (6 / 20)  # speech is so much louder than the quietest tenth of the last minute
MINUTE = 60 * RATE // WINDOW


def detector(kind: str) -> Detector:
    return Silero() if kind == "silero" else Energy()


class Energy:
    """Loudness against the noise floor of the last minute: next to no work, for sound with little noise."""

    def __init__(self) -> None:
        self.past = np.zeros(0, np.float32)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        loud = np.sqrt((block.reshape(-1, WINDOW) ** 2).mean(axis=1))
        self.past = np.concatenate([self.past, loud])[-MINUTE:]
        floor = np.quantile(self.past, 0.1)
        return ((loud > QUIET) & (loud > ABOVE * floor)).astype(np.float32)


class Silero:
    """Silero's network (github.com/snakers4/silero-vad, MIT), the file that faster-whisper brings, on ONNX Runtime."""

    def __init__(self) -> None:
        self.session = _session()
        self.h = self.c = np.zeros((1, 1, 128), np.float32)
        self.tail = np.zeros(CONTEXT, np.float32)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        rows = block.reshape(-1, WINDOW)
        before = np.concatenate([self.tail[None], rows[:-1, -CONTEXT:]])
        self.tail = rows[-1, -CONTEXT:].copy()
        fields = {"input": np.concatenate([before, rows], 1), "h": self.h, "c": self.c}
        found, self.h, self.c = self.session.run(None, fields)
        return np.asarray(found, np.float32).reshape(-1)


_SESSIONS: dict[str, Any] = {}


def silero_file() -> Path | None:
    """The network's file, without importing the package that it comes with; None if it is not there."""
    spec = importlib.util.find_spec("faster_whisper")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted((Path(spec.submodule_search_locations[0]) / "assets").glob("silero_vad_v6*.onnx"))
    return found[-1] if found else None


def _session() -> Any:
    file = silero_file()
    if file is None:
        raise EngineMissing("faster-whisper (its Silero voice activity detector)", "speech")
    if str(file) not in _SESSIONS:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineMissing("onnxruntime", "speech") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        _SESSIONS[str(file)] = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return _SESSIONS[str(file)]


class Spans:
    """Probabilities, one by one, to spans of speech: (begin, end) in samples, with padding, never overlapping.

    threshold: above it speech begins, 0.15 below it ends. Silence shorter than `gap` seconds does not end it;
    speech shorter than `least` is none. pad: seconds kept on either side.
    """

    def __init__(self, threshold: float, gap: float, pad: float, least: float = 0.0):
        self.on, self.off = threshold, max(threshold - 0.15, 0.01)
        self.gap, self.pad, self.least = (int(s * RATE) for s in (gap, pad, least))
        self.at = 0  # samples seen
        self.begin: int | None = None
        self.quiet: int | None = None
        self.last = 0  # end of the last span

    @property
    def settled(self) -> int:
        """Up to this sample nothing more can become speech."""
        return max((self.at if self.begin is None else self.begin) - self.pad, self.last, 0)

    @property
    def open_from(self) -> int:
        """Where the speech that has not ended begins, padding included."""
        return max((self.begin or 0) - self.pad, self.last)

    @property
    def length(self) -> int:
        """Samples of the speech that has not ended yet."""
        return 0 if self.begin is None else self.at - self.open_from

    def cut(self, at: int) -> None:
        """What is open goes on from `at` as a span of its own."""
        self.begin = self.last = at
        self.quiet = None

    def __call__(self, p: float) -> Iterator[tuple[int, int]]:
        """p: the probability of the next WINDOW samples."""
        if p >= self.on:
            self.quiet = None
            if self.begin is None:
                self.begin = self.at
        elif self.begin is not None and p < self.off:
            self.quiet = self.at if self.quiet is None else self.quiet
            if self.at - self.quiet >= max(self.gap, 2 * self.pad):
                yield from self._ended(self.quiet)
        self.at += WINDOW

    def end(self, length: int) -> Iterator[tuple[int, int]]:
        """What is open when the sound ends after `length` samples."""
        if self.begin is not None:
            yield from self._ended(length if self.quiet is None else self.quiet, length)

    def _ended(self, at: int, length: int | None = None) -> Iterator[tuple[int, int]]:
        begin, self.begin, self.quiet = self.begin or 0, None, None
        if at - begin >= self.least:
            stop = at + self.pad if length is None else min(at + self.pad, length)
            span = (max(begin - self.pad, self.last), stop)
            self.last = stop
            yield span
