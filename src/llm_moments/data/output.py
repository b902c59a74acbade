"""Answers on disk: a journal that survives a crash, turned into the final file at the end."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from llm_moments.base.atomic import drop_leftovers, replacing, writing
from llm_moments.base.errors import DataError, OutputExists, WriteError
from llm_moments.base.visible import ESCAPE
from llm_moments.data.labels import cell_of
from llm_moments.data.tables import WRITERS, plain, to_json, write_lines

SYNC_S = 1.0  # a crash of the machine (not of the program) may cost this much work
LOOKED_AHEAD = 4096  # examples, for the one that a row of the journal is of
HEAD = b'{"fingerprint": "'  # what a journal begins with


class AnswerWriter:
    """Writes rows to `OUT.partial`, one JSON a line after a header with the job's fingerprint.

    `done` rows are finished. When the journal is opened again, it is cut off before the first line that is torn or
    damaged (`dropped` says how many were lost so). Another job's journal and a finished OUT are refused unless
    overwrite is set; a file that is no journal is left alone. One process at a time has it.
    """

    def __init__(self, path: str | Path, fingerprint: str, *, overwrite: bool = False):
        self.path, self.fingerprint, self.overwrite = Path(path), fingerprint, overwrite
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.path.suffix.lower() not in WRITERS:
            raise DataError(f"{path}: answers are written as {', '.join(WRITERS)}")
        if self.path.exists() and not overwrite and not self.partial.exists():
            raise OutputExists(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done = self.dropped = 0
        self.finished = False  # OUT is there already: whoever wrote it was killed right after
        self._synced = time.monotonic()

    def __enter__(self) -> AnswerWriter:
        self._stream = self._locked()
        try:
            self._resume()
            if self.path.exists() and not self.overwrite and not self.finished:
                self._drop_if_new()
                raise OutputExists(self.path)
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._stream.close()
        except OSError:
            if not isinstance(exc[1], WriteError):  # of a full disk it was told already
                raise

    def _locked(self) -> BinaryIO:
        """The journal, this process's alone. Nothing is changed in it, or replaced, before that is so."""
        while True:
            with writing(self.partial, "Nothing was changed."):
                stream = self.partial.open("a+b")
            self._lock(stream)
            try:
                if os.path.samestat(os.fstat(stream.fileno()), self.partial.stat()):
                    return stream
            except FileNotFoundError:
                pass  # the process that had it has finished and removed it meanwhile
            stream.close()

    def _lock(self, stream: BinaryIO) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system: the fingerprint still guards against other jobs
            return
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise DataError(f"{self.path} is being written by another process") from None
        except OSError:
            pass  # none on this file system

    def _resume(self) -> None:
        self._stream.seek(0)
        header = self._stream.readline()
        fingerprint = self._fingerprint_in(header)
        if fingerprint is None or self.overwrite:
            self._stream.truncate(0)
            self._append(json.dumps({"fingerprint": self.fingerprint}) + "\n")
            return
        if fingerprint != self.fingerprint:
            raise OutputExists(f"{self.partial}, the unfinished answers of another model, plan or file,")
        whole = self._stream.tell()
        for line in self._stream:
            row = _row(line)
            if row is None:
                self._told_finished(line)
                self.dropped = 0 if self.finished else sum(1 for _ in self._stream)
                break
            self.done += 1
            whole += len(line)
        if not self.finished:
            self._stream.truncate(whole)

    def _fingerprint_in(self, header: bytes) -> str | None:
        """None: there is none yet. A file of the user's that has this name by chance is never touched."""
        if not header or (header.startswith(HEAD) and not header.endswith(b"\n")):
            return None
        try:
            found = json.loads(header)["fingerprint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if not isinstance(found, str):
            raise DataError(
                f"{self.partial} is there and is no journal of answers (its first line is {header[:40]!r}); it was left as it is. "
                "Move it away, or choose another --out."
            )
        return found

    def _told_finished(self, line: bytes) -> None:
        """Whether the last line says that OUT was made of this journal: the file that it was then stands there."""
        try:
            told, now = json.loads(line)["finished"], self.path.stat()
        except (ValueError, KeyError, TypeError, RecursionError, OSError):
            return
        self.finished = told == [now.st_ino, now.st_size]

    def _drop_if_new(self) -> None:
        if not self.done and not self.dropped:
            self.partial.unlink()

    def rest(self, examples: Iterator[Any], left_out: Callable[[Any], None] | None = None) -> Iterator[Any]:
        """The examples that have no answer yet. The ids of those that have are looked at: where a row of the journal
        is another's, it and what comes after it are answered again. left_out: is told the examples that the journal passes
        by, where rows may have been left out."""
        self._stream.seek(0)
        self._stream.readline()
        for at, line in enumerate(self._stream):
            if at == self.done:
                break
            row, ahead = _row(line), list(itertools.islice(examples, 1))
            while ahead and left_out and row and len(ahead) < LOOKED_AHEAD and not _is_of(row, ahead[-1]):
                if (after := next(examples, None)) is None:
                    break
                ahead.append(after)
            if not ahead or row is None or not _is_of(row, ahead[-1]):
                self._cut(at)
                return itertools.chain(ahead, examples)
            for passed in ahead[:-1]:
                left_out(passed)  # type: ignore[misc]
        return examples

    def _cut(self, rows: int) -> None:
        self._stream.seek(0)
        whole = sum(len(self._stream.readline()) for _ in range(rows + 1))
        self.dropped += self.done - rows
        self.done = rows
        self._stream.truncate(whole)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        ready = (plain(row) | ({"id": _id(row["id"])} if "id" in row else {}) for row in rows)
        self._append("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ready))
        self.done += len(rows)

    def _append(self, text: str) -> None:
        with writing(self.partial, "The rows finished so far are kept; the same command goes on from there."):
            self._stream.write(text.encode("utf-8", ESCAPE))
            self._stream.flush()
            if time.monotonic() - self._synced > SYNC_S:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()

    def finish(self) -> Path:
        """The final file, atomically; the journal goes. What it is known by is noted first, so that a process that is
        killed between the two leaves what the next one understands."""
        if not self.finished:
            self._cut(self.done)  # what an end that failed has noted
            drop_leftovers(self.path)  # the lock is ours: what lies there is of a process that was killed
            suffix = self.path.suffix.lower()
            rows = self.kept if WRITERS[suffix] is write_lines else lambda: map(_flat, self.kept())
            with replacing(
                self.path, f"All answers are kept in {self.partial}; the same command goes on from there."
            ) as made:
                WRITERS[suffix](rows, made)
                told = made.stat()
                self._append(json.dumps({"finished": [told.st_ino, told.st_size]}) + "\n")
        self.partial.unlink()
        return self.path

    def kept(self) -> Iterator[dict[str, Any]]:
        """The finished rows, as they were written."""
        self._stream.seek(0)
        self._stream.readline()
        for line in itertools.islice(self._stream, self.done):
            yield json.loads(line)


def _row(line: bytes) -> dict[str, Any] | None:
    """A row of the journal; None for a line that is torn, damaged or none."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and "id" in row else None


def _is_of(row: dict[str, Any], example: Any) -> bool:
    return to_json(row["id"]) == to_json(_id(example.id))


def _id(value: Any) -> Any:
    """An id may be of any type; NaN is how a gap is written in tables."""
    value = plain(value)
    return None if isinstance(value, float) and value != value else value


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """`scores` becomes a column a label; a list of labels one text, and an id stays one value, whatever
    it is."""
    number = {"id": to_json(row["id"]) if isinstance(row["id"], list | dict) else row["id"]}
    named = row.get("scores") or ()
    flat = number | {
        k: cell_of(v, named) if isinstance(v, list) and all(isinstance(one, str) for one in v) else v
        for k, v in row.items() if k != "id" and not isinstance(v, dict)
    }  # fmt: skip
    return flat | {f"{k}.{name}": v for k, inner in row.items() if k not in flat for name, v in inner.items()}
