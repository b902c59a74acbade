"""`record`: where do time, memory and energy go? A Session, on the user's own examples."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from llm_moments.assembly.load import load
from llm_moments.base.busy import Watch
from llm_moments.base.environment import fingerprint
from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import NULL, Pipeline
from llm_moments.data.readers import source_of
from llm_moments.evaluate.evaluation import gather
from llm_moments.evaluate.measure import forget
from llm_moments.record import decoding
from llm_moments.record.image_limits import limited_images
from llm_moments.record.limits import Load, limited
from llm_moments.record.meters import Energy, peak_memory, tensor_memory
from llm_moments.record.overhead import counted, measured, rows_for
from llm_moments.record.probes import Probe, layer_costs, probed
from llm_moments.record.profiles import shares
from llm_moments.record.recorder import Recorder
from llm_moments.record.session import Figure, Session, StepCost

Tick = Callable[[float | None, str], None]

WARM = 32  # examples of the pass that warms up
PROFILED = 6  # batches that a graph engine profiles


def record(
    model: Any, data: Any, *, depth: int = 1, limit: int | None = None, repeat: int = 1,
    progress: Tick | None = None, device: str = "auto", **read: Any,
) -> Session:  # fmt: skip
    """Runs the pipeline over the data, warm, and gives the tree of its steps.

    model: a pipeline or where to load one from. data: a path or an iterable of inputs or Examples, of
    which the first `limit` are taken; `read`: options of `data.read` for a path. depth 0: steps; 1:
    layers inside forward; 2: attention and MLP inside each layer (torch only). repeat: passes.
    """
    if depth not in (0, 1, 2):
        raise InputError(f"depth is 0, 1 or 2, not {depth!r}")
    for name, value in (("limit", limit), ("repeat", repeat)):
        if value is not None and value < 1:
            raise InputError(f"{name} is at least 1, not {value!r}")
    start = time.perf_counter()
    pipe = load(model, device=device)
    watch = Watch()
    tick = progress or (lambda done, message: None)
    load_s = _loaded(pipe, start)
    values, read_s = _read(data, limit, read)
    tick(0.0, "warming up")
    _pass(pipe, values[: min(WARM, pipe.task.sizes.block)], NULL)
    tick(0.2, "recording")
    session = observe(pipe, values, depth, repeat=repeat, read_s=read_s)
    tick(0.7, "measuring the recorder's own overhead")
    own = {} if isinstance(model, Pipeline) else {"load": Figure(load_s, "s", note="once, before the recording")}
    own |= {"overhead": _overhead(pipe, values, session, depth), "overhead_counted": _counted(pipe, session, depth)}
    tick(1.0, "done")
    notes = (*session.notes, *filter(None, [busy := watch.words()]))
    return replace(session, figures={**session.figures, **own}, notes=notes, busy=busy, data=_named(data, len(values)))


def _named(data: Any, rows: int) -> str:
    """What was recorded on, in words."""
    place = str(data) if isinstance(data, str | Path) else source_of(data).path
    return f"{place}, {rows:,} {'row' if rows == 1 else 'rows'}"


def observe(pipe: Pipeline, values: Sequence[Any], depth: int = 1, *, repeat: int = 1, read_s: float = 0.0) -> Session:
    """One recording, without a warm-up and without measuring the recorder itself.

    read_s: seconds that reading the values took; they become part of the step `read`.
    """
    stages = _stages(pipe)
    energy = Energy(_device(stages[-1]))
    recorder = Recorder()
    more: dict[str, Figure] = {}
    if pipe.task.streams:  # answers are made token by token
        with decoding.watched(pipe, depth) as layers:
            seconds = sum(_pass(pipe, values, recorder) for _ in range(repeat))
        spent, memory = energy.spent(), peak_memory()
        root, notes = decoding.opened(recorder.tree(), pipe, layers)
        more = decoding.figures(root, pipe) | decoding.percentiles(recorder.moments)
    else:
        with _watched(stages, depth, recorder) as probes:
            seconds = sum(_pass(pipe, values, recorder) for _ in range(repeat))
        spent, memory = energy.spent(), peak_memory()
        root, notes = _opened(recorder.tree(), stages, probes, values, depth)
    root = _with_reading(root, seconds, read_s)
    figures = {
        "throughput": Figure(repeat * len(values) / root.wall_s, "items/s"),
        "peak_memory": memory,
        "tensor_memory": tensor_memory(_device(stages[-1])),
        "energy": spent,
        **more,
    }
    return Session(
        replace(root, calls=repeat, counts={"items": repeat * len(values)}), figures, pipe.model.name, pipe.task.name,
        pipe.plan.to_dict(), fingerprint(), tuple(notes), datetime.now(UTC).isoformat(timespec="seconds"),
        timeline=tuple(recorder.moments),
    )  # fmt: skip


def _loaded(pipe: Pipeline, start: float) -> float:
    """Seconds since then, when every engine is open."""
    for stage in _stages(pipe):
        stage.engine  # noqa: B018  (opened where it is not)
    return time.perf_counter() - start


def _read(data: Any, limit: int | None, options: dict[str, Any]) -> tuple[list[Any], float]:
    """The inputs, and the seconds that reading them took."""
    from llm_moments.data import readers

    start = time.perf_counter()
    if isinstance(data, str | Path):
        data = readers.read(data, **options)
    elif options:
        raise InputError(f"{', '.join(options)}: only for data that is read from a path")
    examples, _ = gather(itertools.islice(data, limit) if limit else data)
    return [e.input for e in examples], time.perf_counter() - start


def _pass(pipe: Pipeline, values: Sequence[Any], recorder: Any) -> float:
    forget(pipe)
    start = time.perf_counter()
    for _ in pipe.run(values, recorder):
        pass
    return time.perf_counter() - start


# --------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stage:
    """A pipeline without a cascade, and where its steps are in the tree: below as many cascades as stages come after it."""

    pipe: Pipeline
    parents: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        return self.pipe.engine_settings

    @property
    def engine(self) -> Any:
        return self.pipe.engines.get(self.settings)

    @property
    def forward(self) -> tuple[str, ...]:
        return (*self.parents, "forward")

    @property
    def depth(self) -> int:
        """How many steps are open while its forward runs, the run itself among them."""
        return len(self.forward) + 1


def _stages(pipe: Pipeline) -> list[Stage]:
    return [Stage(part, where) for where, part in pipe.parts.items()]


def _device(stage: Stage) -> str:
    return str(stage.engine.device)


def _hooked(stage: Stage, depth: int) -> bool:
    engine = stage.engine
    return bool(depth) and engine.name == "torch" and engine.device in ("cpu", "cuda")


@contextmanager
def _watched(stages: Sequence[Stage], depth: int, recorder: Recorder) -> Iterator[dict[int, list[Probe]]]:
    """Probes on the module of each torch engine, by the engine's id; stages may share one."""
    with ExitStack() as stack:
        found: dict[int, list[Probe]] = {}
        for stage in stages:
            engine = stage.engine
            if _hooked(stage, depth) and id(engine) not in found:
                layers = probed(engine.module, depth, engine.device, where=recorder.depth)
                with suppress(EngineError):  # a model without a run of layers is recorded as one step
                    found[id(engine)] = stack.enter_context(layers)
        yield found


