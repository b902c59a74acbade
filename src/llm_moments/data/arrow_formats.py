"""Parquet and Arrow files: row by row within bounds, with the names that a file gives to numbered classes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.data.arrow_values import values_of
from llm_moments.data.labels import Named
from llm_moments.data.rows import Cells, Row, Unreadable

ROWS = 1024  # that are decoded at a time
ROOM = 256 << 20  # bytes that such a batch may need
MOST_VALUES = 50_000_000  # in one column of a row group, where it holds lists
AGAIN = ("DICTIONARY", "DELTA_BYTE_ARRAY")  # encodings by which a value that is stored once comes many times
MOST_BATCH = 4 << 30

ClassNames = Mapping[str, Sequence[str]]


def parquet_rows(file: Path, only: Collection[str] | None = None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            names = classes_of(schema.metadata)
            columns = _needed(schema.names, only)
            for batch in table.iter_batches(batch_size=_batch(table.metadata, columns, file), columns=columns):
                if batch.nbytes > MOST_BATCH:
                    raise DataError(
                        f"{file}: {batch.num_rows} of its rows take {batch.nbytes:,} bytes, over {MOST_BATCH:,}"
                    )
                yield from _rows(batch, names, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _needed(names: Sequence[str], only: Collection[str] | None) -> list[str] | None:
    """Columns that are read; None for all. (A dot in a name would be taken for a field.)"""
    if only is None or any("." in name for name in names):
        return None
    return [name for name in names if name in {wanted.partition(".")[0] for wanted in only}]


def _batch(metadata: Any, columns: Sequence[str] | None, file: Path) -> int:
    """Rows to decode at a time. A value of a dictionary is stored once, and decoded as often as it is named: in the worst
    case every row is as large as all that is stored."""
    worst = 0
    for group in range(metadata.num_row_groups):
        told, repeated = metadata.row_group(group), 0
        for at in range(told.num_columns):
            column = told.column(at)
            if columns is not None and column.path_in_schema.partition(".")[0] not in columns:
                continue
            if column.num_values > MOST_VALUES and column.num_values > 1000 * max(told.num_rows, 1):
                raise DataError(
                    f"{file}: the column {column.path_in_schema!r} holds {column.num_values:,} values in {told.num_rows:,} rows"
                )
            if any(word in encoding for encoding in column.encodings for word in AGAIN):
                repeated += column.total_uncompressed_size
        worst = max(worst, repeated)
    return int(min(max(ROOM // max(worst, 1), 1), ROWS))


def _rows(batch: Any, names: ClassNames, before: int) -> Iterator[Row]:
    """Column by column, so that a value that cannot be had in Python spoils its own row alone."""
    columns = {name: _values(batch.column(at), names.get(name)) for at, name in enumerate(batch.schema.names)}
    for at in range(batch.num_rows):
        yield before + at + 1, Cells(before + at + 1, {name: values[at] for name, values in columns.items()})


def _values(column: Any, names: Sequence[str] | None) -> list[Any]:
    try:
        values = values_of(column)
    except Exception:  # whatever a type's conversion may raise: dates out of range, bytes that are no UTF-8 …
        values = [_value(one) for one in column]
    return values if names is None else [_named(value, names) for value in values]


def _value(one: Any) -> Any:
    try:
        return one.as_py()
    except Exception as error:
        return Unreadable(f"it cannot be read as {one.type}: {str(error)[:120]}")


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(v, names) for v in value]
    if value == -1:  # no class: the hidden labels of a test set
        return None
    return Named(value, names) if isinstance(value, int) and 0 <= value < len(names) else value


def classes_of(metadata: Mapping[bytes, bytes] | None, features: Any = None) -> dict[str, list[str]]:
    """The names of classes for each column that has some (ClassLabel, or lists of them), as the datasets library writes
    them in the metadata `huggingface`. features: of dataset_info.json."""
    try:
        told = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        found = features or told["info"]["features"]
        return {str(n): c for n, feature in found.items() if (c := _classes(feature)) is not None}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _classes(feature: Any) -> list[str] | None:
    if isinstance(feature, list) and len(feature) == 1:
        return _classes(feature[0])
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    return _classes(feature["feature"]) if "feature" in feature else None


# ----------------------------------------------------------------------------------- Arrow files


def is_saved(folder: Path) -> bool:
    """Whether it is what the datasets library's `save_to_disk` leaves."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def saved_rows(folder: Path, only: Collection[str] | None = None) -> Iterator[Row]:
    parts = [part.name for part in sorted(folder.iterdir()) if part.is_dir() and (part / "state.json").is_file()]
    if (folder / "dataset_dict.json").is_file():
        raise DataError(
            f"{folder} holds the parts {', '.join(parts)} of a set (save_to_disk); name one: {folder / (parts or ['…'])[0]}"
        )
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [str(one["filename"]) for one in state["_data_files"]]
        info = folder / "dataset_info.json"
        features = json.loads(info.read_text(encoding="utf-8")).get("features") if info.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: its state.json or dataset_info.json is damaged: {error!r:.120}") from None
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(f"{folder} holds a selection of rows (indices); write it with to_parquet instead")
    files = [folder / name for name in names]
    if wrong := next((file for file in files if file.resolve().parent != folder.resolve()), None):
        raise DataError(f"{folder}: its state.json names {wrong.name!r}, which leads out of the folder")
    yield from _arrow(files, features, only)


def arrow_rows(file: Path, only: Collection[str] | None = None) -> Iterator[Row]:
    """.arrow and .feather: streams and files of Arrow batches."""
    yield from _arrow([file], None, only)


def _arrow(files: Sequence[Path], features: Any, only: Collection[str] | None) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    for file in files:
        try:
            with pa.OSFile(str(file)) as source:
                for batch in _batches(source):
                    names = classes_of(batch.schema.metadata, features)
                    columns = _needed(batch.schema.names, only)
                    batch = batch if columns is None else batch.select(columns)
                    for at in range(0, batch.num_rows, 64):
                        part = batch.slice(at, 64)
                        yield from _rows(part, names, number)
                        number += part.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read as Arrow: {error}") from error


def _batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
        if source.read(6) != b"ARROW1":
            raise
        made = pa.ipc.open_file(source)
        yield from (made.get_batch(at) for at in range(made.num_record_batches))
