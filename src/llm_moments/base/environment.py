"""What machine this is: hardware, versions, and its measured peaks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "onnxruntime", "openvino", "nncf", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
PEAKS = ("fp32", "bf16", "int8", "copy_gb")


def fingerprint() -> dict[str, Any]:
    """Hardware and versions as plain data; nothing heavy is imported."""
    import psutil

    from llm_moments.version import __version__

    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "llm-moments": __version__,
        **({"gpus": gpus} if (gpus := _gpu_names()) else {}),
        **{name: version for name in PACKAGES if (version := version_of(name))},
    }


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu_names() -> list[str]:
    """NVIDIA's cards as the driver names them, without torch."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            text = file.read_text(encoding="utf-8")
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model")]
    return names


def _cpu_info(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(key)), "")


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    return set((_cpu_info("flags") or _cpu_info("Features")).split())


def peaks(refresh: bool = False) -> dict[str, float | None]:
    """GFLOP/s of a matrix product in fp32, bf16 and int8, and GB/s of a copy, measured here and kept.

    Best median of three, warm, on all cores, in about 2 s. None where torch cannot do it on this CPU. refresh:
    measured again, and the larger of both is kept, since a machine that was busy has shown less than it can.
    """
    from llm_moments.base.atomic import write_atomic
    from llm_moments.base.cache import cache_folder
    from llm_moments.base.errors import WriteError

    key = hashlib.sha256(json.dumps([PEAKS, fingerprint()], sort_keys=True).encode()).hexdigest()[:12]
    file = cache_folder() / f"peaks-{key}.json"
    kept = _kept(file)
    if kept and not refresh:
        return kept
    measured = _measure_peaks()
    for name, before in (kept or {}).items():  # a busy machine shows less than it can: what was once reached counts
        if name in measured and before is not None:
            measured[name] = max(before, measured[name] or 0.0)
    try:
        write_atomic(file, json.dumps(measured))
    except WriteError:
        pass  # they are as true without a place to keep them; they are measured again the next time
    return measured


def _kept(file: Path) -> dict[str, float | None] | None:
    from llm_moments.base import schema
    from llm_moments.base.errors import DataError

    try:
        found = schema.read(file, "peaks", lambda data: schema.convert(data, dict[str, float | None]))
    except DataError:
        return None  # not measured yet, or not whole: measured again
    sound = all(value is None or (math.isfinite(value) and value > 0) for value in found.values())
    return found if sound and set(PEAKS) <= set(found) else None


def _measure_peaks(size: int = 1536, copied: int = 32 * 2**20) -> dict[str, float | None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    flops = 2 * size**3
    try:
        a = torch.randn(size, size)
        whole = torch.randint(-100, 100, (size, size), dtype=torch.int8)
        half = a.to(torch.bfloat16)
        source, target = torch.ones(copied), torch.empty(copied)
        return {
            "fp32": _best(flops, lambda: a @ a, _by_onednn(a)),
            "bf16": _rate(flops, lambda: half @ half),
            "int8": _rate(flops, lambda: torch._int_mm(whole, whole)),
            "copy_gb": _rate(2 * copied * 4, lambda: target.copy_(source)),
        }
    finally:
        torch.set_num_threads(threads)


def _by_onednn(matrix: Any) -> Callable[[], Any]:
    """The same product by oneDNN: on AMD's processors twice as fast as the library that torch takes for fp32."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return lambda: matrix @ matrix
    packed = matrix.to_mkldnn()
    return lambda: torch._C._nn.mkldnn_linear(packed, matrix)  # type: ignore[call-arg]


def _best(amount: float, *ways: Callable[[], Any]) -> float | None:
    found = [rate for way in ways if (rate := _rate(amount, way))]
    return max(found) if found else None


def _rate(amount: float, work: Callable[[], Any], seconds: float = 0.5) -> float | None:
    """10⁹ a second; None where the machine cannot, or where one run takes longer than all should."""
    try:
        start = time.perf_counter()
        work()
    except (RuntimeError, NotImplementedError, AttributeError):
        return None
    if time.perf_counter() - start > 2 * seconds:
        return None
    medians = []
    for _ in range(3):
        times: list[float] = []
        end = time.perf_counter() + seconds / 3
        while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times))
    return round(amount / min(medians) / 1e9, 1)
