"""What a search tries, stage by stage: each a function of the search, in the order of `STAGES`."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from llm_moments.base.environment import usable_cores
from llm_moments.base.errors import EngineError
from llm_moments.core import Plan
from llm_moments.engines.base import ENGINES, available, engine_class, put_on
from llm_moments.improve.cascade import cascades, threes
from llm_moments.improve.heal_images import shares as image_shares
from llm_moments.improve.prefilter import uses
from llm_moments.improve.search import GOOD, Search
from llm_moments.improve.study import Trial
from llm_moments.train.settings import fast_bf16
from llm_moments.train.students.spec import share_of as layers_of

SURE = 0.95  # chance to pass from which more length is not needed
HEALS = {"one": 0.3, "third": 0.4, "half": 0.65}  # of the time that is left, for teaching a model of so many layers
MUCH = 0.75  # of the time of the best plan before: students of more layers could hardly do better
NARROW = {"quarter": 0.35, "narrow": 0.6}  # what students of half the heads and neurons cost, of the whole model's time
LEARNING = 0.6  # of the time that is left, for teaching one of those, or one for int8
SATURATED = 2  # rungs that are sure before a longer one is left out
FLOAT = ("bf16", "fp32")
PRECISIONS = ("bf16", "int8-dynamic", "int8", "fp32")
NEAR = 1.1  # times the fastest engine's time
NEAR_INT8 = 1.5  # int8 gains on it in longer batches than those of a first try
SOON = 150.0  # seconds for int8 and students together
FIRST = 0.15  # of the time that is left, for learning a model to put first
COMPILE_SECONDS = 60.0  # what torch.compile may take before its first answer


def lossless(search: Search) -> None:
    """Order, padding, pre-cutting and graph engines, at full length and precision."""
    base = search.stock.plan.with_(**search.stock.task.sorts, **search.stock.task.ladder.before)
    search.try_plan(base, "lossless", lossless=True, rows=search.quick_rows)
    for engine in [e for e in ENGINES if e in available() and not e.startswith("torch")]:
        if search.late():
            return
        search.try_plan(
            base.with_(**put_on(engine, base.settings("forward").get("precision", "fp32"))),
            "lossless",
            lossless=True,
            rows=search.quick_rows,
        )


def by_hand(search: Search) -> None:
    """What a careful engineer would set: sorted, padded to the batch, cut where the model was trained
    if that is known, the best single engine and float precision. A candidate like any other."""
    plans = [hand_plan(search, *pair) for pair in pairs(search) if pair[1] in FLOAT]
    quick = [search.try_plan(plan, "by hand", rows=search.quick_rows) for plan in plans if not search.late()]
    best = min((t for t in quick if t.status == "ok"), key=lambda t: t.cost or 0.0, default=None)
    if best is None:
        return
    search.study.note("hand", best.key)
    if not search.late((best.cost or 0.0) * len(search.part)):
        search.try_plan(Plan(best.plan), "by hand")


def hand_plan(search: Search, engine: str, precision: str) -> Plan:
    task = search.stock.task
    back = dict.fromkeys(["forward.streams", *task.ladder.before])
    return search.plan_of(engine, precision, task.by_hand(search.stock.plan), **back)


def lengths(search: Search) -> None:
    """Lengths, from the shortest up until more brings nothing, for the fastest engines in float."""
    for engine, precision in variants(search, FLOAT):
        _ladder(search, engine, precision, "lossy")


def int8(search: Search) -> None:
    """The same in int8, whose graphs take longer to make; where there is little time, students come first."""
    if search.heal is not None and search.late(SOON):
        return
    for engine, precision in variants(search):
        _ladder(search, engine, precision, "lossy")


def _ladder(search: Search, engine: str, precision: str, stage: str, most: int = 1 << 30, **more: Any) -> None:
    sure, last = 0, 0.0
    for length in [n for n in rungs(search) if n <= most]:
        if sure == SATURATED or search.late(1.5 * last * len(search.part)):
            break
        trial = search.try_plan(search.plan_of(engine, precision, length, **more), stage)
        if trial.status != "ok":
            break
        sure, last = sure + (search.odds(trial) >= SURE), trial.cost or 0.0


def heal(search: Search) -> None:
    """One layer, which learns and answers fastest; a third and half of them where that did not make much faster."""
    if search.heal is None or not search.good():
        return
    for student, share in _students(search).items():
        teachers = [t for t in search.good() if "cascade" not in t.plan and not t.plan["forward"].get("weights")]
        if not teachers or search.late():
            return
        before = search.good()[0].cost or 0.0
        if not (name := _healed(search, teachers, student, share)):
            return
        cascades(search)
        best = search.good()[0]
        if _uses(best, name) and (best.cost or 0.0) < MUCH * before:
            return


def _students(search: Search) -> dict[str, float]:
    """Their shares of the time, without those that come to as many layers as another."""
    if search.stock.task.ladder.unit == "pixels":
        return image_shares(search.stock.model)
    count = layer_count(search)
    layers = {student: layers_of(count, student) for student in HEALS}
    return {s: share for at, (s, share) in enumerate(HEALS.items()) if layers[s] not in list(layers.values())[:at]}


def narrow(search: Search) -> None:
    """Half the heads and neurons, of half the layers where these are good already, else of all: where its cost promises
    to be well below the best plan's, and it can learn for as long as the students before it."""
    if search.heal is None or not search.good() or search.stock.task.ladder.unit != "tokens":
        return
    teachers = [t for t in search.good() if "cascade" not in t.plan and not t.plan["forward"].get("weights")]
    student = "quarter" if any(_uses(t, "healed-half") for t in search.good()) else "narrow"
    if not teachers or NARROW[student] * (teachers[0].cost or 0.0) >= MUCH * (search.good()[0].cost or 0.0):
        return
    before: Any = search.study.notes.get("heal")
    taught = before["students"].values() if isinstance(before, dict) else ()
    if search.late() or LEARNING * search.left() < min(taught, default=0.0):
        return
    if _healed(search, teachers, student, LEARNING):
        cascades(search)


