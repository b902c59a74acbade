"""What machine this is: hardware, versions, measured peaks."""
from __future__ import annotations
import platform
from typing import Any


def fingerprint() -> dict[str, Any]:
    return {"machine": platform.machine(), "python": platform.python_version()}
