"""Whether others used the machine while something was timed: figures of such a time are not those of the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_moments.base.environment import usable_cores

MUCH = 0.1  # share of the cores from which it is told
SHORTEST = 0.5  # seconds: clocks of the processor tick 100 times a second


@dataclass(frozen=True)
class Ticks:
    """Seconds since some moment. wall: of a clock; used: of all cores that this process may use, whoever used them, with
    what a hypervisor took for other machines (stolen); own: of this process and its children."""

    wall: float
    used: float
    own: float
    stolen: float


def ticks() -> Ticks:
    import psutil

    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        cores = [cores[at] for at in mine if at < len(cores)] or cores
    used = stolen = 0.0
    for core in cores:
        told = core._asdict()
        stolen += told.get("steal", 0.0)
        inside = told.get("guest", 0.0) + told.get("guest_nice", 0.0)  # counted in user and nice, too
        used += sum(told.values()) - told["idle"] - told.get("iowait", 0.0) - inside
    return Ticks(time.monotonic(), used, _own(), stolen)


def _own() -> float:
    import psutil

    me = psutil.Process()
    times = me.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in me.children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.Error:
            continue  # it has just ended
        total += spent.user + spent.system
    return float(total)


class Watch:
    """From now on. others: cores that others used meanwhile, on average, and how many of those a hypervisor took."""

    def __init__(self, read: Callable[[], Ticks] = ticks, cores: int | None = None):
        self.read, self.cores = read, cores or usable_cores()
        self.begin = read()

    def others(self) -> tuple[float, float] | None:
        """None where too little time has gone by to tell."""
        now, begin = self.read(), self.begin
        wall = now.wall - begin.wall
        if wall < SHORTEST:
            return None
        stolen = max(now.stolen - begin.stolen, 0.0) / wall
        used = (now.used - begin.used - (now.own - begin.own)) / wall
        return min(max(used, 0.0), float(self.cores)), min(stolen, float(self.cores))

    def words(self) -> str:
        """That figures were taken meanwhile on a busy machine; empty where they were not."""
        found = self.others()
        if found is None or found[0] < MUCH * self.cores:
            return ""
        took = f", {found[1]:.1f} of them by other machines on the same hardware" if found[1] >= 0.1 else ""
        load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        return (
            f"figures taken while {found[0]:.1f} of {self.cores} cores were used by others{took}{load}: times may be longer "
            "and their comparison less sure than on a quiet machine"
        )