def heal_int8(search: Search) -> None:
    """Where int8 alone costs answers: the whole model learns to bear it, and is tried where int8 was."""
    good = search.good()
    if search.heal is None or not good or search.late(3 * search.built):
        return
    extent, singles = search.stock.task.ladder, [t for t in search.whole() if "cascade" not in t.plan]
    whole = [t for t in singles if not t.plan["forward"].get("weights") and not t.plan["forward"].get("keep_float")]
    float_good = {extent.of(t.plan) for t in whole if not _int8(t) and search.odds(t) >= GOOD}
    lost = [t for t in whole if _int8(t) and search.odds(t) < SURE and extent.of(t.plan) in float_good]
    fast = [t for t in lost if (t.cost or 0.0) < MUCH * (good[0].cost or 0.0)]
    teachers = [t for t in good if not _int8(t) and "cascade" not in t.plan and not t.plan["forward"].get("weights")]
    if not fast or not teachers:
        return
    length = max(extent.of(t.plan) for t in fast)
    name = search.heal(search.pipe(max(teachers, key=search.odds)), length, LEARNING * search.left(), "int8")
    for trial in fast if name else ():
        if search.late(2 * search.built):
            return
        search.try_plan(Plan(trial.plan).with_(**{"forward.weights": name}), "healed")


def _int8(trial: Trial) -> bool:
    return str(trial.plan["forward"].get("precision", "")).startswith("int8")


def _healed(search: Search, teachers: list[Trial], student: str, share: float) -> str:
    """Teaches it by the fastest good plan, and tries its own lengths on the fastest engines."""
    assert search.heal is not None
    sure = [t for t in teachers if search.odds(t) >= SURE] or teachers
    taught = _taught_at(search, search.stock.task.ladder.of(teachers[0].plan))
    name = search.heal(search.pipe(sure[0]), taught, share * search.left(), student)
    if name:
        for engine, precision in variants(search)[:2]:
            _ladder(search, engine, precision, "healed", taught, **{"forward.weights": name})
    return name


def _uses(trial: Trial, name: str) -> bool:
    """Whether these weights are the plan's own, or those of its cheap stage."""
    cheap = trial.plan.get("cascade", {}).get("cheap", {})
    return name in (trial.plan["forward"].get("weights"), cheap.get("forward.weights"))


