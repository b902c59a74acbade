"""One pool of engines for many threads: each engine is opened once, has one caller at a time, and is never closed in use."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError
from llm_moments.engines import base
from llm_moments.engines.base import Engines
from tests.fakes import FakeEngine, make_texts


class Watched(FakeEngine):
    """Fails where it is used after it was closed, or by two at a time."""

    opened: list[Watched]
    parallel = False

    def __init__(self) -> None:
        super().__init__()
        self.closed, self.inside = False, 0

    def use(self) -> None:
        self.inside += 1
        assert self.inside == 1 or self.parallel
        time.sleep(0.001)
        assert not self.closed
        self.inside -= 1

    def close(self) -> None:
        assert not self.inside
        self.closed = True


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engines:
    made = Engines(SimpleNamespace(name="model"), cache=tmp_path, keep=2)
    Watched.opened = []

    def start(settings: Any) -> Watched:
        time.sleep(0.002)
        if settings.get("fails"):
            raise EngineError("no")
        Watched.opened.append(Watched())
        return Watched.opened[-1]

    monkeypatch.setattr(made, "_start", start)
    return made


def test_many_threads_share_it(pool: Engines) -> None:
    def work(at: int) -> None:
        for turn in range(40):
            with pool.lease({"engine": f"e{(at * 7 + turn * turn) % 5}"}) as engine:
                engine.use()  # type: ignore[attr-defined]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    left = [one for one in Watched.opened if not one.closed]
    assert len(left) <= 3
    pool.close()
    assert all(one.closed for one in Watched.opened)


def test_each_is_opened_once(pool: Engines) -> None:
    gate = threading.Barrier(6)

    def ask(_: int) -> Any:
        gate.wait()
        return pool.get({"engine": "same"})

    with ThreadPoolExecutor(6) as threads:
        assert len(set(map(id, threads.map(ask, range(6))))) == 1
    assert len(Watched.opened) == 1


def test_what_runs_is_not_closed_for_others(pool: Engines) -> None:
    with pool.lease({"engine": "long"}) as engine:
        for at in range(5):
            pool.get({"engine": f"other {at}"})
        pool.close()
        engine.use()  # type: ignore[attr-defined]
    assert pool.get({"engine": "long"}) is engine


def test_one_that_cannot_be_opened_is_tried_anew(pool: Engines) -> None:
    for _ in range(2):
        with pytest.raises(EngineError):
            pool.get({"fails": True})
    assert not pool._open


def test_the_same_answers_from_many_threads(tiny_model: Path) -> None:
    pipe, texts = load(tiny_model), make_texts(24, seed=3)
    expected = [answer.scores for answer in pipe.run(texts)]
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda text: pipe(text).scores, texts))
    for one, other in zip(told, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert base.Engines is type(pipe.engines)
