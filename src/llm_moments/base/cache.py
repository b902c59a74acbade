"""Where what may be made anew is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`MOMENTS_CACHE`, or `llm-moments` in the user's cache folder."""
    root = os.environ.get("MOMENTS_CACHE")
    if root:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-moments"
