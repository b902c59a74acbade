"""`explain`: one answer opened up. Which parts of its input it rests on, what never reached the model, what each layer does
to it, what would change it, and what it cost: on the plan and the engine that gave it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from llm_moments.assembly.load import load
from llm_moments.base.budget import seconds
from llm_moments.base.errors import EngineError, InputError, ModelError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.parts import Parts
from llm_moments.engines.base import available
from llm_moments.explain.ablation import Ablation
from llm_moments.explain.explanation import AgainstChance, Explanation, LayerWorth, Other, PartWorth, Unseen
from llm_moments.explain.important import faith, fewest_that_turn, losses, order, smallest_that_keeps
from llm_moments.explain.sentence import in_a_sentence
from llm_moments.record.record import observe
from llm_moments.weigh.changes import skips

Tick = Callable[[float | None, str], None]
BUDGET = "30s"
MOST_WORDS = 2000  # parts: an input with more is taken apart into the next larger kind
OTHERS = 12  # plans at most that are asked for another answer


def explain(
    model: Any, value: Any, *, parts: str | None = None, depth: int = 1, budget: float | str = BUDGET,
    progress: Tick | None = None, device: str = "auto", seed: int = 0,
) -> Explanation:  # fmt: skip
    """The answer of a model (pipeline, folder, artefact) to one input, opened up. No answer changes by it.

    parts: what the input is taken apart into (words, sentences; patches of an image); depth: 0 the parts alone, 1 also the
    layers and other plans, 2 the recording with attention and MLP, too. budget: time for what is not needed: layers and
    other plans are left out where it is used up, and that is noted. Raises InputError for a task that cannot be explained.
    """
    begin, allowed, tick = time.monotonic(), seconds(budget), progress or (lambda done, message: None)
    pipe = load(model, device=device)
    task = pipe.task
    if not task.part_kinds:
        raise InputError(f"answers of {task.name} cannot be explained yet")
    if parts is not None and parts not in task.part_kinds:
        raise InputError(f"inputs of {task.name} are taken apart into {' or '.join(task.part_kinds)}, not {parts!r}")
    value = task.normalise(value)
    tick(0.0, "the answer")
    stage, where = answering(pipe, value)
    outputs = stage.outputs([value])
    divided = _divided(pipe, value, parts)
    ablation = Ablation(stage, divided, outputs)
    tick(0.1, f"leaving out {len(divided):,} {divided.kind}")
    worths = losses(ablation)
    ordered = order(ablation, worths)
    tick(0.5, "holding the order against chance")
    test = _tested(ablation, ordered, seed)
    keeps, turns = smallest_that_keeps(ablation, ordered), fewest_that_turn(ablation, ordered)
    unseen = tuple(Unseen(part.name, part.place) for part in task.unseen(stage, value))
    notes: list[str] = []
    layers: tuple[LayerWorth, ...] = ()
    others: tuple[Other, ...] = ()
    if depth:
        late = _Late(begin, allowed, notes)
        tick(0.7, "leaving out layers")
        layers = tuple(late.take("layers", _layers(stage, value, outputs, notes)))
        tick(0.8, "other plans")
        others = tuple(late.take("other plans", _others(stage, value, outputs)))
    tick(0.9, "recording this request")
    session = observe(pipe, [value], depth)
    answer = task.answers(outputs)[0]
    found = Explanation(
        input=_plain(value), answer=_told(pipe, outputs), score=answer.score,
        support=float(ablation.support([ablation.whole])[0]), unit=task.support_unit, said="", parts_are=divided.kind,
        parts=tuple(PartWorth(p.name, p.place, worths.get(at)) for at, p in enumerate(divided.parts)),
        test=test, keeps=_numbers(keeps), turns=_numbers(turns),
        turned="" if turns is None else _told(pipe, stage.outputs([divided.keep(ablation.without(turns))])),
        unseen=unseen, seen_all=_seen_all(stage, value) if unseen else "", layers=layers, others=others, stage=where,
        asked=ablation.asked, seconds=round(time.monotonic() - begin, 3), session=session, notes=tuple(notes),
        model=pipe.model.name, plan=pipe.plan.to_dict(),
    )  # fmt: skip
    tick(1.0, "done")
    return found.with_sentence(in_a_sentence(found))


def answering(pipe: Pipeline, value: Any) -> tuple[Pipeline, str]:
    """The stage of a cascade that answers this input, and by what margin; the pipeline itself where there is none."""
    return _stage(pipe, value)[:2]


def _stage(pipe: Pipeline, value: Any) -> tuple[Pipeline, str, bool]:
    """And whether the input came as far as the last stage."""
    if pipe.cheap is None:
        return pipe, "", True
    stage, said, last = _stage(pipe.cheap, value)
    if not last:
        return stage, said, False
    margin, threshold = float(pipe.task.margins(stage.outputs([value]))[0]), pipe.plan["cascade"]["threshold"]
    if margin < threshold:
        return (
            pipe.full,
            f"the cheap stage was unsure (margin {margin:.2f}, below {threshold:.2f}): the full plan answered",
            True,
        )
    return stage, f"the cheap stage answered (margin {margin:.2f}, at least {threshold:.2f})", False


def _divided(pipe: Pipeline, value: Any, kind: str | None) -> Parts:
    for one in [kind] if kind else pipe.task.part_kinds:
        divided = pipe.task.divided(value, one)
        if len(divided) <= MOST_WORDS:
            break
    return divided


def _tested(ablation: Ablation, ordered: list[int], seed: int) -> AgainstChance:
    found = faith(ablation, ordered, seed)
    if len(ordered) < 2:
        return found
    first, parts = ordered[0], ablation.parts
    long = _extent(parts.parts[first].place)
    rng = np.random.default_rng(seed)
    rest = [at for at in range(len(parts)) if at != first]
    alike = sorted(rest, key=lambda at: (abs(_extent(parts.parts[at].place) - long), rng.random()))
    made = ablation.pipe.outputs([parts.keep(ablation.without([at])) for at in (first, alike[0])])
    told = [_told(ablation.pipe, made[np.array([at])]) for at in (0, 1)]
    return replace(found, without_strongest=told[0], without_another=told[1], another=parts.parts[alike[0]].name)


def _extent(place: tuple[Any, ...]) -> float:
    """How long a stretch is, or how large a box."""
    ends = [float(end) for end in place[1:]]
    return ends[1] - ends[0] if len(ends) == 2 else (ends[2] - ends[0]) * (ends[3] - ends[1])


def _layers(stage: Pipeline, value: Any, answer: Outputs, notes: list[str]) -> Iterator[LayerWorth]:
    """Each layer left out, in torch: what another engine that answered says of the input is held against it first."""
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count

    if not stage.task.layered or _linear(stage):
        return
    base = _in_torch(stage, "fp32")
    try:
        count = layer_count(load_module(stage.model))
        whole = float(stage.task.support(base, [value], answer)[0][0])
    except (EngineError, ModelError):
        return
    own = float(stage.task.support(stage, [value], answer)[0][0])
    if base.plan != stage.settled().plan:
        notes.append(
            f"Layers were left out in torch fp32, which speaks for the answer with {whole:.2f}, not {own:.2f} as the engine "
            "that answered."
        )
    for change in skips(count):
        less = base.with_(**change.choices)
        worth = whole - float(stage.task.support(less, [value], answer)[0][0])
        yield LayerWorth(change.name.removeprefix("skip "), worth, _told(stage, less.outputs([value])))


def _in_torch(stage: Pipeline, precision: str) -> Pipeline:
    """The plan that answered, in torch; the same one where it is so already."""
    alone = {"forward.streams": 1} if "streams" in stage.plan.settings("forward") else {}
    return stage.settled().with_(**{"forward.engine": "torch", "forward.precision": precision, **alone})


def _linear(stage: Pipeline) -> bool:
    """Whether what answers is a linear model: the pipeline's own, or one that its plan puts in front."""
    forward = stage.plan.settings("forward")
    return bool((stage.engines.model_for(forward) if forward.get("weights") else stage.model).is_linear)


