"""Arrow's values as Python's, also where Python has no room for them: years after 9999, nanoseconds, unknown zones."""

from __future__ import annotations

from typing import Any


class Moment:
    """A date, time or duration that Python's own types cannot hold; not a text, so that it is not taken for the input."""

    def __init__(self, text: str):
        self._text = text

    def isoformat(self) -> str:
        return self._text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Moment({self._text})"


def values_of(column: Any) -> list[Any]:
    """What `column.to_pylist()` gives, and no error of a value that Python cannot hold."""
    if getattr(column.type, "unit", None) != "ns":  # pandas, which may not be here, would be needed for these
        try:
            return list(column.to_pylist())
        except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError):
            pass  # what Python cannot hold, or a zone that nobody knows
    return [None if text is None else Moment(text) for text in _texts(column)]


def _texts(column: Any) -> list[str | None]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit))  # in UTC, as it is stored
    try:
        told = [None if text is None else text.replace(" ", "T", 1) for text in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException:
        told = ["<"]
    if not any(text and text.startswith("<") for text in told):  # so Arrow writes what it cannot write either
        return told
    if not pa.types.is_temporal(column.type):
        return [None] * len(column)
    whole = pa.int32() if column.type.bit_width == 32 else pa.int64()
    return [None if number is None else str(number) for number in column.cast(whole).to_pylist()]
