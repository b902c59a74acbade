"""Where what may be made anew is kept, and how much of it."""

from __future__ import annotations

import os
from pathlib import Path

from llm_moments.base.atomic import remove

MOST = 24 << 30  # bytes of what is kept of language models: weights dequantised, graphs


def cache_folder() -> Path:
    """`MOMENTS_CACHE`, or `llm-moments` in the user's cache folder."""
    root = os.environ.get("MOMENTS_CACHE")
    if root:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-moments"


def used(store: Path, beginnings: tuple[str, ...], most: int = MOST) -> None:
    """Notes that a folder of the cache is used now, and removes those used longest ago where all of them together have
    over `most` bytes. beginnings: of the names of folders that are counted; others are let be, and so are those outside
    of the cache, such as an artefact's own."""
    if cache_folder() not in store.parents:
        return
    try:
        os.utime(store)
        kept = [one for start in beginnings for one in cache_folder().glob(f"*/{start}*") if one.is_dir()]
        sizes = {one: sum(file.stat().st_size for file in one.iterdir()) for one in kept}
        for one in sorted(kept, key=lambda folder: folder.stat().st_mtime_ns):
            if sum(sizes.values()) <= most:
                return
            if one != store:
                remove(one)
                del sizes[one]
    except OSError:
        pass  # another process removes the same, or nothing can be written there: it is tried again next time
