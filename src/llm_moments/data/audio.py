"""Files of sound, block by block: checked, decoded, made mono, resampled to what a speech model hears."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llm_moments.base.errors import DataError, EngineMissing
from llm_moments.core import NULL, Recorder
from llm_moments.data.riff import UNTOLD, Mended, Samples, samples_in

RATE = 16_000  # samples a second that Whisper and the voice activity detector take
BLOCK_S = 10.0  # seconds that are decoded at a time
LONGEST_S = 24 * 3600  # of one file
RATES = (1_000, 768_000)
CHANNELS = 32


@dataclass(frozen=True)
class Held:
    """A file of sound in memory, such as a table may hold."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name or "a sound in memory"


Source = Path | Held


def source_of(value: Any) -> Source | None:
    """The file an input names (a path, {"audio": path}) or holds ({"bytes": …}); None for samples; DataError for
    anything else."""
    if isinstance(value, Mapping) and "audio" in value:
        value = value["audio"]
    if isinstance(value, Mapping) and "array" in value:
        return None
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return Held(value["bytes"], str(value.get("path") or ""))
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    if not isinstance(value, str | Path) or not str(value).strip():
        raise DataError(
            f"an input is the path of a sound file, or {{'array': …, 'sampling_rate': …}}, not {value!r:.80}"
        )
    return Path(value)


def _stream(path: Source) -> BinaryIO:
    return io.BytesIO(path.data) if isinstance(path, Held) else path.open("rb")


def _size(path: Source) -> int:
    return len(path.data) if isinstance(path, Held) else path.stat().st_size


def check(path: Source) -> float:
    """Seconds of sound that the header tells of; DataError for a file that cannot be decoded, or not to its end.

    The samples themselves are not read, only the header and, where the format can be entered there, the end.
    """
    if isinstance(path, Path) and not path.is_file():
        raise DataError(f"{path} is a folder, not a sound file" if path.is_dir() else f"{path}: there is no such file")
    if _size(path) == 0:
        raise DataError(f"{path} is empty (0 bytes)")
    with opened(path) as sound:
        if sound.frames == 0:
            raise DataError(f"{path} holds no samples: its header is all there is")
        if sound.seekable() and sound.format in ("FLAC", "OGG"):
            _reaches_end(path, sound)
        return float(sound.frames / sound.samplerate)


