"""Whether an input that is longer than the plan takes may be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_moments.core import Knob, one_of

CUT, FAIL = "cut", "fail"
NAME = "on_overflow"
OVERFLOW = Knob(NAME, CUT, (), False, one_of(CUT, FAIL), "of what is too long: cut it, or fail")


def fails(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get(NAME, CUT) == FAIL)
