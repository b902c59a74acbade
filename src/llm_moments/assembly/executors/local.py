"""Worker processes of this machine: each has the pipeline to itself, and answers come in the order of the inputs."""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llm_moments.assembly.executors import frames
from llm_moments.assembly.spec import PipelineSpec
from llm_moments.base.environment import usable_cores
from llm_moments.base.errors import DataError, EngineError, InputError, RowsFailed
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.base import engine_class

AHEAD = 2  # chunks a worker that may wait, so that none of them idles


class Worker:
    """One process. Raises EngineError, with the last of what it said, where it ends by itself."""

    def __init__(self, spec: PipelineSpec):
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llm_moments.assembly.executors.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip
        try:
            head, _ = self._asked({"spec": spec.to_json()})
            if "error" in head:
                raise EngineError(head["error"])
        except BaseException:
            self.close()
            raise

    def outputs(self, values: Sequence[Any]) -> Outputs | RowsFailed:
        """What the pipeline says of the values, or which of them the model fails on; raises DataError where one is refused."""
        try:
            return frames.answer(*self._asked({"values": [frames.value_of(value) for value in values]}))
        except TypeError as error:
            raise InputError(f"an input of this kind cannot be given to another process: {error}") from error

    def peak(self) -> int:
        """Bytes of memory that it held at most."""
        return int(self._asked({"peak": True})[0]["peak"])

    def _asked(self, head: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            frames.send(self._process.stdin, head)  # type: ignore[arg-type]
            found = frames.receive(self._process.stdout)  # type: ignore[arg-type]
        except BrokenPipeError:
            found = None
        if found is None:
            raise EngineError(f"a worker process ended ({self._process.wait()}): {self._last_words()}")
        return found

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def close(self) -> None:
        self._process.kill()  # it holds nothing that would have to be put away
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


class Local:
    """So many worker processes, which share the cores; a context manager that ends them."""

    def __init__(self, pipe: Pipeline, workers: int):
        if not 1 <= workers <= 256:
            raise InputError(f"--workers is between 1 and 256, not {workers}")
        self.workers, self.spec = workers, PipelineSpec.of(fewer_threads(pipe, workers))
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def map(self, chunks: Iterable[Sequence[Any]]) -> Iterator[Outputs | RowsFailed | DataError]:
        """What the pipeline says of each chunk, in their order, or which of its rows are at fault. No more of them are read ahead than keep all busy."""
        jobs: queue.Queue[tuple[Sequence[Any], queue.Queue[Any]] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._work, args=(jobs,), daemon=True) for _ in range(self.workers)]
        for thread in self._threads:
            thread.start()
        source, more = iter(chunks), True
        waiting: list[queue.Queue[Any]] = []
        while waiting or more:
            while more and len(waiting) < AHEAD * self.workers:
                if (chunk := next(source, None)) is None:
                    more = False
                    break
                told: queue.Queue[Any] = queue.Queue(1)
                jobs.put((chunk, told))
                waiting.append(told)
            if waiting:
                found = waiting.pop(0).get()
                if isinstance(found, BaseException) and not isinstance(found, RowsFailed | DataError):
                    raise found
                yield found
        for _ in self._threads:
            jobs.put(None)

    def _work(self, jobs: queue.Queue[tuple[Sequence[Any], queue.Queue[Any]] | None]) -> None:
        """A thread that asks one worker; what it fails with is raised where the answer is awaited."""
        worker: Worker | None = None
        try:
            while not self._end.is_set():
                try:
                    job = jobs.get(timeout=0.1)
                except queue.Empty:
                    continue
                if job is None:
                    return
                try:
                    worker = worker or Worker(self.spec)
                    job[1].put(worker.outputs(job[0]))
                except Exception as error:  # whoever waits for the answer raises it
                    job[1].put(error)
        finally:
            if worker is not None:
                worker.close()


def fewer_threads(pipe: Pipeline, workers: int) -> Pipeline:
    """The pipeline whose engine takes its share of the cores, where the plan does not say how many."""
    settings = pipe.plan.settings("forward")
    if workers == 1 or settings.get("threads") or "engine" not in settings:
        return pipe
    if "threads" not in engine_class(settings["engine"]).takes:
        return pipe
    return pipe.with_(**{"forward.threads": max(usable_cores() // workers, 1)})


def peak_bytes(pipe: Pipeline, values: Sequence[Any]) -> int:
    """Peak resident memory of a fresh process that answers some of the values."""
    worker = Worker(PipelineSpec.of(pipe))
    try:
        worker.outputs(values)
        return worker.peak()
    finally:
        worker.close()
