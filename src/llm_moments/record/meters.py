"""Memory and energy, where this machine lets them be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llm_moments.record.session import Figure

RAPL = Path("/sys/class/powercap")


def peak_memory() -> Figure:
    """Of the whole process, since its start: the loading of the model is in it."""
    note = "most resident memory of this process since it began, loading the model included"
    if sys.platform == "win32":
        import psutil

        return Figure(float(psutil.Process().memory_info().peak_wset), "bytes", "measured", note)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return Figure(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit), "bytes", "measured", note)


def tensor_memory(device: str) -> Figure:
    if device != "cuda":
        return Figure.none("bytes", "tensors are counted apart from the process on a GPU only")
    import torch

    return Figure(float(torch.cuda.max_memory_allocated()), "bytes", "measured", "most memory held by torch's tensors")


class Energy:
    """Joules between its making and `spent()`: RAPL's packages and, on cuda, what NVML counts."""

    def __init__(self, device: str = "cpu", root: Path = RAPL):
        self.root = root
        self.cards = _cards() if device == "cuda" else []
        self.before = self._read()

    def _read(self) -> dict[str, float]:
        found = {}
        for folder in sorted(self.root.glob("intel-rapl:?")):
            try:
                found[folder.name] = int((folder / "energy_uj").read_text()) / 1e6
            except (OSError, ValueError):
                continue
        return found | {f"GPU {i}": _millijoules(card) / 1e3 for i, card in enumerate(self.cards)}

    def spent(self) -> Figure:
        after = self._read()
        if not self.before or self.before.keys() != after.keys():
            return Figure.none("J", "no readable energy counter (RAPL, NVML) on this machine")
        used = {name: after[name] - start for name, start in self.before.items()}
        for name in used:
            if used[name] < 0:  # the counter began again from 0
                used[name] += self._range(name)
        if any(joules < 0 for joules in used.values()):
            return Figure.none("J", "the energy counter wrapped round")
        return Figure(
            sum(used.values()), "J", "measured", f"{', '.join(used)}: the whole machine's, not this process's"
        )

    def _range(self, name: str) -> float:
        try:
            return int((self.root / name / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            return 0.0


def _cards() -> list[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no package, no driver, no right to ask: then it is not measured
        return []


def _millijoules(card: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card))
