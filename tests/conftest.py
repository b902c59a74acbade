from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_moments.core import Example
from tests.fakes import label_of, make_model, make_texts

# Two workers share two cores: one thread each, which sleep while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
SAMPLES = Path(__file__).parent.parent / ".samples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no worker ends alone with it."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _short_timings() -> None:
    """What is timed in turn is timed for less long: what a test asks for is the way, not a close figure."""
    from llm_moments.evaluate import measure
    from llm_moments.improve import finals

    measure.SHORTEST, measure.LONGEST = 0.15, 1.0
    finals.HEATS, finals.ROUNDS = 3, measure.FEWEST


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of this run, for all of its workers: what one has built the other need not."""
    os.environ["MOMENTS_CACHE"] = str(shared(tmp_path_factory) / "cache")


def shared(factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all workers see."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that takes long to make, made by one of the workers for all."""
    from filelock import FileLock

    room = shared(factory) / name
    with FileLock(f"{room}.lock"):
        if not (room / "made").exists():
            make(room / "model")
            (room / "made").touch()
    return room / "model"


@pytest.fixture
def texts() -> list[str]:
    return make_texts(60)


@pytest.fixture
def examples(texts: list[str]) -> list[Example]:
    return [Example(text, label_of(text), n) for n, text in enumerate(texts)]


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A tiny model that has learnt the toy task, by the project's own train."""
    from llm_moments.train.train import train

    data = [Example(text, label_of(text)) for text in make_texts(1200, seed=1)]
    return once(
        tmp_path_factory, "trained",
        lambda out: train(tiny_model, data, out, epochs=6, learning_rate=3e-3, max_length=48),
    )  # fmt: skip


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import csv

    file = tmp_path_factory.mktemp("data") / "toy.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "sentiment"])
        writer.writerows((text, label_of(text)) for text in make_texts(700, seed=2))
    return file
