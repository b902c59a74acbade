from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_moments.base.errors import DataError
from llm_moments.data.audio import RATE, blocks, check
from llm_moments.steps.chunk import Chunker
from llm_moments.steps.vad import WINDOW, Spans, detector, silero_file
from tests.fakes_speech import silence, tone, write


def heard(value: Any) -> np.ndarray:
    return np.concatenate(list(blocks(value)))


def pitch(sound: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound))


# ------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    ("name", "rate", "subtype"),
    [("a.wav", 8000, "PCM_U8"), ("a.wav", 16_000, "PCM_16"), ("a.wav", 44_100, "FLOAT"), ("a.wav", 96_000, "PCM_24"),
     ("a.wav", 8000, "ULAW"), ("a.flac", 22_050, "PCM_16"), ("a.ogg", 48_000, "VORBIS"), ("a.mp3", 44_100, "MPEG_LAYER_III")],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_the_same_sound(tmp_path: Path, name: str, rate: int, subtype: str, channels: int) -> None:
    sound = np.repeat(tone(21, rate=rate)[:, None], channels, axis=1)
    file = write(tmp_path / name, sound, rate, subtype=subtype)
    found = heard(file)
    assert found.dtype == np.float32
    assert check(file) == pytest.approx(21, abs=0.1)
    assert len(found) == pytest.approx(21 * RATE, abs=0.1 * RATE)
    assert pitch(found) == pytest.approx(440, abs=1)
    assert np.abs(found).max() == pytest.approx(np.abs(sound).max(), abs=0.03)


def test_blocks_join_without_a_seam(tmp_path: Path) -> None:
    import soxr

    sound = tone(25, rate=22_050)
    file = write(tmp_path / "a.wav", sound, 22_050, subtype="FLOAT")
    np.testing.assert_allclose(heard(file), soxr.resample(sound, 22_050, RATE, quality="HQ"), atol=1e-4)


def test_samples_are_taken_as_they_are() -> None:
    sound = tone(2)
    np.testing.assert_array_equal(heard({"array": sound, "sampling_rate": RATE}), sound)
    whole = (sound * 32767).astype(np.int16)
    np.testing.assert_allclose(heard({"audio": {"array": whole, "sampling_rate": RATE}}), sound, atol=1e-4)
    broken = sound.copy()
    broken[5] = np.nan
    assert np.isfinite(heard({"array": broken, "sampling_rate": RATE})).all()
    for bad in (
        {"array": np.zeros(0)},
        {"array": np.zeros((2, 2, 2))},
        {"array": sound, "sampling_rate": 3},
        {"array": ["x"]},
    ):
        with pytest.raises(DataError):
            heard(bad)
    for bad in (7, "", None, {"text": "x"}):
        with pytest.raises(DataError, match="path of a sound file"):
            heard(bad)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", tone(1))
    raw = bytearray(file.read_bytes())
    struct.pack_into("<I", raw, 24, 2_000_000_000)  # samples a second
    (tmp_path / "rate.wav").write_bytes(raw)
    with pytest.raises(DataError, match=r"rate\.wav tells of .* samples a second"):
        check(tmp_path / "rate.wav")
    raw = bytearray(file.read_bytes())
    struct.pack_into("<I", raw, 40, 0xFFFFFFFF)  # a recorder that never knew its end: all that is there is heard
    (tmp_path / "open.wav").write_bytes(raw)
    assert len(heard(tmp_path / "open.wav")) == RATE


def test_a_sound_that_breaks_in_the_middle_is_named(tmp_path: Path) -> None:
    raw = bytearray(write(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 30 * RATE)).read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 40_000] = b"\0" * 40_000
    (tmp_path / "b.flac").write_bytes(raw)
    with pytest.raises(DataError, match=r"b\.flac"):
        heard(tmp_path / "b.flac")


# ---------------------------------------------------------------------------------------- VAD, chunks


@pytest.mark.parametrize("kind", ["energy", *(["silero"] if silero_file() else [])])
def test_silence_and_steady_noise_are_no_speech(kind: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 60 * RATE).astype(np.float32)
    for sound in (silence(60), noise, silence(0.01)):
        assert list(Chunker({"kind": kind}, {})({"array": sound, "sampling_rate": RATE})) == []


def test_speech_in_blocks_is_speech_in_one_piece() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, WINDOW * 40).astype(np.float32)
    for kind in ["silero"] if silero_file() else []:
        whole, parts = detector(kind), detector(kind)
        found = np.concatenate([parts(sound[at : at + WINDOW * 7]) for at in range(0, len(sound), WINDOW * 7)])
        np.testing.assert_allclose(found, whole(sound), atol=1e-5)


