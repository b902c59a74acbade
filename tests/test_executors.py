"""Worker processes give what this process gives: the same answers, rows that fail by their numbers, errors as errors."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from llm_moments.assembly.executors.local import Local, Worker, fewer_threads
from llm_moments.assembly.load import load
from llm_moments.assembly.spec import PipelineSpec
from llm_moments.base.errors import DataError, EngineError, InputError, RowsFailed
from llm_moments.core import Outputs
from tests.cli.command import moments
from tests.fakes import make_texts


def test_a_pipeline_in_words_opens_as_it_was(trained_model: Path, tmp_path: Path) -> None:
    pipe = load(trained_model, plan={"truncate.max_length": 12, "batch.order": "length"})
    pipe.save(tmp_path / "artefact")
    for one in (pipe, load(tmp_path / "artefact")):
        again = PipelineSpec.from_json(PipelineSpec.of(one).to_json()).open()
        assert (again.plan, again.task.name, again.model.digest) == (one.plan, one.task.name, one.model.digest)
        assert again.engines.cache == one.engines.cache
    with pytest.raises(DataError):
        PipelineSpec.from_json('{"source": 3}')


def test_two_workers_answer_in_the_order_of_the_chunks(trained_model: Path) -> None:
    pipe, texts = load(trained_model), make_texts(90, seed=8)
    chunks = [texts[at : at + 9] for at in range(0, 90, 9)]
    with Local(pipe, 2) as workers:
        found = list(workers.map(iter(chunks)))
    assert all(isinstance(one, Outputs) for one in found)
    told = np.concatenate([np.asarray(one) for one in found])
    np.testing.assert_allclose(told, pipe.outputs(texts), atol=1e-5)
    assert not [child for child in psutil.Process().children() if "executors.worker" in " ".join(child.cmdline())]


def test_a_worker_tells_what_fails_and_goes_on(trained_model: Path) -> None:
    worker = Worker(PipelineSpec.of(load(trained_model)))
    try:
        with pytest.raises(DataError, match="half a character"):
            worker.outputs(["fine", "\ud800"])
        assert len(worker.outputs(["fine"])) == 1
        with pytest.raises(InputError, match="cannot be given"):
            worker.outputs([np.zeros(2)])
        assert worker.peak() > 50 << 20
    finally:
        worker.close()


def test_a_worker_that_is_killed_is_told(trained_model: Path) -> None:
    with Local(load(trained_model), 1) as workers:
        rows = workers.map(iter([["a film"], ["a film"], ["a film"], ["a film"]]))
        next(rows)
        (child,) = (c for c in psutil.Process().children() if "executors.worker" in " ".join(c.cmdline()))
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="worker process ended"):
            list(rows)


def test_a_fault_of_the_program_is_raised_and_not_waited_for(
    trained_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Worker, values: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Worker, "outputs", broken)
    with Local(load(trained_model), 1) as workers, pytest.raises(ZeroDivisionError):
        list(workers.map([["a"]]))


def test_a_pipeline_that_does_not_open_is_an_error(trained_model: Path) -> None:
    spec = PipelineSpec.of(load(trained_model))
    with pytest.raises(EngineError, match="no such folder"):
        Worker(PipelineSpec(str(trained_model / "gone"), spec.plan))


def test_the_cores_are_shared(trained_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_moments.assembly.executors.local.usable_cores", lambda: 8)
    pipe = load(trained_model)
    assert fewer_threads(pipe, 3).plan.get_choice("forward.threads") == 2
    assert fewer_threads(pipe, 1) is pipe
    own = pipe.with_(**{"forward.threads": 5})
    assert fewer_threads(own, 3) is own


def test_run_with_workers_writes_the_same_file(trained_model: Path, tmp_path: Path) -> None:
    rows = [*make_texts(40, seed=2), "", *make_texts(30, seed=3)]
    data = tmp_path / "d.csv"
    data.write_text("text\n" + "\n".join(f'"{row}"' for row in rows) + "\n")
    for name, more in (("one", ()), ("two", ("--workers", "2"))):
        moments("run", trained_model, "--data", data, "--out", tmp_path / f"{name}.jsonl", "--on-error", "skip", *more)
    one, two = ([json.loads(line) for line in (tmp_path / f"{n}.jsonl").open()] for n in ("one", "two"))
    assert [row["id"] for row in one] == [row["id"] for row in two]
    assert [row["label"] for row in one] == [row["label"] for row in two]
    assert moments("run", trained_model, "a film", "--workers", "2", code=2).stderr.count("--out") == 1


def test_rows_that_fail_are_named_by_their_places(trained_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_asked", lambda self, head: ({"error": "no", "rows": {"2": "why"}}, b"") if "values" in head else ({"open": True}, b""))  # fmt: skip
    with Local(load(trained_model), 1) as workers:
        (found,) = workers.map([["a", "b", "c"]])
    assert isinstance(found, RowsFailed)
    assert found.rows == {2: "why"}
