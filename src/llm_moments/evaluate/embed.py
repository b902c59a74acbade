"""Vectors of texts: in memory, or written as they are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError, RowsFailed
from llm_moments.core import Example, Outputs, Pipeline
from llm_moments.core.usage import told

TASK = "feature-extraction"
WRITTEN = (".parquet", ".npy")
Made = Iterable[tuple[list[Example], Outputs]]


def embed(model: Any, data: Any, *, device: str = "auto", plan: Any = None, **read: Any) -> np.ndarray:
    """float32 [n, numbers of a vector]: of each text its vector, pooled and normalised as the model's folder says.

    model: a folder, a hub id, or a pipeline. data: a path or an iterable of texts or Examples; read: options of `data.read`
    for a path. plan: changes, such as {"prefix.prompt": "query: "}. InputError where there is no text.
    """
    from llm_moments.data import readers

    pipe = load(model, task=TASK, plan=plan, device=device)
    if isinstance(data, str | Path):
        data = readers.read(data, **read)
    elif read:
        raise InputError(f"{', '.join(read)}: only for data that is read from a path")
    found = [outputs["logits"] for _, outputs in vectors(pipe, data)]
    if not found:
        raise InputError("there is no text to make a vector of")
    return np.concatenate(found).astype(np.float32, copy=False)


def vectors(
    pipe: Pipeline, data: Iterable[Any], failed: Callable[[Sequence[Example], RowsFailed], None] | None = None
) -> Iterator[tuple[list[Example], Outputs]]:
    """(examples, their outputs: `logits` [n, numbers]) of a window of inputs after the other. failed: is told those of a window
    that the model fails on, which are left out if it raises nothing; without it they raise."""
    source = iter(data)
    while some := list(itertools.islice(source, pipe.window)):
        examples = [one if isinstance(one, Example) else Example(one) for one in some]
        try:
            outputs = pipe.outputs([one.input for one in examples])
        except RowsFailed as error:
            if failed is None:
                raise
            failed(examples, error)
            examples = [one for at, one in enumerate(examples) if at not in error.rows]
            if not examples:
                continue
            outputs = pipe.outputs([one.input for one in examples])
        yield examples, outputs


def write(made: Made, out: Path) -> tuple[int, int]:
    """Writes them, all or nothing: .parquet, columns `id` and `embedding` (float32, a list of one length), or .npy, float32
    [n, numbers], the rows in the order of the inputs. Gives rows and tokens that were cut. InputError for another ending, and
    where there is nothing to write."""
    from llm_moments.base.atomic import replacing

    if out.suffix.lower() not in WRITTEN:
        raise InputError(f"{out}: vectors are written as {' or '.join(WRITTEN)}")
    with replacing(out) as place:
        rows, cut = (_parquet if out.suffix.lower() == ".parquet" else _npy)(made, place)
        if not rows:
            raise InputError("there is no text to make a vector of; nothing was written")
    return rows, cut


def _npy(made: Made, place: Path) -> tuple[int, int]:
    """numpy leaves room in the header for a first axis that grows, so it is written again at the end."""
    count = cut = 0
    with place.open("r+b") as stream:
        for _, outputs in made:
            rows = outputs["logits"]
            if not count:
                _head(stream, 0, rows.shape[1])
            stream.write(np.ascontiguousarray(rows, "<f4").tobytes())
            count, cut, width = count + len(rows), cut + _unseen(outputs), rows.shape[1]
        if count:
            stream.seek(0)
            _head(stream, count, width)
    return count, cut


def _unseen(outputs: Outputs) -> int:
    return sum(cut or 0 for cut in told(outputs, "cut_tokens"))


def _head(stream: Any, rows: int, width: int) -> None:
    head = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(stream, head)


def _parquet(made: Made, place: Path) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llm_moments.data.tables import cell

    count = cut = 0
    writer: Any = None
    try:
        for examples, outputs in made:
            rows = outputs["logits"]
            ids = pa.array([str(cell(one.id)) for one in examples], pa.string())
            flat = pa.array(np.ascontiguousarray(rows, np.float32).ravel(), pa.float32())
            table = pa.table({"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])})
            writer = writer or pq.ParquetWriter(place, table.schema)
            writer.write_table(table)
            count, cut = count + len(rows), cut + _unseen(outputs)
    finally:
        if writer is not None:
            writer.close()
    return count, cut