def test_energy_finds_what_is_louder(tmp_path: Path) -> None:
    sound = np.concatenate([silence(2), tone(3), silence(4), tone(2), silence(1)])
    sound += np.random.default_rng(0).normal(0, 0.002, len(sound)).astype(np.float32)
    file = write(tmp_path / "a.wav", sound)
    (chunk,) = Chunker({"kind": "energy", "pad": 0.3}, {})(file)
    assert [(begin / RATE, length / RATE) for _, begin, length in chunk.spans] == [
        (pytest.approx(1.7, abs=0.05), pytest.approx(3.6, abs=0.1)), (pytest.approx(8.7, abs=0.05), pytest.approx(2.6, abs=0.1)),
    ]  # fmt: skip
    assert chunk.time(0) == pytest.approx(1.7, abs=0.05)
    assert chunk.time(3.7) == pytest.approx(8.8, abs=0.1)
    assert len(chunk.samples) == sum(length for _, _, length in chunk.spans)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.05, 25)), min_size=1, max_size=6), st.floats(1, 30),
    st.sampled_from([0.0, 1.0]), st.floats(0.05, 2), st.floats(0, 0.5),
)  # fmt: skip
def test_chunks_are_short_ordered_and_whole(parts: Any, length: float, overlap: float, gap: float, pad: float) -> None:
    sound = np.concatenate([tone(s) if loud else silence(s) for loud, s in parts])
    value = {"array": sound, "sampling_rate": RATE}
    everything = list(Chunker({}, {"length": length})(value))
    np.testing.assert_array_equal(np.concatenate([c.samples for c in everything]), sound)
    for kind in ("off", "energy"):
        last = 0
        for chunk in Chunker({"kind": kind, "gap": gap, "pad": pad}, {"length": length, "overlap": overlap})(value):
            assert 0 < len(chunk.samples) <= length * RATE + WINDOW
            for inside, begin, count in chunk.spans:
                np.testing.assert_array_equal(chunk.samples[inside : inside + count], sound[begin : begin + count])
                assert chunk.joined or begin >= last
                last = begin + count
        if kind == "off":
            assert last == len(sound)


def test_a_long_chunk_is_cut_where_it_is_quietest() -> None:
    sound = np.concatenate([tone(27), silence(0.4), tone(20)])
    first, second = Chunker({}, {})({"array": sound, "sampling_rate": RATE})
    assert first.end == pytest.approx(27.2, abs=0.2)
    assert second.begin == first.end


def test_spans_of_a_flicker_are_one() -> None:
    spans = Spans(0.5, 0.5, 0.0)
    found = [s for p in [0, 0.9, 0.2, 0.9] + [0.0] * 40 for s in spans(p)]
    assert found == [(WINDOW, 4 * WINDOW)]
    assert list(spans.end(44 * WINDOW)) == []


LONG = """
import resource, sys
from llm_moments.steps.chunk import Chunker
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
list(Chunker({"kind": "energy"}, {})(sys.argv[1])); before = peak()
chunks = sum(1 for _ in Chunker({"kind": sys.argv[3]}, {})(sys.argv[2]))
print(chunks, peak() - before)
"""


@pytest.mark.parametrize("kind", ["off", "energy"])
def test_four_hours_take_the_memory_of_a_minute(tmp_path: Path, kind: str) -> None:
    """The file is sparse: 4 h at 8 kHz, 8 bits, nearly all of it never written."""
    short = write(tmp_path / "short.wav", tone(60, rate=8000), 8000, subtype="PCM_U8")
    count, raw = 4 * 3600 * 8000, bytearray(short.read_bytes()[:44])
    struct.pack_into("<I", raw, 4, count + 36)
    struct.pack_into("<I", raw, 40, count)
    with (tmp_path / "long.wav").open("wb") as stream:
        stream.write(raw)
        stream.truncate(count + 44)
    assert check(tmp_path / "long.wav") == 4 * 3600
    command = [sys.executable, "-c", LONG, str(short), str(tmp_path / "long.wav"), kind]
    chunks, grown = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert chunks >= (480 if kind == "off" else 0)
    assert grown * (1024 if sys.platform != "darwin" else 1) < 60e6  # all samples would be 920 MB


# ---------------------------------------------------------------------------------------- headers that guess


