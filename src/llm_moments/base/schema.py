"""What this project has written, read back through the types that it was written from.

A saved file may be cut off, damaged, edited by hand or of another version. Each kind is a data class, and its fields'
types are the schema: a value of another type, a missing or an unknown field is an error that names file and place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llm_moments.base.errors import DataError, InputError

T = TypeVar("T")
MOST = 2**30  # bytes of a file that is read whole
FORMAT = 1


def read(file: Path, what: str, build: Callable[[Any], T], error: type[InputError] = DataError) -> T:
    """The JSON of a file as `build` makes a T of it; `error` that names the file, what it should be, and why not."""
    try:
        return build(parse(file.read_bytes() if file.stat().st_size <= MOST else b""))
    except (OSError, DataError) as why:
        said = getattr(why, "strerror", None) or str(why)
        raise error(f"{file} is not {what}: {said}. It is damaged, or another version made it.") from why


def parse(raw: bytes) -> Any:
    """JSON, NaN and infinities as Python writes them; DataError for anything else, and for half characters."""
    if not raw.strip():
        raise DataError("it is empty")
    try:
        text = raw.decode()
        data = json.loads(text, parse_int=_whole)
        if "\\ud" in text.lower():  # half a character can be written in JSON, and nowhere else
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeError:
        raise DataError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"it is not JSON: {error}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; brackets in brackets
        raise DataError(f"it cannot be read as JSON: {error}") from None
    return data


def _whole(digits: str) -> int:
    number = int(digits)
    if abs(number) >= 2**63:  # no table, and nothing that we count, holds more
        raise ValueError(f"{digits[:20]}… is too large")
    return number


def convert(data: Any, kind: type[T]) -> T:
    """Plain data as a data class (or any type that msgspec knows); DataError that names the place of what is wrong."""
    import msgspec

    try:
        made: T = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise DataError(str(error).replace(" - at `$", " at `")) from None
    except (OverflowError, RecursionError) as error:  # 10^400 as a float
        raise DataError(f"a value is out of range: {error}") from None
    if unknown := next(_unknown(data, msgspec.to_builtins(made)), None):
        raise DataError(f"unknown field {unknown}")
    return made


def least(data: Mapping[str, Any], kind: Any) -> Mapping[str, Any]:
    """The same, once what it must or may say (a TypedDict) is as it should be; it may say more."""
    convert({name: data[name] for name in kind.__annotations__ if name in data}, kind)
    return data


def result(data: Any, named: str, kind: type[T], *derived: str) -> T:
    """A saved result that says what it is: `{"kind": named, "format": 1, …}`. derived: fields that follow from others."""
    if not isinstance(data, dict) or data.get("kind") != named:
        raise DataError(f"it does not say that it is a {named}")
    if data.get("format") != FORMAT or isinstance(data["format"], bool):
        raise DataError(f"it has format {data.get('format')!r}; this version reads {FORMAT}")
    return convert({k: v for k, v in data.items() if k not in ("kind", "format", *derived)}, kind)


def _unknown(said: Any, kept: Any, at: str = "") -> Iterator[str]:
    """Names of what was said and left out. A field that is misspelt would count as its default otherwise."""
    if isinstance(said, dict) and isinstance(kept, dict):
        for name, value in said.items():
            if name not in kept:
                yield f"{at}{name}"
            else:
                yield from _unknown(value, kept[name], f"{at}{name}.")
    elif isinstance(said, list) and isinstance(kept, list | tuple):
        for row, value in enumerate(said):
            yield from _unknown(value, kept[row], f"{at}{row}.")
