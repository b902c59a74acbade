"""Images as values: a file, its bytes or an array, not decoded before it is asked for, and bounded before that."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, EngineMissing

MAX_PIXELS = 64_000_000  # of one image, known from its header before anything is decoded
MAX_BYTES = 256_000_000  # of one file
# What is opened at all: no format that runs another program (EPS) or fetches something (PDF, WMF).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")


class Image:
    """One image: `path`, `data` (an encoded file) or `array`, one of the three; `name` is for messages.

    array: uint8 or uint16 [height, width] or [height, width, 1 to 4]. Two images are equal when their contents
    are; str() tells the digest of the content, so that an image can be hashed like a text.
    """

    __slots__ = ("_digest", "array", "data", "kept", "name", "path")

    def __init__(
        self, *, path: Path | None = None, data: bytes | None = None, array: np.ndarray | None = None, name: str = ""
    ):
        self.path, self.data, self.array = path, data, array
        self.name = name or (str(path) if path else "an image")
        self.kept: tuple[Any, np.ndarray] | None = None  # what a step has made of it, and by which settings
        self._digest = ""

    @property
    def digest(self) -> str:
        if not self._digest:
            digest = hashlib.sha256()
            if self.array is not None:
                digest.update(f"{self.array.shape}{self.array.dtype}".encode())
                digest.update(np.ascontiguousarray(self.array).data)
            else:
                digest.update(self.encoded())
            self._digest = digest.hexdigest()[:32]
        return self._digest

    def encoded(self) -> bytes:
        """The encoded file; DataError if it cannot be read."""
        if self.data is not None:
            return self.data
        assert self.path is not None, "an array has no encoded bytes"
        try:
            if self.path.is_dir():
                raise DataError(f"{self.name} is a folder, not an image; a folder of images is given with --data")
            if not self.path.is_file():
                raise DataError(f"{self.name}: there is no such image file")
            if self.path.stat().st_size > MAX_BYTES:
                raise DataError(f"{self.name} has more than {MAX_BYTES:,} bytes; that is no image to classify")
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from error

    def portable(self) -> dict[str, Any]:
        """As JSON can hold it, for another process of this machine; `image_of` takes it back."""
        if self.path is not None:
            return {"path": str(self.path.resolve())}
        if self.data is not None:
            return {"base64": base64.b64encode(self.data).decode()}
        assert self.array is not None
        raw = base64.b64encode(np.ascontiguousarray(self.array).tobytes()).decode()
        return {"array": raw, "shape": list(self.array.shape), "dtype": str(self.array.dtype)}

    def __str__(self) -> str:
        return f"image {self.digest}"

    def __repr__(self) -> str:
        return f"Image({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def image_of(value: Any, name: str = "") -> Image:
    """A path, encoded bytes, an array, a Pillow image, or a dict with one of them, as an Image; DataError else."""
    if isinstance(value, Image):
        return value
    if isinstance(value, Mapping):
        return _of_mapping(value, name)
    if isinstance(value, str | Path):
        if str(value).startswith(("http://", "https://", "data:")):
            raise DataError(f"{str(value)[:80]!r}: an image is a file, its bytes or an array; nothing is fetched")
        return Image(path=Path(value).expanduser(), name=name)
    if isinstance(value, bytes | bytearray | memoryview):
        return Image(data=bytes(value), name=name)
    if isinstance(value, np.ndarray):
        return Image(array=checked_array(value, name), name=name)
    if type(value).__module__.startswith("PIL."):
        return Image(array=pixels(value, name or "a Pillow image"), name=name or "a Pillow image")
    raise DataError(f"an image is a path, bytes, an array or a Pillow image, not {value!r:.80}")


def _of_mapping(value: Mapping[str, Any], name: str) -> Image:
    """{"image": …}, or as Parquet files and JSON hold an image: {"bytes": …, "path": …}, {"base64": …}."""
    name = name or str(value.get("name") or value.get("path") or "")
    if value.get("image") is not None:
        return image_of(value["image"], name)
    if value.get("bytes") is not None:
        return image_of(value["bytes"], name)
    for key in ("base64", "array"):
        if isinstance(value.get(key), str):
            try:
                raw = base64.b64decode(value[key], validate=True)
                if key == "base64":
                    return Image(data=raw, name=name)
                kind = np.dtype(value["dtype"])
                return image_of(np.frombuffer(raw, kind).reshape([int(n) for n in value["shape"]]), name)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{name or 'an image'}: its {key} is damaged: {error}") from None
    if value.get("path") is not None:
        return image_of(value["path"], name)
    raise DataError(
        f"an image as a dict has image, path, bytes or base64, not {', '.join(map(str, value)) or 'nothing'}"
    )


def checked_array(array: np.ndarray, name: str = "") -> np.ndarray:
    """The array, if it can be an image: uint8 or uint16, [height, width] or [height, width, 1 to 4]."""
    name = name or "an array"
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name} holds {array.dtype}; an image as an array holds uint8 (0 to 255) or uint16")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise DataError(f"{name} has the shape {array.shape}; an image has [height, width] or [height, width, 1 to 4]")
    if not array.size:
        raise DataError(f"{name} has no pixels (shape {array.shape})")
    _bounded(array.shape[1], array.shape[0], name)
    return array


def _bounded(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels, over {MAX_PIXELS:,}: scale it down before")


class Keeper:
    """Keeps with each image what was made of it, for the next epoch, as far as there is room.

    key: the settings by which it was made; room: bytes.
    """

    def __init__(self, key: str, room: int):
        self.key, self.room = key, room

    def kept(self, image: Image) -> np.ndarray | None:
        return image.kept[1] if image.kept and image.kept[0] == self.key else None

    def keep(self, image: Image, pixels: np.ndarray) -> None:
        if image.array is None and pixels.nbytes <= self.room:  # an array is there already
            image.kept = (self.key, pixels.copy())
            self.room -= pixels.nbytes


# ------------------------------------------------------------------------------------- decoding


@lru_cache(1)
def pillow() -> Any:
    try:
        from PIL import Image as module
    except ImportError as error:
        raise EngineMissing("Pillow", "images") from error
    module.init()
    return module


def decoded(image: Image, channels: int = 3, least: int = 0) -> Any:
    """A Pillow image (RGB or L), upright; or an array uint8 [height, width, channels] where it came as one.

    channels: 1 or 3. least > 0: a JPEG file may be decoded at half, a quarter or an eighth of its size, but
    with no side below `least`. Of an animated file the first frame counts; alpha is left out, as Pillow's
    convert("RGB") has it; 16-bit grey is scaled to 8. DataError names an image that cannot be decoded.
    """
    if image.array is not None:
        return _array(image.array, channels)
    raw = image.encoded()
    with _told(image.name):
        opened = _opened(raw, image.name)
        if least and opened.format == "JPEG" and opened.mode in ("RGB", "L", "YCbCr"):
            opened.draft("L" if channels == 1 else opened.mode, (least, least))
        turned = upright(opened)
        return _mode(turned, "L" if channels == 1 else "RGB", image.name)


def size_of(image: Image) -> tuple[int, int]:
    """Width and height, from the header; DataError if that cannot be read or says too much."""
    if image.array is not None:
        return image.array.shape[1], image.array.shape[0]
    with _told(image.name):
        width, height = _opened(image.encoded(), image.name).size
    return int(width), int(height)


def check(image: Image) -> None:
    """DataError if the image cannot be decoded to its end."""
    decoded(image, 1, 1)


class _told:
    """Whatever Pillow raises over a damaged file, in its many ways, as DataError that names the image."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, DataError) or not isinstance(error, Exception):
            return
        if type(error).__name__ == "UnidentifiedImageError":
            said = f"is no image of a known format ({', '.join(FORMATS)})"
        elif type(error).__name__ == "DecompressionBombError":
            said = f"has more than {MAX_PIXELS:,} pixels: scale it down before"
        elif isinstance(error, MemoryError):
            said = "does not fit into memory"
        else:
            said = (
                f"cannot be decoded: {str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)}"
            )
        raise DataError(f"{self.name} {said}") from error


