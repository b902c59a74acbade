"""Log-mel spectrograms as Whisper hears them (Radford et al. 2022, arXiv:2212.04356), in numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llm_moments.core import Knob
from llm_moments.data.audio import RATE
from llm_moments.steps.decode import share

N_FFT, HOP = 400, 160
FRAMES = 3000  # of the 30 s that the encoder was trained on
FEATURES = (
    Knob("margin", 0.0, (0.0, 5.0, 3.0), False, share(0, 30), "0: silence up to 30 s is heard, as in training; above: so many seconds of it (ctranslate2)"),
)  # fmt: skip


class LogMel:
    """float32 samples at RATE -> float32 [bins, frames].

    frames: 3000, or with a margin those of the samples and of so many seconds of silence after them, no more.
    """

    def __init__(self, bins: int = 80, margin: float = 0.0):
        self.bins, self.margin = bins, margin

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        own = min(-(-len(samples) // HOP) + 2, FRAMES)  # two more hear the end of the samples in their window
        total = FRAMES if not self.margin else min(own + int(self.margin * RATE / HOP), FRAMES)
        total += total % 2  # the encoder halves them
        mel = self._log_mel(samples, own)
        top = float(mel.max()) if mel.size else -10.0
        floor = np.float32(max(top - 8.0, -10.0))
        out = np.full((self.bins, total), floor, np.float32)
        np.maximum(mel, floor, out=out[:, :own])
        return (out + 4.0) / 4.0

    def _log_mel(self, samples: np.ndarray, frames: int) -> np.ndarray:
        """log10 of the mel energies [bins, frames]; centred windows, the beginning mirrored, silence after the end."""
        import scipy.fft

        need = (frames - 1) * HOP + N_FFT
        head = samples[1 : N_FFT // 2 + 1][::-1]
        head = np.pad(head, (N_FFT // 2 - len(head), 0))
        tail = np.zeros(max(need - len(samples) - len(head), 0), np.float32)
        if len(samples) >= FRAMES * HOP:  # no silence follows: the end is mirrored as well
            tail = samples[-1 - N_FFT // 2 : -1][::-1]
        sound = np.concatenate([head, samples, tail])[:need]
        windows = np.lib.stride_tricks.sliding_window_view(sound, N_FFT)[::HOP][:frames]
        spectrum = scipy.fft.rfft(windows * _hann(), axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        return np.log10(np.maximum(mel_filters(self.bins) @ power.T.astype(np.float32), 1e-10))


@lru_cache
def _hann() -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


@lru_cache
def mel_filters(bins: int) -> np.ndarray:
    """float32 [bins, 201]: triangles on Slaney's mel scale up to 8 kHz, each of the same area (as librosa has them)."""
    edges = _from_mel(np.linspace(0, _to_mel(RATE / 2), bins + 2))
    at = np.linspace(0, RATE / 2, N_FFT // 2 + 1)
    rise = (at[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - at[None]) / np.diff(edges)[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return np.asarray(np.maximum(0, np.minimum(rise, fall)) * area[:, None], np.float32)


STEP = np.log(6.4) / 27  # of the logarithmic part, which begins at 1 kHz = 15 mel


def _to_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + float(np.log(hertz / 1000)) / STEP


def _from_mel(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(STEP * (mel - 15)))
