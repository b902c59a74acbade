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
from llm_moments.base.errors import InputError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.parts import Parts
from llm_moments.explain.ablation import Ablation
from llm_moments.explain.against import against as held_against
from llm_moments.explain.against import opened_beside
from llm_moments.explain.changed import layers_left_out, other_plans
from llm_moments.explain.explanation import AgainstChance, Explanation, LayerWorth, Other, Unseen
from llm_moments.explain.important import faith, fewest_that_turn, losses, order, pairs, smallest_that_keeps
from llm_moments.explain.opened import faithful, tokens_of, worths_of
from llm_moments.explain.sentence import in_a_sentence
from llm_moments.record.record import observe

Tick = Callable[[float | None, str], None]
BUDGET = "30s"
MOST_WORDS = 2000  # parts: an input with more is taken apart into the next larger kind


def explain(
    model: Any, value: Any, *, parts: str | None = None, answer: str | None = None, against: Any = None, depth: int = 1,
    budget: float | str = BUDGET, progress: Tick | None = None, device: str = "auto", seed: int = 0, recorded: bool = True,
) -> Explanation:  # fmt: skip
    """The answer of a model (pipeline, folder, artefact) to one input, opened up. No answer changes by it.

    parts: what the input is taken apart into (words, sentences; patches of an image; pieces, turns, paragraphs of a prompt);
    answer: a text that is judged in the place of the one that the model makes; against: another plan (a Plan, choices by name,
    a .toml file) of this model, or another model or artefact, that is asked the same: where the two part is told. depth: 0 the parts alone, 1 also the layers
    and other plans, 2 the recording with attention and MLP, too. budget: time for what is not needed: what comes later is
    left out where it is used up, and that is noted. recorded: whether the request is recorded, too. Raises InputError for a task that cannot be explained.
    """
    begin, allowed, tick = time.monotonic(), seconds(budget), progress or (lambda done, message: None)
    pipe = load(model, device=device)
    task = pipe.task
    if not task.part_kinds:
        raise InputError(f"answers of {task.name} cannot be explained yet")
    if parts is not None and parts not in task.part_kinds:
        raise InputError(f"inputs of {task.name} are taken apart into {' or '.join(task.part_kinds)}, not {parts!r}")
    value = task.normalise(value)
    beside = None if against is None else opened_beside(pipe, against, device)
    tick(0.0, "the answer")
    stage, where = answering(pipe, value)
    judge, why = task.judging(stage)
    outputs = task.explained(stage, value, answer)
    divided = _divided(pipe, value, parts)
    late = _Late(time.monotonic(), allowed)  # loading and answering are not counted
    ablation = Ablation(judge, divided, outputs, late.over, stage)
    start = time.monotonic()
    whole = float(ablation.support([ablation.whole])[0])
    tick(0.1, f"leaving out {len(divided):,} {divided.kind}, {_price(ablation, time.monotonic() - start)}")
    worths = losses(ablation)
    if 1 < len(divided) <= task.pace.alone and len(worths) < len(divided):
        late.look("parts")
    ordered = order(ablation, worths)
    tick(0.4, "holding the order against chance")
    test = _tested(stage, ablation, ordered, seed)
    keeps, turns = smallest_that_keeps(ablation, ordered), fewest_that_turn(ablation, ordered)
    tick(0.6, "looking closer at what matters")
    together = pairs(ablation, worths)
    found_parts = worths_of(ablation, worths)
    tokens = tuple(tokens_of(ablation, value, outputs))
    without_all = _without_all(ablation)
    late.look("checks of the parts")
    unseen = tuple(Unseen(part.name, part.place) for part in task.unseen(stage, value))
    layers: tuple[LayerWorth, ...] = ()
    others: tuple[Other, ...] = ()
    if depth:
        tick(0.7, "leaving out layers")
        layers = tuple(late.take("layers", layers_left_out(judge, value, outputs, late.notes)))
        tick(0.8, "other plans")
        others = tuple(late.take("other plans", other_plans(judge, value, outputs)))
    held = None
    if beside is not None:
        tick(0.85, f"beside {beside[1]}")
        held = held_against(stage, value, outputs, answering(beside[0], value)[0], beside[1])
    session = None
    if recorded and (depth or not tokens):
        tick(0.9, "recording this request")
        session = observe(pipe, [value], depth)
    told, score = task.told(outputs)
    found = Explanation(
        input=_plain(value), answer=told, score=score,
        support=whole, unit=task.support_unit, said="", parts_are=divided.kind, parts=found_parts,
        test=test, keeps=_numbers(keeps), turns=_numbers(turns),
        turned="" if turns is None else _told(stage, stage.outputs([divided.keep(ablation.without(turns))])),
        unseen=unseen, seen_all=_seen_all(stage, value) if unseen else "", layers=layers, others=others, stage=where,
        asked=ablation.asked, seconds=round(time.monotonic() - begin, 3), session=session, notes=late.told(),
        model=pipe.model.name, plan=pipe.plan.to_dict(), tokens=tokens, pairs=tuple(together), without_all=without_all,
        faithful=faithful(ablation, why, answer is not None), read=ablation.bill.read, spared=ablation.bill.spared, against=held,
    )  # fmt: skip
    tick(1.0, "done")
    return found.with_sentence(in_a_sentence(found))