def _opened(raw: bytes, name: str) -> Any:
    module = pillow()
    if not raw:
        raise DataError(f"{name} is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, whose size is checked here
        opened = module.open(io.BytesIO(raw), formats=[f for f in FORMATS if f in module.OPEN])
    _bounded(opened.size[0], opened.size[1], name)
    return opened


def upright(opened: Any) -> Any:
    """As the camera was held: EXIF's orientation undone."""
    from PIL import ImageOps

    if opened.getexif().get(0x0112, 1) in (0, 1):
        opened.load()
        return opened
    return ImageOps.exif_transpose(opened)


def _mode(opened: Any, wanted: str, name: str) -> Any:
    if opened.mode.startswith("I") or opened.mode == "F":
        opened = pillow().fromarray(_eight_bits(np.asarray(opened), name))
    if opened.mode == "P" and "transparency" in opened.info:
        opened = opened.convert("RGBA")
    return opened if opened.mode == wanted else opened.convert(wanted)


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """16 or 32-bit grey as uint8: Pillow's own convert would clip it to white."""
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 65535:
        raise DataError(f"{name} has values from {array.min():g} to {array.max():g}; 0 to 65535 can be read")
    if array.dtype.kind == "f":
        array = array * 255 if array.max() <= 1 else array
        return np.asarray(np.clip(array if array.max() <= 255 else array / 257, 0, 255), np.uint8)
    return np.asarray(array // 257 if array.dtype == np.uint16 or array.max() > 255 else array, np.uint8)


def pixels(opened: Any, name: str) -> np.ndarray:
    """A Pillow image as an array of its own: uint8 [height, width] or [height, width, 3]."""
    with _told(name):
        _bounded(opened.size[0], opened.size[1], name)
        turned = upright(opened)
        return np.asarray(_mode(turned, "L" if turned.mode in ("L", "1", "LA", "I", "I;16", "F") else "RGB", name))


GREY = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601 in 16 bits, as Pillow rounds it


def _array(array: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [height, width, channels] of any array that `checked_array` lets through."""
    if array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] in (2, 4):
        array = array[:, :, :-1]
    if array.shape[2] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=2)
    return ((array.astype(np.uint32) @ GREY + 0x8000) >> 16).astype(np.uint8)[:, :, None]