def opened(path: Source) -> Any:
    """A `soundfile.SoundFile` within the bounds of rate, channels and length."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: libsndfile is not there
        raise EngineMissing("soundfile", "speech") from error
    try:
        sound = soundfile.SoundFile(_readable(path))
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        raise DataError(
            f"{path} is no sound file that can be decoded ({_short(error)}); WAV, FLAC, MP3 and OGG can"
        ) from None
    wrong = ""
    if not RATES[0] <= sound.samplerate <= RATES[1]:
        wrong = f"{sound.samplerate:,} samples a second, outside of {RATES[0]:,} to {RATES[1]:,}"
    elif sound.channels > CHANNELS:
        wrong = f"{sound.channels} channels, over {CHANNELS}"
    elif sound.frames < 2**60 and sound.frames > LONGEST_S * sound.samplerate:
        wrong = f"{sound.frames / sound.samplerate / 3600:,.1f} hours of sound, over {LONGEST_S // 3600}"
    if wrong:
        sound.close()
        raise DataError(f"{path} tells of {wrong}")
    return sound


def _samples_of(path: Source) -> Samples | None:
    """Where a WAV file has its samples; DataError for one that is shorter than its header says."""
    with _stream(path) as stream:
        found = samples_in(stream, _size(path), path)
    if found is not None and found.cut:
        raise DataError(
            f"{path} is cut: its header tells of {found.told:,} bytes of sound, {found.left:,} are there. Copy it again"
        )
    return found


def _readable(path: Source) -> Any:
    """What libsndfile is given: it takes a size of 0 at its word, and few RF64."""
    found = _samples_of(path)
    large = found is not None and found.kind in (b"RF64", b"BW64") and (found.guessed or found.told < UNTOLD)
    if found is not None and found.left and (found.told == 0 or large):
        return Mended(_stream(path), found)
    return _stream(path) if isinstance(path, Held) else str(path)


def _reaches_end(path: Source, sound: Any) -> None:
    import soundfile

    last = max(sound.frames - 1024, 0)
    try:
        sound.seek(last)
        got = len(sound.read(dtype="float32", always_2d=True))
        sound.seek(0)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(f"{path} is cut or broken: its end cannot be decoded ({_short(error)})") from None
    if got < sound.frames - last:
        raise DataError(
            f"{path} is cut: the last {sound.frames - last - got:,} of {sound.frames:,} samples are missing"
        )


def _short(error: Exception) -> str:
    told = " ".join(str(error).split()).rpartition(": ")[2][:120].rstrip(".") or type(error).__name__
    return (
        "nothing in it is sound" if "does not exist" in told else told
    )  # libsndfile's words for an MP3 without frames


def blocks(value: Any, recorder: Recorder = NULL) -> Iterator[np.ndarray]:
    """float32 blocks [samples] at RATE, mono, of a file or of {"array": …, "sampling_rate": …}; a few seconds each.

    Steps `decode audio` and `resample` are told to the recorder. Memory does not grow with the length.
    """
    path = source_of(value)
    raw, rate = _samples(value) if path is None else _decoded(path)
    resample = Resampler(rate)
    source = iter(raw)
    while True:
        with recorder.step("decode audio"):
            block = next(source, None)
            if block is not None:
                recorder.count(audio_s=len(block) / rate)
        with recorder.step("resample"):
            made = resample(block)
        if len(made):
            yield made
        if block is None:
            return


def _decoded(path: Source) -> tuple[Iterator[np.ndarray], int]:
    sound = opened(path)
    return _file_blocks(path, sound), int(sound.samplerate)


def _file_blocks(path: Source, sound: Any) -> Iterator[np.ndarray]:
    import soundfile

    size, read = max(int(BLOCK_S * sound.samplerate), 1), 0
    with sound:
        while True:
            try:
                block = sound.read(size, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                at = read / sound.samplerate
                raise DataError(f"{path} cannot be decoded after {at:.1f} s ({_short(error)})") from None
            if not len(block):
                break
            read += len(block)
            if read > LONGEST_S * sound.samplerate:
                raise DataError(f"{path} holds over {LONGEST_S // 3600} hours of sound")
            yield mono(block)
    if not read:
        raise DataError(f"{path} holds no samples")


def _samples(value: Mapping[str, Any]) -> tuple[Iterator[np.ndarray], int]:
    value = value.get("audio", value) if isinstance(value.get("audio"), Mapping) else value
    array, rate = _array(value["array"]), _rate(value.get("sampling_rate", RATE))
    step = max(int(BLOCK_S * rate), 1)
    parts = (_scaled(array[at : at + step]) for at in range(0, len(array), step))
    return (mono(part if part.ndim == 2 else part[:, None]) for part in parts), rate


def _array(value: Any) -> np.ndarray:
    """[n] or [n, channels]; [channels, n] is turned. DataError for what is no sound."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unlike length
        raise DataError("samples are an array [n] or [n, channels] of numbers, not a list of unlike lists") from None
    if array.ndim not in (1, 2) or not array.size or array.dtype.kind not in "fiu":
        raise DataError(f"samples are an array [n] or [n, channels] of numbers, not {array.dtype} {array.shape}")
    if array.ndim == 2 and array.shape[1] > CHANNELS:
        if len(array) > CHANNELS:
            raise DataError(f"samples of the shape {array.shape} would have over {CHANNELS} channels either way")
        array = array.T
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        if np.abs(array).max() > 1:
            raise DataError(
                "samples of whole numbers say by their type how loud they are, as in a WAV file: uint8, int16 or int32, "
                f"not {array.dtype} (what a list of whole numbers becomes). Use np.asarray(samples, np.int16), or floats"
            )
        array = array.astype(np.float32)
    return array


def _scaled(part: np.ndarray) -> np.ndarray:
    """float32 from -1 to 1: what a WAV file of that type means; unsigned numbers lie round their middle."""
    if part.dtype.kind == "f":
        return part.astype(np.float32)
    half = float(2 ** (8 * part.dtype.itemsize - 1))
    return ((part.astype(np.float64) - (half if part.dtype.kind == "u" else 0.0)) / half).astype(np.float32)


def _rate(value: Any) -> int:
    whole = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and value == value
    if not whole or not RATES[0] <= value <= RATES[1] or int(value) != value:
        raise DataError(f"impossible sampling_rate {value!r}; it is between {RATES[0]:,} and {RATES[1]:,}")
    return int(value)


def mono(block: np.ndarray) -> np.ndarray:
    """float32 [n] of [n, channels]: their mean; what is not finite is silence, as no microphone gives it."""
    one = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    return one if np.isfinite(one).all() else np.nan_to_num(one, nan=0.0, posinf=0.0, neginf=0.0)


class Resampler:
    """Blocks at `rate` to blocks at RATE; None ends the stream and gives what is left."""

    def __init__(self, rate: int):
        self.stream: Any = None
        if rate != RATE:
            try:
                import soxr
            except ImportError as error:
                raise EngineMissing("soxr", "speech") from error
            self.stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")

    def __call__(self, block: np.ndarray | None) -> np.ndarray:
        if self.stream is None:
            return np.zeros(0, np.float32) if block is None else block
        made = self.stream.resample_chunk(np.zeros(0, np.float32) if block is None else block, last=block is None)
        return np.asarray(made, np.float32)
