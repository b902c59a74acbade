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

from llm_moments.base.errors import DataError
from llm_moments.data.folders import Survey
from llm_moments.data.images import MAX_PIXELS, SUFFIXES, Image, check, image_of
from llm_moments.data.rows import BadRow, Row

MAX_IDX = 4 << 30  # bytes of one unpacked file
MOST_PACKED = 200  # times the size of the packed file; real images are packed to a third or a tenth
ROOM = 64 << 20  # bytes up to which that is not looked at
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
        if want > ROOM and want > MOST_PACKED * file.stat().st_size:
            raise DataError(
                f"{file} says it holds {' x '.join(map(str, sizes))} bytes, more than {MOST_PACKED} times its own size: these are "
                "hardly images"
            )
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

MORE = (".jfif", ".jpe", ".jfi", ".dib", ".pbm", ".pnm", ".apng", ".j2k", ".jpx")
BEGINNINGS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"P5\n", b"P6\n",
)  # fmt: skip


def is_image(file: Path) -> bool:
    """By its name; whatever else it is called, by its beginning."""
    if file.suffix.lower() in (*SUFFIXES, *MORE):
        return not file.is_dir()
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return begins_as_image(stream.read(16))
    except OSError:
        return False


def begins_as_image(head: bytes) -> bool:
    return head.startswith(BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] == b"ftypavif"


def folder_rows(found: Survey) -> Iterator[Row]:
    """folder/CLASS/anything.jpg; images right in the folder have no label. Where a link leads is looked at
    when the row is made an example, so that one that leads out of the folder is one bad row."""
    for number, file in enumerate(found.files, 1):
        name, label = str(file.relative_to(found.folder)), found.label(file)
        row: dict[str, Any] = {INPUT: Image(path=file, name=name), "id": name}
        yield number, row | ({"label": label} if label is not None else {})


# --------------------------------------------------------------------------------------- tables


def image_column(rows: Sequence[Mapping[str, Any]], named: str | None = None) -> str | None:
    """The column whose values are images: arrays, bytes, {bytes, path}, or paths that end as images do."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen = [named] if named else sorted(names, key=lambda name: name.casefold() not in COLUMNS)
    for name in chosen:
        values = [row[name] for row in rows if name in row and row[name] is not None]
        values = [value for value in values if not isinstance(value, str) or value]
        sure = bool(named) or name.casefold() in COLUMNS
        if values and all(_holds_image(value, sure) for value in values):
            return name
    return None


def _holds_image(value: Any, sure: bool) -> bool:
    """sure: whether the column's name says so; else bytes must begin as an image does, for they may be anything (an id)."""
    if isinstance(value, Mapping):
        return "bytes" in value and set(value) <= {"bytes", "path"}
    if isinstance(value, str):
        return value.strip().lower().endswith((*SUFFIXES, *MORE))
    return isinstance(value, Image) or (isinstance(value, bytes) and (sure or begins_as_image(value[:16])))


def image_in(row: Mapping[str, Any], column: str, number: int, root: Path, *, whole: bool, table: str = "") -> Image:
    """The image of one row; BadRow if there is none. root: the folder that paths are below; whole: decode it
    to its end, so that a damaged one is known now; table: the file that the row is of, to be named."""
    value = row.get(column)
    if value is None or value in ("", b""):
        raise BadRow(number, "no image", f"column {column!r} is empty")
    try:
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = str(value.get("path") or "")
        if isinstance(value, str):
            name = value.strip()
            image = Image(path=inside(root, name, number, "unreadable image"), name=name)
        elif isinstance(value, Image) and value.path is not None:  # of a folder of images
            inside(root, str(value.path), number, "unreadable image", value.name)
            image = value
        else:
            image = image_of(value, f"{table}, row {number}" if table else f"row {number}")
        if whole:
            check(image)
        elif image.path is not None and not image.path.is_file():
            raise BadRow(number, "unreadable image", f"{image.name}: there is no such image file")
    except DataError as error:
        raise BadRow(number, "unreadable image", str(error)) from None
    return image


def inside(root: Path, name: str, number: int, kind: str, shown: str = "") -> Path:
    """The file of that name below root; BadRow where it leads out, or where no file can have such a name."""
    file = root / name
    try:
        name.encode()
        real = file.resolve()
        file.exists()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, half a character, too long, a circle of links
        raise BadRow(number, kind, f"{name[:80]!r} cannot be a file: {error!s:.120}") from None
    if not real.is_relative_to(root):
        said = f"{shown or name!r} leads out of {root}: it is outside of the folder where the data are"
        raise BadRow(number, "outside", said)
    return file
