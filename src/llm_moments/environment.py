"""What machine this is: hardware, versions, and its measured peaks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "onnxruntime", "openvino", "nncf", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
NEVER_TRIED = "The code for cuda and mps devices has been tested with fakes only, never on real hardware."


def fingerprint() -> dict[str, Any]:
    """Hardware and versions as plain data; nothing heavy is imported."""
    import psutil

    from llm_moments import __version__

    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "flags": [flag for flag in FLAGS if flag in _cpu_flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "llm-moments": __version__,
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_info(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(key)), "")


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set((_cpu_info("flags") or _cpu_info("Features")).split())


def peaks(*, refresh: bool = False) -> dict[str, float | None]:
    """GFLOP/s of a matrix product in fp32 and bf16, and GB/s of a copy, measured here and kept.

    The best of several short runs, warm, all cores. bf16 is None where torch has no fast path for it.
    """
    from llm_moments.artefact import write_atomic
    from llm_moments.engines.base import cache_folder

    key = hashlib.sha256(json.dumps(fingerprint(), sort_keys=True).encode()).hexdigest()[:12]
    file = cache_folder() / f"peaks-{key}.json"
    if file.exists() and not refresh:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    measured = _measure_peaks()
    write_atomic(file, json.dumps(measured))
    return measured


def _measure_peaks() -> dict[str, float | None]:
    import torch

    torch.set_num_threads(usable_cores())
    size = 1536
    result: dict[str, float | None] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        result[name] = round(2 * size**3 / _best(lambda a=a, b=b: a @ b) / 1e9, 1)
    source = torch.randn(32 * 2**20)
    target = torch.empty_like(source)
    result["copy_gb"] = round(2 * source.numel() * 4 / _best(lambda: target.copy_(source)) / 1e9, 1)
    return result


def _best(work: Any, tries: int = 7) -> float:
    work()
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def doctor() -> dict[str, Any]:
    """Hardware, measured peaks, the engines that are here and how to get the others, devices."""
    from llm_moments.engines.base import ENGINES, engine_class, why_not

    engines = {}
    for name in ENGINES:
        cls, reason = engine_class(name), why_not(name)
        version = _version(cls.package.split(",")[0])
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
        "peaks": peaks() if torch_here else None,
        "engines": engines,
        "devices": _devices() if torch_here else ["cpu"],
        "notes": [NEVER_TRIED],
    }


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append(f"cuda ({torch.cuda.get_device_name(0)})")
    return [*found, "mps"] if torch.backends.mps.is_available() else found