def wave(
    data: int, *, kind: bytes = b"RIFF", riff: int | None = None, whole: int | None = None, tail: bytes = b""
) -> bytes:
    """A second of a tone as a WAV file whose header tells of so many bytes. whole: of an RF64's ds64."""
    samples = (tone(1) * 32767).astype(np.int16).tobytes()
    told = b"" if whole is None else b"ds64" + struct.pack("<IQQQI", 28, whole, whole, whole // 2, 0)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    head = b"WAVE" + told + form + b"LIST" + struct.pack("<I", 5) + b"INFOx\0" + b"data" + struct.pack("<I", data)
    return kind + struct.pack("<I", min(36 + data, 2**32 - 1) if riff is None else riff) + head + samples + tail


GUESSES = (0, 2**32 - 1, 2**31 - 1, 0x7FFFF000, 2**31, 0x80000024, 0x7FFFFFDB, 2**32 - 256)


@pytest.mark.parametrize("size", GUESSES)
def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.wav").write_bytes(wave(size))
    assert check(tmp_path / "a.wav") == 1.0
    expected = (tone(1) * 32767).astype(np.int16) / 32768
    np.testing.assert_array_equal(heard(tmp_path / "a.wav"), expected.astype(np.float32))
    np.testing.assert_array_equal(heard({"bytes": wave(size), "path": "x"}), expected.astype(np.float32))


@pytest.mark.parametrize("whole", [0, 2**64 - 1, 2**63 - 1, 2 * RATE])
def test_an_rf64_that_does_not_know_its_size_is_read_to_its_end(tmp_path: Path, whole: int) -> None:
    (tmp_path / "a.wav").write_bytes(wave(2**32 - 1, kind=b"RF64", whole=whole))
    assert len(heard(tmp_path / "a.wav")) == RATE


@pytest.mark.parametrize("size", [2 * RATE + 2, 3_000_000_000, 100_000_000])
def test_an_end_that_is_missing_is_told_where_the_header_is_plausible(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.wav").write_bytes(wave(size))
    with pytest.raises(
        DataError, match=rf"a\.wav is cut: its header tells of {size:,} bytes of sound, 32,000 are there"
    ):
        check(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(wave(2**32 - 1, kind=b"RF64", whole=size))
    with pytest.raises(DataError, match=r"b\.wav is cut"):
        check(tmp_path / "b.wav")


def test_a_wav_of_no_samples_is_empty_though_other_chunks_follow(tmp_path: Path) -> None:
    raw = wave(0)
    (tmp_path / "a.wav").write_bytes(raw[: raw.index(b"data") + 8] + b"LIST" + struct.pack("<I", 4) + b"INFO")
    with pytest.raises(DataError, match="holds no samples"):
        check(tmp_path / "a.wav")


# ---------------------------------------------------------------------------------------- samples by their type


@pytest.mark.parametrize(
    ("subtype", "kind"), [("PCM_U8", np.uint8), ("PCM_16", np.int16), ("PCM_32", np.int32), ("DOUBLE", np.float64)]
)
def test_samples_mean_what_a_wav_of_their_type_means(tmp_path: Path, subtype: str, kind: type) -> None:
    import soundfile

    file = write(tmp_path / "a.wav", tone(0.1), subtype=subtype)
    raw = file.read_bytes()
    samples = np.frombuffer(raw[raw.index(b"data") + 8 :], kind)[:1600]
    np.testing.assert_array_equal(
        heard({"array": samples, "sampling_rate": RATE}), soundfile.read(file, dtype="float32")[0]
    )


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([128, 255, 0], np.uint8), [0, 127 / 128, -1]), (np.array([-128, 64], np.int8), [-1, 0.5]),
        (np.array([0, 32768, 49152], np.uint16), [-1, 0, 0.5]), (np.array([-(2**31), 2**30], np.int32), [-1, 0.5]),
        ([0, 1, -1], [0, 1, -1]), ([0.25, 0, -1], [0.25, 0, -1]), (np.tile([[0.5], [0.1]], 40), [0.3] * 40),
        (np.tile([0.5, 0.1], (40, 1)), [0.3] * 40), (np.full((1, 50), 16384, np.int16), [0.5] * 50),
    ],
)  # fmt: skip
def test_whole_numbers_and_shapes(samples: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(heard({"array": samples, "sampling_rate": np.int64(RATE)}), expected, atol=1e-6)


@pytest.mark.parametrize("samples", [[0, 300, -300], np.zeros((50, 50)), [[0.0, 1.0], [0.0]], np.zeros(4, bool), ["x"]])
def test_samples_that_could_mean_several_things_are_refused(samples: Any) -> None:
    with pytest.raises(DataError, match="samples"):
        heard({"array": samples, "sampling_rate": RATE})
