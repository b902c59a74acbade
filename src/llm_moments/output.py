"""Answers on disk: a journal that survives a crash, turned into the final file at the end."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_moments.atomic import sync, writing
from llm_moments.errors import DataError, OutputExists, WriteError
from llm_moments.labels import cell_of

KINDS = (".jsonl", ".ndjson", ".csv", ".parquet")
SYNC_S = 1.0  # a crash of the machine (not of the program) may cost this much work


class AnswerWriter:
    """Writes rows to `OUT.partial`, one JSON a line after a header with the job's fingerprint.

    `done` rows are finished; a torn last line is cut off when the journal is opened again. Another
    job's journal and a finished OUT are refused unless overwrite is set.
    """

    def __init__(self, path: str | Path, fingerprint: str, *, overwrite: bool = False):
        self.path, self.fingerprint = Path(path), fingerprint
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.path.suffix.lower() not in KINDS:
            raise DataError(f"{path}: answers are written as {', '.join(KINDS)}")
        if self.path.exists() and not overwrite:
            raise OutputExists(path)
        if overwrite:
            self.partial.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done = 0
        self._synced = time.monotonic()

    def __enter__(self) -> AnswerWriter:
        self._stream = self.partial.open("a+b")
        self._lock()
        self._resume()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._stream.close()
        except OSError:
            if not isinstance(exc[1], WriteError):  # of a full disk it was told already
                raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system: the fingerprint still guards against other jobs
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise DataError(f"{self.path} is being written by another process") from None

    def _resume(self) -> None:
        self._stream.seek(0)
        header = self._stream.readline()
        if not header.endswith(b"\n"):
            self._stream.truncate(0)
            self._append(json.dumps({"fingerprint": self.fingerprint}) + "\n")
            return
        if json.loads(header).get("fingerprint") != self.fingerprint:
            raise OutputExists(f"{self.partial}, the unfinished answers of another model, plan or file,")
        whole = self._stream.tell()
        while self._stream.readline().endswith(b"\n"):
            whole = self._stream.tell()
            self.done += 1
        self._stream.truncate(whole)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self._append("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.done += len(rows)

    def _append(self, text: str) -> None:
        with writing(self.partial, "The rows finished so far are kept; the same command goes on from there."):
            self._stream.write(text.encode("utf-8", "surrogatepass"))
            self._stream.flush()
            if time.monotonic() - self._synced > SYNC_S:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()

    def finish(self) -> Path:
        """The final file, atomically; the journal goes."""
        made = self.path.with_name(f".{self.path.name}.tmp")
        write = {".csv": _write_csv, ".parquet": _write_parquet}.get(self.path.suffix.lower(), _write_lines)
        try:
            with writing(self.path, f"All answers are kept in {self.partial}; the same command goes on from there."):
                write(self._rows(), made)
                sync(made)
                os.replace(made, self.path)
        finally:
            made.unlink(missing_ok=True)
        self.partial.unlink()
        return self.path

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.partial.open("rb") as stream:
            stream.readline()
            for line in stream:
                yield json.loads(line)


def _write_lines(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """`scores` becomes a column a label; a list of labels becomes one text."""
    flat = {
        k: cell_of(v, row.get("scores") or ()) if isinstance(v, list) else v
        for k, v in row.items()
        if not isinstance(v, dict)
    }
    return flat | {
        f"{k}.{name}": v for k, values in row.items() if isinstance(values, dict) for name, v in values.items()
    }


def _write_csv(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="", errors="surrogatepass") as stream:
        writer: Any = None
        for row in map(_flat, rows):
            if writer is None:
                writer = csv.DictWriter(stream, fieldnames=list(row))
                writer.writeheader()
            writer.writerow(row)


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    try:
        while chunk := [_flat(row) for row in itertools.islice(rows, 10_000)]:
            table = pa.Table.from_pylist(chunk, schema=writer and writer.schema)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is None:
            pq.write_table(pa.table({}), path)
    finally:
        if writer is not None:
            writer.close()
