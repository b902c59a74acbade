"""Files of images as streams of numbered rows: IDX pairs, folders, and the columns of tables that hold images."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.errors import DataError
from llm_moments.formats import BadRow, Row
from llm_moments.images import MAX_PIXELS, SUFFIXES, Image, check, image_of

MAX_IDX = 8 << 30  # bytes of one unpacked file
COLUMNS = ("image", "img", "file", "file_name", "filename", "path", "image_path", "image_file", "picture", "photo")
INPUT = "image"  # what the readers here call the column


# ----------------------------------------------------------------------------------------- IDX


def is_idx(file: Path) -> bool:
    """Whether it begins as an IDX file of bytes does (0, 0, 8, dimensions), packed with gzip or not."""
    if not file.is_file() or not re.search(r"idx\d?-?u?(byte)?|ubyte", file.name):
        return False
    try:
        with _opened(file) as stream:
            return stream.read(3) == b"\0\0\x08"
    except (OSError, EOFError, zlib.error):
        return False


def _opened(file: Path) -> Any:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")


def idx_array(file: Path) -> np.ndarray:
    """The uint8 array in an IDX file (LeCun's format of MNIST); DataError if it is not what its header says."""
    with _opened(file) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
            raise DataError(f"{file} is no IDX file of bytes: it begins with {head!r}")
        told = stream.read(4 * head[3])
        if len(told) < 4 * head[3]:
            raise DataError(f"{file} ends within its header")
        sizes = [int.from_bytes(told[at : at + 4], "big") for at in range(0, len(told), 4)]
        want = math.prod(sizes)
        if want > MAX_IDX:
            raise DataError(f"{file} says it holds {' x '.join(map(str, sizes))} bytes, over {MAX_IDX:,}")
        raw = _read(stream, want)
        if len(raw) < want or stream.read(1):
            more = "more" if len(raw) == want else f"{len(raw):,}"
            raise DataError(f"{file} says it holds {want:,} bytes ({' x '.join(map(str, sizes))}), but has {more}")
    return np.frombuffer(raw, np.uint8).reshape(sizes)


def _read(stream: Any, want: int) -> bytearray:
    """Never more room than there are bytes, whatever the header says."""
    raw = bytearray()
    while len(raw) < want and (some := stream.read(min(want - len(raw), 1 << 24))):
        raw += some
    return raw


def labels_file(images: Path) -> Path | None:
    """The labels that go with a file of images: train-images-idx3-ubyte.gz -> train-labels-idx1-ubyte.gz."""
    name = re.sub(r"images?", "labels", images.name, count=1, flags=re.IGNORECASE)
    name = re.sub(r"idx\d", "idx1", name)
    plain = name.removesuffix(".gz")
    found = (images.with_name(n) for n in (name, plain, f"{plain}.gz") if n != images.name)
    return next((file for file in found if file.is_file()), None)


def idx_rows(file: Path) -> Iterator[Row]:
    images = idx_array(file)
    if images.ndim == 1:
        raise DataError(f"{file} holds labels; give the file of the images (…-images-idx3-ubyte), which finds them")
    if images.ndim == 2 or images.shape[1] * images.shape[2] > MAX_PIXELS or not images[:1].size:
        raise DataError(f"{file} holds {' x '.join(map(str, images.shape))} bytes, which is no set of images")
    other = labels_file(file)
    labels = idx_array(other) if other else None
    if labels is not None and labels.shape != images.shape[:1]:
        raise DataError(f"{other} has {labels.shape[0]:,} labels for the {len(images):,} images of {file}")
    for row, array in enumerate(images):
        image = Image(array=array, name=f"{file.name}, image {row + 1}")
        yield row + 1, {INPUT: image} if labels is None else {INPUT: image, "label": int(labels[row])}


# ------------------------------------------------------------------------------------- folders


def image_files(folder: Path) -> list[Path]:
    """Images of a folder of class folders or, where there are none of those, of the folder itself."""
    inside = [file for file in sorted(folder.glob("*/*")) if _is_image(file)]
    return inside or [file for file in sorted(folder.iterdir()) if _is_image(file)]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def folder_rows(folder: Path) -> Iterator[Row]:
    """folder/CLASS/anything.jpg; images right in the folder have no label. Where a link leads is looked at
    when the row is made an example, so that one that leads out of the folder is one bad row."""
    for number, file in enumerate(image_files(folder), 1):
        name = str(file.relative_to(folder))
        row: dict[str, Any] = {INPUT: Image(path=file, name=name), "id": name}
        yield number, row | ({"label": file.parent.name} if file.parent != folder else {})


# --------------------------------------------------------------------------------------- tables


def image_column(rows: Sequence[Mapping[str, Any]], named: str | None = None) -> str | None:
    """The column whose values are images: arrays, bytes, {bytes, path}, or paths that end as images do."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen = [named] if named else sorted(names, key=lambda name: name.casefold() not in COLUMNS)
    for name in chosen:
        values = [row[name] for row in rows if name in row and row[name] is not None]
        values = [value for value in values if not isinstance(value, str) or value]
        if values and all(map(_holds_image, values)):
            return name
    return None


def _holds_image(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "bytes" in value and set(value) <= {"bytes", "path"}
    if isinstance(value, str):
        return value.strip().lower().endswith(SUFFIXES)
    return isinstance(value, Image | bytes)


def image_in(row: Mapping[str, Any], column: str, number: int, root: Path, *, whole: bool) -> Image:
    """The image of one row; BadRow if there is none. root: the folder that paths are below; whole: decode it
    to its end, so that a damaged one is known now."""
    value = row.get(column)
    if value is None or value in ("", b""):
        raise BadRow(number, "no image", f"column {column!r} is empty")
    try:
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = str(value.get("path") or "")
        if isinstance(value, str):
            image = _inside(root, root / value.strip(), number, value.strip())
        elif isinstance(value, Image) and value.path is not None:  # of a folder of images
            image = _inside(root, value.path, number, value.name)
        else:
            image = image_of(value, f"row {number}")
        if whole:
            check(image)
    except DataError as error:
        raise BadRow(number, "unreadable image", str(error)) from None
    return image


def _inside(root: Path, file: Path, number: int, name: str) -> Image:
    if not file.resolve().is_relative_to(root):
        raise BadRow(number, "outside", f"{name!r} leads out of {root}: images are beside their table or below it")
    return Image(path=file, name=name)