def _taught_at(search: Search, single: int) -> int:
    """The length to teach at: what a good plan needs or, where a cascade is the fastest, a rung more than its
    cheap stage reads, for that is the place that a smaller model takes."""
    fastest = Plan(search.good()[0].plan)
    short = fastest.settings("cascade").get("cheap", {}).get(search.stock.task.ladder.knob)
    longer = [n for n in rungs(search) if short and short < n < single]
    return min(longer, default=single)


def first(search: Search) -> None:
    """A model of another kind, for the cheap stage of a cascade; on its own it is a plan like any other."""
    if search.first is None or search.late():
        return
    if name := search.first(search.part, search.known, FIRST * search.left()):
        sorts = {**search.stock.task.sorts, **put_on("torch", "fp32"), "forward.calibration": None}
        trial = search.try_plan(search.stock.plan.with_(**sorts, **{"forward.weights": name}), "put first")
        told: Any = search.study.notes.get("first")
        if isinstance(told, dict) and trial.score is not None:
            baseline = float(search.base_scores.mean())
            search.study.note("first", {**told, "score": trial.score, "baseline": baseline})


def rungs(search: Search) -> list[int]:
    """Extents that are worth a try, smallest first, up to the model's own."""
    found: list[int] = search.stock.task.rungs(search.stock, search.part.values[:200])
    return found


