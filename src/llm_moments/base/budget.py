"""Time that a verb may take, as it is said."""

from __future__ import annotations

from llm_moments.base.errors import InputError


def seconds(budget: float | str) -> float:
    """90, "90s", "10m" or "1h" in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    text = str(budget).strip().lower()
    try:
        value = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e7:
        raise InputError(f"a budget is a time such as 90s, 10m or 1h, not {budget!r}")
    return value
