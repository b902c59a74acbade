"""Speech with known words: sentences of our own making, spoken by espeak-ng in several voices, speeds and noises."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us+f2", "en-us+m3", "en-gb+f4", "en-us+f5", "en-gb+m7")
SPEEDS = (125, 140, 155, 170, 185)  # words a minute
NOISES = (None, 30, 20, 12)  # dB from speech to pink noise; None: no noise
PAUSES = (0.2, 0.5, 1.0, 2.5)  # seconds of silence before, between and after sentences
WHO = (
    "the young engineer", "our new neighbour", "the head of the school", "a group of students", "the captain", "my older sister",
    "the woman at the counter", "an old friend", "the gardener", "the whole family", "the doctor on duty", "a tired driver",
    "the museum guide", "the committee", "his best friend", "the baker on the corner", "the visiting professor", "everyone in the office",
)  # fmt: skip
DID = (
    "bought", "forgot", "painted", "repaired", "described", "carried", "found", "sold", "opened", "cleaned", "borrowed", "measured",
    "photographed", "returned", "ordered", "moved", "wrapped", "explained",
)  # fmt: skip
WHAT = (
    "the broken window", "a wooden table", "three bags of flour", "the yellow bicycle", "an interesting letter", "the map of the city",
    "a basket of apples", "the kitchen door", "two tickets for the concert", "the old computer", "a box of candles", "the winter coats",
    "the garden fence", "a bottle of water", "the holiday pictures", "a loaf of bread", "the heavy suitcase", "a piece of paper",
)  # fmt: skip
WHERE = (
    "near the river", "in the middle of the market", "at the railway station", "behind the town hall", "on the second floor",
    "under the bridge", "by the side of the road", "in front of the library", "at the end of the street", "inside the church",
    "across from the hospital", "beside the lake",
)  # fmt: skip
WHEN = (
    "yesterday morning", "before the rain began", "last summer", "after a long day", "on Monday evening", "while the sun was shining",
    "during the lunch break", "a few weeks ago", "just in time for dinner", "late in the afternoon", "at the beginning of March",
    "when nobody was looking",
)  # fmt: skip
THEN = (
    "and nobody asked any questions", "but the weather made it difficult", "because there was no other choice", "so we stayed at home",
    "and then everything was quiet again", "although it took much longer than expected", "and the price was very low",
    "but it was worth the effort", "because the children wanted to help", "and we talked about it for hours",
)  # fmt: skip


def sentence(rng: random.Random) -> str:
    said = f"{rng.choice(WHO)} {rng.choice(DID)} {rng.choice(WHAT)}"
    said += f" {rng.choice(WHERE)}" if rng.random() < 0.7 else ""
    said += f" {rng.choice(WHEN)}" if rng.random() < 0.6 else ""
    said += f", {rng.choice(THEN)}" if rng.random() < 0.5 else ""
    return said[0].upper() + said[1:] + "."


def make(folder: Path, minutes: float, seed: int = 0, sizes: tuple[int, ...] = (1, 1, 1, 2, 2, 3, 6)) -> Path:
    """clips.jsonl (audio, text) with so many minutes of sound beside it; the same for the same arguments.

    sizes: sentences of a clip, of which one is drawn. Raises FileNotFoundError without espeak-ng.
    """
    import soundfile

    if shutil.which("espeak-ng") is None:
        raise FileNotFoundError("espeak-ng is not installed (Debian: apt-get install espeak-ng)")
    rng, file = random.Random(seed), folder / "clips.jsonl"
    wanted = f"{minutes:g} minutes, seed {seed}, sizes {sizes}\n"
    if file.exists() and (folder / "made").exists() and (folder / "made").read_text() == wanted:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    rows, seconds = [], 0.0
    while seconds < minutes * 60:
        voice, speed, noise = rng.choice(VOICES), rng.choice(SPEEDS), rng.choice(NOISES)
        said = [sentence(rng) for _ in range(rng.choice(sizes))]
        sound, rate = clip(said, voice, speed, noise, rng)
        name = f"{len(rows):04}.{rng.choice(('wav', 'flac'))}"
        soundfile.write(folder / name, sound, rate, subtype="PCM_16")
        rows.append(
            {"id": len(rows), "audio": name, "text": " ".join(said), "voice": voice, "speed": speed, "noise": noise}
        )
        seconds += len(sound) / rate
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "made").write_text(wanted)
    return file


def clip(said: list[str], voice: str, speed: int, noise: int | None, rng: random.Random) -> tuple[np.ndarray, int]:
    parts, rate = [], 22050
    for text in said:
        spoken, rate = speak(text, voice, speed)
        parts += [np.zeros(int(rng.choice(PAUSES) * rate), np.float32), spoken]
    sound = np.concatenate([*parts, np.zeros(int(rng.choice(PAUSES) * rate), np.float32)])
    if noise is not None:
        hiss = pink(len(sound), rng.randrange(2**31))
        sound = sound + hiss * float(np.sqrt((np.concatenate(parts[1::2]) ** 2).mean())) * 10 ** (-noise / 20)
    return np.clip(sound * 0.5, -1, 1), rate


def speak(text: str, voice: str, speed: int) -> tuple[np.ndarray, int]:
    import soundfile

    with tempfile.TemporaryDirectory() as room:
        file = f"{room}/spoken.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", file, text], check=True, capture_output=True)
        return soundfile.read(file, dtype="float32")


def pink(count: int, seed: int) -> np.ndarray:
    """float32 [count] of noise whose power falls with frequency, of mean square 1."""
    white = np.fft.rfft(np.random.default_rng(seed).normal(size=count))
    sound = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(len(white)), 1)), count)
    return (sound / np.sqrt((sound**2).mean())).astype(np.float32)