# ----------------------------------------------------------------------------------------- tree


def _opened(
    tree: StepCost, stages: Sequence[Stage], probes: dict[int, list[Probe]], values: Sequence[Any], depth: int
) -> tuple[StepCost, list[str]]:
    """The tree with each stage's forward step opened as far as its engine lets us, and its limit."""
    notes: list[str] = []
    for stage in stages:
        tree = _at(tree, stage.parents, partial(_without_idle, stage))
        forward, batch = _get(tree, stage.forward), _get(tree, (*stage.parents, "batch"))
        if forward is None or batch is None:  # a dear stage that was never asked
            continue
        layers, said = _layers(stage, forward, probes, values) if depth else ([], "")
        notes += [said] if said and said not in notes else []
        counts = batch.counts
        load = Load(counts.get("padded_tokens", 0), counts.get("squares", 0), counts.get("batches", 0))
        tokens = {k: counts[k] for k in ("tokens", "padded_tokens") if k in counts}
        full = replace(forward, counts={**forward.counts, **tokens}, children=(*forward.children, *layers))
        model = stage.pipe.engines.model_for(stage.settings)
        if "image_size" in stage.settings:
            images = counts.get("items", 0) - counts.get("reused_rows", 0)
            full = limited_images(full, model, stage.settings, images, counts.get("batches", 0))
        else:
            full = limited(full, model, stage.settings, load)
        tree = _at(tree, stage.parents, partial(_with_child, full))
    return tree, notes