def variants(search: Search, precisions: Container[str] = PRECISIONS) -> list[tuple[str, str]]:
    """Engines and precisions by their time on some rows of a middling length (images: full size); the fastest, and any
    that is within a tenth of it, or within half if it is in int8. int8 is left out where building it would eat the time."""
    steps = rungs(search)
    middle = steps[(len(steps) - 1) // 2]
    if search.stock.task.ladder.unit == "pixels":
        middle = steps[-1]  # a graph is built for each size, and most networks keep their answers at their own only
    costs = {}
    for engine, precision in [pair for pair in pairs(search) if pair[1] in precisions]:
        if search.late(4 * search.built if precision == "int8" else 0.0):
            continue
        plan = search.plan_of(engine, precision, middle, **{"forward.streams": None})  # few rows fill no two streams
        trial = search.try_plan(plan, "engines", rows=search.quick_rows)
        if trial.status == "ok" and trial.cost:
            costs[engine, precision] = trial.cost
    order = sorted(costs, key=costs.__getitem__)
    return [p for p in order if costs[p] <= (NEAR_INT8 if p[1].startswith("int8") else NEAR) * costs[order[0]]]


def pairs(search: Search) -> list[tuple[str, str]]:
    """Engines and precisions, lower ones first. fp16 is never ahead of bf16 on a CPU that has either,
    and torch's own is tried on a GPU by `--set`; ONNX Runtime in fp32 is left to the lossless stage."""
    engines = [e for e in ("openvino", "onnxruntime", "torch") if e in available()]
    found = [(e, p) for p in PRECISIONS for e in engines if p in engine_class(e).precisions]
    # Where the processor computes in bf16, no product of matrices is faster in fp32.
    tokens = search.stock.task.ladder.unit == "tokens"
    slower = [(e, "fp32") for e, p in found if p == "bf16" and tokens and fast_bf16("cpu")]
    return [pair for pair in found if pair != ("onnxruntime", "fp32") and pair not in slower]


def tune(search: Search) -> None:
    """Lossless knobs of the fastest good plan, one after the other, kept when they are faster."""
    best = next(iter(search.good()), None)
    for name, value in tunable(search):
        if best is None or search.late():
            return
        plan = Plan(best.plan).with_(**{name: value}, **_in_cheap(best.plan, name, value))
        trial = search.try_plan(plan, "tune")
        if trial.status == "ok" and (trial.cost or 9e9) < 0.98 * (best.cost or 0.0):
            best = trial


def tunable(search: Search) -> list[tuple[str, Any]]:
    cores = usable_cores()
    options: list[tuple[str, tuple[Any, ...]]] = [
        ("forward.streams", tuple(sorted({1, 2, max(cores // 2, 1), cores}))),
        *((name, tuple(values)) for name, values in search.stock.task.ladder.tunable),
        ("forward.threads", (1,)),
    ]
    return [(name, value) for name, values in options for value in values]


def _in_cheap(plan: Any, name: str, value: Any) -> dict[str, Any]:
    """The same lossless knob in the cheap stage of a cascade, when the plan has one."""
    if "cascade" not in plan:
        return {}
    cascade = plan["cascade"]
    if uses(cascade["cheap"]):
        return {}
    return {"cascade.cheap": {**cascade["cheap"], name: value}}


def others(search: Search) -> None:
    """Other ways to cut a text or prepare an image, for the fastest good single plans."""
    single = [t for t in search.good() if "cascade" not in t.plan]
    for trial in single[:2]:
        for changes in search.stock.task.others(search.stock, Plan(trial.plan), search.part.values):
            if search.late():
                return
            search.try_plan(Plan(trial.plan).with_(**changes), "input")


def keep_float(search: Search) -> None:
    """Where int8 costs answers: each part of the model left in float, then those that help together."""
    lossy = [t for t in search.whole() if _int8(t)]
    fast = [t for t in lossy if "cascade" not in t.plan and not _beaten(search, t)]
    if not fast:
        return
    start = max(fast, key=search.odds)
    if search.odds(start) >= SURE:
        return
    helped: list[tuple[float, str]] = []
    for part in ("layer 0", f"layer {layer_count(search) - 1}", "embeddings", "head"):
        if search.late(3 * search.built):
            return
        trial = search.try_plan(Plan(start.plan).with_(**{"forward.keep_float": [part]}), "kept in float")
        if trial.status == "ok" and search.odds(trial) > search.odds(start) + 0.05:
            helped.append((search.odds(trial), part))
    names = sorted(part for _, part in helped)
    if len(names) > 1 and not search.late(3 * search.built):
        search.try_plan(Plan(start.plan).with_(**{"forward.keep_float": names}), "kept in float")


def _beaten(search: Search, trial: Trial) -> bool:
    """Whether a good plan is as fast already: then no repair of this one could win."""
    return any((t.cost or 0.0) <= (trial.cost or 0.0) for t in search.good())


def compiled(search: Search) -> None:
    """torch.compile in the place of the engine of the fastest good single plan, if there is time for it."""
    single = [t for t in search.good() if "cascade" not in t.plan]
    if not single or "torch.compile" not in available() or search.late(2 * COMPILE_SECONDS):
        return
    start, length = single[0], search.stock.task.ladder.of(single[0].plan)
    for precision in ("bf16", "fp32"):
        if search.late(COMPILE_SECONDS):
            return
        plan = search.plan_of("torch.compile", precision, length)
        trial = search.try_plan(plan, "engines", rows=search.quick_rows)
        if trial.status == "ok" and (trial.cost or 9e9) < (start.cost or 0.0):
            search.try_plan(plan, "lossy")


def skips(search: Search) -> None:
    """Each layer left out of the fastest good plan, judged by the eager engine; kept if it is free."""
    single = [t for t in search.good() if "cascade" not in t.plan]
    if not single:
        return
    start = Plan(single[0].plan)  # judged in the eager engine: a graph would be built for each layer
    judged = start.with_(**put_on("torch", "fp32"), **{"forward.calibration": None})
    free = []
    for layer in range(layer_count(search)):
        if search.late():
            return
        trial = search.try_plan(judged.with_(**{"forward.skip_layers": [layer]}), "skip")
        if trial.status == "ok" and search.odds(trial) >= 0.5:
            free.append((trial.drop or 0.0, layer))
    for many in range(1, len(free) + 1):
        layers = sorted(layer for _, layer in sorted(free)[:many])
        if search.late(2 * search.built):
            return
        trial = search.try_plan(start.with_(**{"forward.skip_layers": layers}), "skip")
        if trial.status != "ok" or search.odds(trial) < 0.5:
            return


def layer_count(search: Search) -> int:
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count as count

    if "layers" not in search.study.notes:
        try:
            found = count(load_module(search.stock.model))
        except EngineError:  # a model without layers: none can be left out
            found = 0
        search.study.note("layers", found)
    return int(search.study.notes["layers"])


STAGES: tuple[Callable[[Search], None], ...] = (
    by_hand, first, cascades, lengths, cascades, threes, int8, cascades, threes, lossless, heal, narrow, tune, others, keep_float, heal_int8, compiled, skips,
    cascades, threes, tune,
)  # fmt: skip
