"""What this machine has, and what is missing."""

from __future__ import annotations

import os
from typing import Any

from llm_moments.base.cache import cache_folder
from llm_moments.base.environment import fingerprint, peaks, version_of
from llm_moments.engines.base import ENGINES, engine_class, why_not
from llm_moments.engines.generator import GENERATORS

NEVER_TRIED = (
    "The code for cuda and mps devices (half precision, transfers, CUDA events, device memory, energy by NVML) and for "
    "RAPL's energy counters has been tested with fakes only, never on real hardware."
)


def doctor() -> dict[str, Any]:
    """Hardware, measured peaks, the engines that are here and how to get the others, devices."""
    engines = {}
    for name in (*ENGINES, *GENERATORS):
        cls, reason = engine_class(name), why_not(name)
        version = version_of(cls.package.split(",")[0])
        engines[name] = {
            "found": reason is None,
            "version": version,
            "precisions": list(cls.precisions),
            "cure": reason,
        }
    torch_here = engines["torch"]["found"]
    return {
        "kind": "doctor",
        "hardware": fingerprint(),
        "peaks": peaks(refresh=True) if torch_here else None,
        "engines": engines,
        "devices": _devices() if torch_here else ["cpu"],
        "notes": [NEVER_TRIED, *_about_cache()],
    }


def _about_cache() -> list[str]:
    folder = cache_folder()
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [
        f"The cache folder {folder} cannot be written: nothing is kept from one run to the next. MOMENTS_CACHE names another."
    ]


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append(f"cuda ({torch.cuda.get_device_name(0)})")
    return [*found, "mps"] if torch.backends.mps.is_available() else found