def _layers(
    stage: Stage, forward: StepCost, probes: dict[int, list[Probe]], values: Sequence[Any]
) -> tuple[list[StepCost], str]:
    engine = stage.engine
    if id(engine) in probes:
        known = sum(child.wall_s for child in forward.children)
        return layer_costs(probes[id(engine)], forward.wall_s, stage.depth, known), ""
    if engine.name == "torch.compile":
        return [], "torch.compile fuses its layers; forward is shown as one step."
    if _hooked(stage, 1):
        return [], "no run of layers was found in this model; forward is shown as one step."
    if engine.name == "torch":
        return [], f"layers are not timed on {engine.device}; forward is shown as one step."
    return _profiled(stage, values, forward.wall_s)


def _profiled(stage: Stage, values: Sequence[Any], seconds: float) -> tuple[list[StepCost], str]:
    """Layers of a graph engine: the shares of its own profile, applied to the time that was measured."""
    engine, settings = stage.engine, stage.settings
    batches = stage.pipe.arrays(values[:256])
    chosen = batches[:: -(-len(batches) // PROFILED)]  # all lengths, also where rows are sorted
    try:
        found = shares(engine, settings, stage.pipe.engines.store(settings), chosen)
    except (RuntimeError, OSError, ValueError, EngineError) as error:
        return [], f"{engine.name} gave no profile ({error}); forward is shown as one step."
    if not found:
        return [], f"{engine.name}'s operations do not carry layer names; forward is shown as one step."
    note = f"Layer times are modelled: shares of {engine.name}'s own profile of {len(chosen)} batches, a pass apart."
    return [StepCost(name, 0, share * seconds) for name, share in found.items()], note


def _with_reading(root: StepCost, seconds: float, read_s: float) -> StepCost:
    """Whole seconds of the run; what was read before it is part of its step `read`."""
    root = _at(root, ("read",), lambda step: replace(step, wall_s=step.wall_s + read_s, cpu_s=None))
    return replace(root, wall_s=seconds + read_s, cpu_s=sum(step.cpu_s or 0.0 for step in root.children))


def _with_child(child: StepCost, parent: StepCost) -> StepCost:
    """With that child in the place of the one of its name."""
    return replace(parent, children=tuple(child if c.name == child.name else c for c in parent.children))


def _without_idle(stage: Stage, parent: StepCost) -> StepCost:
    """Without the step precut where the plan cuts nothing before the tokenizer."""
    if stage.pipe.plan.settings("precut").get("chars_per_token"):
        return parent
    return replace(parent, children=tuple(c for c in parent.children if c.name != "precut"))


def _get(step: StepCost, path: Sequence[str]) -> StepCost | None:
    for name in path:
        found = [child for child in step.children if child.name == name]
        if not found:
            return None
        step = found[0]
    return step


def _at(step: StepCost, path: Sequence[str], change: Callable[[StepCost], StepCost]) -> StepCost:
    """The tree with the step at that path changed."""
    if not path:
        return change(step)
    children = (_at(c, path[1:], change) if c.name == path[0] else c for c in step.children)
    return replace(step, children=tuple(children))


# ------------------------------------------------------------------------------------- overhead


def _overhead(pipe: Pipeline, values: Sequence[Any], session: Session, depth: int) -> Figure:
    rate = session.figures["throughput"].value or 1.0
    few = values[:: max(1, len(values) // rows_for(rate, len(values)))][: rows_for(rate, len(values))]
    stages = _stages(pipe)

    def watched() -> float:
        recorder = Recorder()
        hooks = decoding.watched(pipe, depth) if pipe.task.streams else _watched(stages, depth, recorder)
        with hooks:  # type: ignore[attr-defined]
            return _pass(pipe, few, recorder)

    return measured(lambda: _pass(pipe, few, NULL), watched)


def _counted(pipe: Pipeline, session: Session, depth: int) -> Figure:
    return counted(session.root, any(_hooked(stage, depth) for stage in _stages(pipe)))
