"""What a file is that holds no examples as they can be read, and what to do with it."""

from __future__ import annotations

from pathlib import Path

from llm_moments.base.errors import DataError

TABLE, UNPACK = (
    "save it as CSV (UTF-8) or Parquet",
    "unpack it and name the file in it (of packed files only .gz is read)",
)
PICKLE = "is pickled, which can run code, and is not opened; write it as Parquet, CSV or JSON lines"
KINDS = {
    (".xlsx", ".xls", ".xlsm", ".ods"): f"is a spreadsheet; {TABLE}",
    (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"): f"is an archive; {UNPACK}",
    (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".p"): PICKLE,
    (".npy", ".npz", ".mat", ".h5", ".hdf5"): "holds arrays without names of columns; write them as Parquet or JSON lines",
    (".db", ".sqlite", ".sqlite3", ".sql"): "is a database; write the rows of a query as CSV or Parquet",
    (".sav", ".dta", ".sas7bdat", ".rds", ".rdata"): f"is a file of a statistics program; {TABLE} there",
    (".avro", ".orc", ".tfrecord", ".lance"): "is of a format that is not read; write it as Parquet",
    (".xml", ".html", ".htm", ".yaml", ".yml"): "is marked-up text; write a table of the texts as CSV or JSON lines",
    (".pdf", ".docx", ".doc", ".odt", ".rtf", ".epub"): "is a document; save its text as .txt, one example a line",
    (".safetensors", ".gguf", ".onnx"): "holds the weights of a model, no examples",
}  # fmt: skip
BEGINNINGS = (
    (b"PK\x03\x04", f"is a ZIP archive or a spreadsheet; {UNPACK}, or {TABLE}"),
    (b"\xd0\xcf\x11\xe0", f"is an old Office file; {TABLE}"),
    (b"PAR1", "is a Parquet file; call it .parquet"),
    (b"ARROW1", "is an Arrow file; call it .arrow"),
    (b"SQLite format 3", "is a database; write the rows of a query as CSV or Parquet"),
    (b"%PDF", "is a PDF; save its text as .txt, one example a line"),
    (b"BZh", f"is packed with bzip2; {UNPACK}"), (b"\xfd7zXZ", f"is packed with xz; {UNPACK}"),
    (b"(\xb5/\xfd", f"is packed with zstd; {UNPACK}"), (b"7z\xbc\xaf", f"is an archive; {UNPACK}"),
    (b"\x93NUMPY", "holds a numpy array; write it as Parquet or JSON lines"),
    (b"\x89HDF", "is an HDF5 file; write it as Parquet"),
    (b"version https://git-lfs", "is only a pointer of Git LFS; fetch the file itself: git lfs pull"),
    (b"<!doctype html", "is an HTML page, perhaps of a download that asked for a login; fetch the file itself"),
    (b"<html", "is an HTML page, perhaps of a download that asked for a login; fetch the file itself"),
)  # fmt: skip


def by_name(suffix: str) -> str:
    return next((said for suffixes, said in KINDS.items() if suffix in suffixes), "")


def look(file: Path) -> bytes:
    """The beginning of a regular file; DataError for a pipe, a device, or what the beginning shows to be something else."""
    if not file.is_file():
        raise DataError(f"{file} is a pipe or a device, not a file; what a pipe brings is read with --data -")
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    texts = file.suffix.lower() == ".txt"  # its lines may be anything
    marks = (one for one in BEGINNINGS if not (texts and one[0].startswith(b"<")))
    said = next((said for mark, said in marks if head.lower().startswith(mark.lower())), "")
    if not said and head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        said = PICKLE
    named = (b"PAR1", (".parquet", ".pq")), (b"ARROW1", (".arrow", ".feather"))
    if said and not any(head.startswith(mark) and file.suffix.lower() in suffixes for mark, suffixes in named):
        raise DataError(f"{file} {said}")
    return head


def folder(place: Path) -> str:
    """What a folder without examples is."""
    names = [p.name for p in sorted(place.iterdir())]
    if "config.json" in names or "moments.toml" in names:
        return "is a model's folder, not one of examples"
    tables = [n for n in names if n.lower().endswith((".parquet", ".csv", ".jsonl", ".json", ".tsv", ".arrow", ".gz"))]
    if tables:
        return f"holds files of examples ({', '.join(tables[:4])}{' …' if len(tables) > 4 else ''}); name one of them: {place / tables[0]}"
    return ""