def _others(stage: Pipeline, value: Any, answer: Outputs) -> Iterator[Other]:
    """Less of the input, and other precisions that need no graph to be built."""
    if _linear(stage):
        return  # it has no precisions, and reads all words
    task = stage.task
    whole = float(task.support(stage, [value], answer)[0][0])
    plans = [(f"torch {kind}", _in_torch(stage, kind)) for kind in ("fp32", "bf16") if "torch" in available()]
    plans += [(change.name, stage.with_(**change.choices)) for change in task.inputs(stage, [value])]
    for name, other in plans[:OTHERS]:
        if other.plan == stage.settled().plan:
            continue
        try:
            support, same = task.support(other, [value], answer)
        except EngineError:
            continue
        yield Other(name, _told(stage, other.outputs([value])), bool(same[0]), whole - float(support[0]))


class _Late:
    """Takes what comes as long as there is time, and notes what there was none for."""

    def __init__(self, begin: float, allowed: float, notes: list[str]):
        self.begin, self.allowed, self.notes = begin, allowed, notes

    def take(self, what: str, some: Iterator[Any]) -> Iterator[Any]:
        while True:
            if time.monotonic() - self.begin > self.allowed:
                self.notes.append(f"There was no time for all {what} (--budget).")
                return
            one = next(some, None)
            if one is None:
                return
            yield one


def _seen_all(stage: Pipeline, value: Any) -> str:
    """The answer where the whole input reaches the model; '' where even the largest extent cuts it."""
    extent = stage.task.extent
    if extent is None:
        return ""
    most = stage.with_(**{extent.knob: stage.task.rungs(stage, [value])[-1]})
    return "" if stage.task.unseen(most, value) else _told(stage, most.outputs([value]))


def _told(pipe: Pipeline, outputs: Outputs) -> str:
    answer = pipe.task.answers(outputs)[0]
    if isinstance(answer.label, list):
        return ", ".join(map(str, answer.label))
    return f"{answer.label:.4g}" if isinstance(answer.label, float) else str(answer.label)


def _plain(value: Any) -> Any:
    """The input as a file of JSON can hold it: texts as they are, of anything else its name."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str) else str(getattr(value, "name", value))


def _numbers(some: list[int] | None) -> tuple[int, ...] | None:
    return None if some is None else tuple(some)
