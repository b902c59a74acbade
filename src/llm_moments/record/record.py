"""`record`: where do time, memory and energy go? A Session, on the user's own examples."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_moments import stats
from llm_moments.core import NULL, Pipeline
from llm_moments.environment import fingerprint
from llm_moments.errors import EngineError
from llm_moments.evaluation import gather
from llm_moments.model import load
from llm_moments.record.limits import forward_limit
from llm_moments.record.probes import layer_costs, probed
from llm_moments.record.profiles import shares
from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, Session, StepCost

Tick = Callable[[float | None, str], None]

OVERHEAD_ROWS, OVERHEAD_PAIRS = 256, 7
OVERHEAD_S = 1.0  # seconds that one of those passes should take; a slow plan is given fewer rows
PROFILED = 6  # batches that a graph engine profiles


def record(
    model: Any, data: Any, *, depth: int = 1, limit: int | None = None, progress: Tick | None = None,
    device: str = "auto", **read: Any,
) -> Session:  # fmt: skip
    """Runs the pipeline over the data, warm, and gives the tree of its steps.

    depth 0: steps; 1: layers inside forward; 2: attention and MLP inside each layer (torch only).
    """
    pipe = load(model, device=device)
    tick = progress or (lambda done, message: None)
    examples, _ = gather(data, **read)
    values = [e.input for e in examples[:limit]]
    tick(0.0, "warming up")
    _pass(pipe, values[:64], NULL)
    tick(0.2, "recording")
    session = observe(pipe, values, depth)
    tick(0.7, "measuring the recorder's own overhead")
    rate = session.figures["throughput"].value or 1.0
    rows = min(max(int(rate * OVERHEAD_S), 8), OVERHEAD_ROWS)
    overhead = _overhead(pipe, values[:rows], depth)
    tick(1.0, "done")
    return replace(session, figures={**session.figures, "overhead": overhead})


def observe(pipe: Pipeline, values: Sequence[Any], depth: int = 1) -> Session:
    """One recorded pass, without a warm-up and without measuring the recorder itself."""
    energy = _Energy()
    root, notes = _recorded(pipe, values, depth)
    spent = energy.spent()
    figures = {
        "throughput": Figure(len(values) / root.wall_s, "items/s"),
        "peak_memory": _peak_memory(),
        "tensor_memory": _tensor_memory(pipe),
        "energy": spent,
    }
    return Session(
        _with_limits(pipe, root), figures, pipe.model.name, pipe.task.name, pipe.plan.to_dict(), fingerprint(),
        tuple(notes), datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _pass(pipe: Pipeline, values: Sequence[Any], recorder: Any) -> float:
    start = time.perf_counter()
    for _ in pipe.run(values, recorder):
        pass
    return time.perf_counter() - start


def _recorded(pipe: Pipeline, values: Sequence[Any], depth: int) -> tuple[StepCost, list[str]]:
    """The tree of one pass, its forward step opened as far as the engine lets us."""
    recorder, notes = Recorder(), []
    engine = _engine(pipe)
    module = getattr(engine, "module", None)
    if depth and engine.name == "torch" and module is not None and pipe.cheap is None:
        with probed(module, depth, engine.device) as probes:
            seconds = _pass(pipe, values, recorder)
        tree = recorder.tree()
        children = layer_costs(probes, _outermost(tree, "forward").wall_s)
    else:
        seconds = _pass(pipe, values, recorder)
        tree = recorder.tree()
        children, said = _profiled(pipe, engine, values, _outermost(tree, "forward").wall_s) if depth else ((), "")
        notes += [said] if said else []
    tree = _replaced(tree, "forward", lambda step: replace(step, children=(*step.children, *children)))
    return replace(
        tree, calls=1, wall_s=seconds, cpu_s=sum(s.cpu_s or 0 for s in tree.children), counts={"items": len(values)}
    ), notes


def _outermost(step: StepCost, name: str) -> StepCost:
    """The step of that name nearest to the root: in a cascade, the dear stage's and not the cheap one's."""
    return min((found for found in step.walk() if found[1].name == name), key=lambda found: found[0])[1]


def _engine(pipe: Pipeline) -> Any:
    return pipe.engines.get(pipe.dear.plan.settings("forward"))


def _profiled(pipe: Pipeline, engine: Any, values: Sequence[Any], seconds: float) -> tuple[tuple[StepCost, ...], str]:
    """Layers of a graph engine: the shares of its own profile, applied to the time that was measured."""
    settings = pipe.dear.plan.settings("forward")
    if engine.name == "torch.compile":
        return (), "torch.compile fuses its layers; forward is shown as one step."
    batches = pipe.dear.arrays(values[:256])[:PROFILED]
    try:
        found = shares(engine, pipe.model, settings, pipe.engines.store(settings), batches)
    except (RuntimeError, OSError, EngineError) as error:
        return (), f"{engine.name} gave no profile ({error}); forward is shown as one step."
    if not found:
        return (), f"{engine.name}'s operations do not carry layer names; forward is shown as one step."
    note = f"Layer times are modelled: shares of {engine.name}'s own profile of {len(batches)} batches."
    return tuple(StepCost(name, 0, share * seconds) for name, share in found.items()), note


def _replaced(step: StepCost, name: str, change: Callable[[StepCost], StepCost]) -> StepCost:
    """The tree with the outermost step of that name changed."""
    if any(child.name == name for child in step.children):
        return replace(step, children=tuple(change(c) if c.name == name else c for c in step.children))
    return replace(step, children=tuple(_replaced(c, name, change) for c in step.children))


def _with_limits(pipe: Pipeline, root: StepCost) -> StepCost:
    batch = next((s for s in root.children if s.name == "batch"), None)
    if batch is None:
        return root
    precision = pipe.dear.plan.settings("forward").get("precision", "fp32")
    rows, tokens = batch.counts.get("items", 0), batch.counts.get("padded_tokens", 0)

    def limited(step: StepCost) -> StepCost:
        limit = forward_limit(pipe.model.config, precision, rows, tokens, step.wall_s)
        return replace(step, limit=limit, counts={**step.counts, "tokens": tokens})

    return _replaced(root, "forward", limited)


# -------------------------------------------------------------------------------------- figures


def _overhead(pipe: Pipeline, values: Sequence[Any], depth: int) -> Figure:
    """Share by which recording slows the run down: paired passes with and without, A B B A …"""
    engine = _engine(pipe)
    probes = depth and engine.name == "torch" and pipe.cheap is None

    def recorded() -> float:
        if not probes:
            return _pass(pipe, values, Recorder())
        with probed(engine.module, depth, engine.device):
            return _pass(pipe, values, Recorder())

    plain: list[float] = []
    watched: list[float] = []
    for turn in range(OVERHEAD_PAIRS):
        for which in ("plain", "watched")[:: 1 if turn % 2 == 0 else -1]:
            (plain if which == "plain" else watched).append(
                _pass(pipe, values, NULL) if which == "plain" else recorded()
            )
    ratio = stats.ratio_interval(watched, plain)
    note = f"between {ratio.low - 1:+.2%} and {ratio.high - 1:+.2%}, {OVERHEAD_PAIRS} pairs of {len(values)} examples"
    return Figure(ratio.estimate - 1, "share", "measured", note)


def _peak_memory() -> Figure:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Figure(float(peak), "bytes", "measured", "most resident memory of this process so far")


def _tensor_memory(pipe: Pipeline) -> Figure:
    if getattr(_engine(pipe), "device", "cpu") != "cuda":
        return Figure.none("bytes", "tensors are counted apart on a GPU only")
    import torch

    return Figure(float(torch.cuda.max_memory_allocated()), "bytes")


class _Energy:
    """Joules from RAPL's counters, where the system lets us read them."""

    ROOT = Path("/sys/class/powercap")

    def __init__(self) -> None:
        self.before = self._read()

    def _read(self) -> dict[Path, int]:
        found = {}
        for file in self.ROOT.glob("intel-rapl:?/energy_uj"):
            try:
                found[file] = int(file.read_text())
            except (OSError, ValueError):
                continue
        return found

    def spent(self) -> Figure:
        after = self._read()
        if not self.before:
            return Figure.none("J", "no readable energy counter on this machine")
        used = [after[f] - self.before[f] for f in self.before if f in after]
        if any(u < 0 for u in used):
            return Figure.none("J", "the energy counter wrapped round")
        return Figure(sum(used) / 1e6, "J", "measured", "RAPL packages, whole machine")