def _price(ablation: Ablation, once: float) -> str:
    """What leaving out each part will take, told beforehand."""
    n, pace = len(ablation.parts), ablation.pace
    if n <= pace.alone:
        return f"one by one: at most about {n * once:.1f} s"
    rounds = int(np.ceil(np.log2(max(n / pace.groups, 2))))
    return f"by halves: at most about {(pace.groups + 2 * pace.width * rounds) * once:.1f} s"


def _without_all(ablation: Ablation) -> float | None:
    """What the answer loses without all parts but the question."""
    given = ablation.parts.given
    if not given or len(given) == len(ablation.parts) or ablation.late():
        return None
    whole, bare = ablation.support([ablation.whole, ablation.without(given)])
    return float(whole - bare)


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


def _tested(stage: Pipeline, ablation: Ablation, ordered: list[int], seed: int) -> AgainstChance:
    found = faith(ablation, ordered, seed)
    if len(ordered) < 2 or not found.orders:
        return found
    first, parts = ordered[0], ablation.parts
    long = _extent(parts.parts[first].place)
    rng = np.random.default_rng(seed)
    rest = [at for at in parts.given if at != first]
    alike = sorted(rest, key=lambda at: (abs(_extent(parts.parts[at].place) - long), rng.random()))
    made = stage.outputs([parts.keep(ablation.without([at])) for at in (first, alike[0])])
    told = [_told(stage, made[np.array([at])]) for at in (0, 1)]
    return replace(found, without_strongest=told[0], without_another=told[1], another=parts.parts[alike[0]].name)


def _extent(place: tuple[Any, ...]) -> float:
    """How long a stretch is, or how large a box."""
    ends = [float(end) for end in place[1:]]
    return ends[1] - ends[0] if len(ends) == 2 else (ends[2] - ends[0]) * (ends[3] - ends[1])


class _Late:
    """Takes what comes as long as there is time, and notes what there was none for."""

    def __init__(self, begin: float, allowed: float):
        self.begin, self.allowed = begin, allowed
        self.notes: list[str] = []
        self.missing: list[str] = []

    def told(self) -> tuple[str, ...]:
        more = [f"There was no time for all {', '.join(self.missing)} (--budget)."] if self.missing else []
        return (*self.notes, *more)

    def over(self) -> bool:
        return time.monotonic() - self.begin > self.allowed

    def look(self, what: str) -> None:
        if self.over():
            self.missing.append(what)

    def take(self, what: str, some: Iterator[Any]) -> Iterator[Any]:
        while True:
            if self.over():
                self.missing.append(what)
                return
            one = next(some, None)
            if one is None:
                return
            yield one


def _seen_all(stage: Pipeline, value: Any) -> str:
    """The answer where the whole input reaches the model; '' where even the largest extent cuts it."""
    changes = stage.task.widest(stage, value)
    if changes is None:
        return ""
    most = stage.with_(**changes)
    return "" if stage.task.unseen(most, value) else _told(stage, most.outputs([value]))


def _told(pipe: Pipeline, outputs: Outputs) -> str:
    return pipe.task.told(outputs)[0]


def _plain(value: Any) -> Any:
    """The input as a file of JSON can hold it: texts as they are, of anything else its name."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str) else str(getattr(value, "name", value))


def _numbers(some: list[int] | None) -> tuple[int, ...] | None:
    return None if some is None else tuple(some)
