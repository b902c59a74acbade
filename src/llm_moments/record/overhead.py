"""What recording itself costs: paired passes with and without it, and its own work counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, StepCost

SECONDS = 8.0  # for all pairs together
PASS = 0.2  # seconds that one pass should take: short ones give many pairs
FEWEST, MOST = 5, 40
NOISE = 0.02  # share that a run with recording may seem faster


def rows_for(rate: float, most: int) -> int:
    """How many examples make a pass of about `PASS` seconds at so many a second."""
    return max(1, min(int(rate * PASS), most, 256))


def measured(plain: Callable[[], float], watched: Callable[[], float], seconds: float = SECONDS) -> Figure:
    """Median ratio of paired times less 1, A B B A …, each pass giving its own seconds.

    The interval is that of order statistics: it needs no distribution, and an outlier (another
    process) moves it little.
    """
    plain(), watched()
    logs: list[float] = []
    spent, end = [], time.perf_counter() + seconds
    while len(logs) < FEWEST or (len(logs) < MOST and time.perf_counter() < end):
        if len(logs) % 2 == 0:
            a, b = plain(), watched()
        else:
            b, a = watched(), plain()
        logs.append(float(np.log(b / a)))
        spent.append(a)
    low, high, sure = median_interval(logs)
    note = (
        f"{sure:.0%} interval {np.expm1(low):+.2%} to {np.expm1(high):+.2%}, median of {len(logs)} pairs of passes of "
        f"{np.median(spent) * 1000:,.0f} ms"
    )
    found = float(np.expm1(np.median(logs)))
    if found < -NOISE:  # recording cannot make a run faster
        return Figure.none("share", f"passes with recording took {found:+.0%}: other things ran meanwhile; {note}")
    return Figure(found, "share", "measured", note)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Order statistics that hold the median, and how surely: at least `confidence` from 6 values on."""
    from scipy.stats import binom

    ordered = sorted(values)
    n = len(ordered)
    cut = max(int(binom.ppf((1 - confidence) / 2, n, 0.5)) - 1, 0)
    sure = 1 - 2 * float(binom.cdf(cut, n, 0.5))
    return ordered[cut], ordered[n - 1 - cut], sure


def counted(root: StepCost, probes: bool) -> Figure:
    """The recorder's own work: steps entered and modules watched, times what each costs here."""
    steps = sum(step.calls for _, step in root.walk())
    visits = sum(
        inner.calls for _, step in root.walk() if step.name == "forward" and probes
        for level, inner in step.walk() if level and inner.name != "mlp"
    )  # fmt: skip
    each = step_seconds()
    hooked = probe_seconds() if visits else 0.0
    share = ((steps - visits) * each + visits * hooked) / root.wall_s
    note = f"{steps - visits} steps of {each * 1e6:.1f} µs"
    if visits:
        note += f", {visits} watched modules of {hooked * 1e6:.1f} µs"
    return Figure(share, "share", "modelled", note)


def step_seconds(times: int = 2000) -> float:
    """Entering, counting in and leaving one step."""
    recorder = Recorder()
    start = time.perf_counter()
    for _ in range(times):
        with recorder.step("step", items=1):
            recorder.count(tokens=1)
    return (time.perf_counter() - start) / times


def probe_seconds(times: int = 2000) -> float:
    """Calling a module with a probe on it, less calling it without."""
    import torch

    from llm_moments.record.probes import Probe, watching

    module = torch.nn.Identity()

    def calls() -> float:
        start = time.perf_counter()
        for _ in range(times):
            module(None)
        return time.perf_counter() - start

    calls()
    bare = calls()
    probe = Probe(["layer 0"], module, lambda: 0, time.perf_counter_ns)
    with watching(probe):
        return max(calls() - bare, 0.0) / times
