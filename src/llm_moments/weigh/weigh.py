"""`weigh`: what would be lost if a step were cheaper, or gone? A list of Worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from llm_moments import stats
from llm_moments.assembly.load import load
from llm_moments.base.budget import seconds
from llm_moments.base.busy import Watch
from llm_moments.base.errors import PlanError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.change import Change
from llm_moments.engines.base import available
from llm_moments.evaluate.evaluation import Evaluation, evaluation, gather
from llm_moments.evaluate.stand_in import LEAST, ORDER, StandIn, answers, judges, on, replaceable, stand_in
from llm_moments.weigh.changes import every_change, skips
from llm_moments.weigh.clock import Clock, Tick, in_words
from llm_moments.weigh.layers import FEW, Layers, weigh_layers
from llm_moments.weigh.price import ITSELF, Times, look_at, priced
from llm_moments.weigh.text_layers import weigh_text_layers
from llm_moments.weigh.texts import weigh_texts
from llm_moments.weigh.verdict import with_verdicts
from llm_moments.weigh.weighing import Costs, Weighing, costs_of
from llm_moments.weigh.worth import Interrupted, Worth, Worths

BUDGET = "10m"
MOST = 1000  # examples that are used
SEEN = 200  # examples by which it is found out what could be less of them
CALIBRATION = 64  # examples, for a base in int8
FEWEST = 2  # blocks of examples
ALONG = "next token's divergence along the baseline's own answers, nats a token"
HELD = 32  # rows on which a graph is held against the baseline
HOLDING = 1 / 3  # of the time that is left, for that
BUILT = 15.0  # seconds that building one takes, about
FIRST = 48  # rows that a change is asked before all others
MOST_OPEN = 8  # changes, whose verdicts are worth more than a look at all of them


def weigh(
    model: Any, data: Any, *, max_drop: float = 0.01, limit: int | None = None, exhaustive: bool = False,
    progress: Tick | None = None, seed: int = 0, device: str = "auto", budget: float | str = BUDGET, **read: Any,
) -> Worths:  # fmt: skip
    """Prices every single change of the plan on the user's examples, one at a time.

    The baseline is the plan itself with rows sorted by length, which changes no answer. A drop below
    max_drop counts as none. A layer that is left out is replaced by the identity (its residual path).
    Of a deep model only the layers that a screen finds are left out on all examples, unless exhaustive;
    the others are judged by fewer examples, and their saving is not timed.

    budget: time for all of it, 10 minutes unless said otherwise. As many examples are used as fit into it; where even
    few do not, what promises to save most is priced first, then the layers that a screen finds dispensable, then the
    rest, and `about` names what was not measured. Ctrl-C raises Interrupted, which holds what was measured.
    """
    clock, watch = Clock(seconds(budget), progress or (lambda done, message: None)), Watch()
    base = load(model, device=device)
    base = base.with_(**base.task.sorts)
    examples, _ = gather(data, judge=base, **read)
    part = evaluation(base, examples[: limit or MOST])
    there = len(part)
    if base.task.by_token:
        part, outputs, changed, by_layer = weigh_texts(base, part, clock, exhaustive=exhaustive, seed=seed)
    else:
        part, outputs, changed, by_layer = _all_rows(base, part, clock, max_drop, exhaustive, seed)
    found = _result(part, outputs, [*by_layer.worths, *changed], by_layer, max_drop, clock, there)
    if busy := watch.words():
        found.about["busy"] = busy
    if clock.interrupted:
        raise Interrupted(found)
    return found


def _all_rows(
    base: Pipeline, part: Evaluation, clock: Clock, max_drop: float, exhaustive: bool, seed: int
) -> tuple[Evaluation, Outputs, list[Worth], Layers]:
    """Of a task whose answers are quick: every change on as many rows as there is time for. The rows that were used, the
    baseline's outputs for them, the worths of all changes, and what was found of the layers."""
    there = len(part)
    if base.task.layered and not base.task.streams:
        base.engines.calibration = base.engines.calibration or base.arrays(part.values[:CALIBRATION])
    costs, some = costs_of(base, part, clock.left), part.values[:SEEN]
    layers = _layers(base)
    first, after = every_change(base, some, layers)
    by = _stand_in(base, part, costs, len(first), clock)
    pace, costs.judged = _paces(base, by, costs)
    anew = layers if layers <= FEW or exhaustive else layers // 4
    wanted = stats.needed_examples(max_drop, 0.0, 0.0) or there
    part = part.take(range(affordable(pace, there, len(first) + anew, clock.left, wanted)))
    clock.planned = {"baseline": len(part) * pace.base}
    clock.tell(f"answers of the baseline to {len(part):,} examples")
    outputs = answers(base, by, base, part.values)
    weighing = Weighing(
        clock,
        costs,
        len(part),
        partial(_look, base, part, costs.block),
        partial(priced, base, part, outputs, by=by, first=FIRST, times=Times(base, part.values, costs.block)),
    )
    clock.planned = {}
    weighing.plan([*after, *skips(anew)])
    by_layer, changed = _all(base, part, outputs, weighing, (first, after), exhaustive, seed)
    return part, outputs, changed, by_layer


def _all(
    base: Pipeline, part: Evaluation, outputs: Outputs, weighing: Weighing, todo: tuple[list[Change], list[Change]],
    exhaustive: bool, seed: int,
) -> tuple[Layers, list[Worth]]:  # fmt: skip
    """What may save much first, then the layers, then the rest."""
    first, after = todo
    changed = weighing.all(first)
    if not base.task.layered:
        return Layers([], "none: the layers of a chain's models are weighed stage by stage"), [
            *changed, *weighing.all(after)
        ]  # fmt: skip
    by_layer = weigh_text_layers if base.task.streams else weigh_layers
    layers = by_layer(base, part, outputs, exhaustive=exhaustive, seed=seed, weighing=weighing)
    return layers, [*changed, *weighing.all(after)]


def _stand_in(base: Pipeline, part: Evaluation, costs: Costs, changes: int, clock: Clock) -> StandIn:
    """A graph that answers in the baseline's place, where building and holding it takes less than it spares."""
    rows = part.values[:: max(len(part) // HELD, 1)][:HELD]
    spares = min(len(part), MOST) * costs.base * changes
    if len(rows) < LEAST or not replaceable(base):
        return ITSELF
    built = any(base.engines.built(on(base, engine).engine_settings) for engine in ORDER if engine in available())
    if (0.0 if built else BUILT) + 2 * len(rows) * costs.base > HOLDING * min(clock.left, spares):
        return ITSELF
    clock.tell("holding a graph engine against the baseline")
    return stand_in(base, rows, base.outputs(rows), costs.base)


def _paces(base: Pipeline, by: StandIn, costs: Costs) -> tuple[Costs, Callable[[Change], float]]:
    """What answers take on average, for planning, and the share of its own time that those of a change do."""
    share = by.cost / costs.base if by.engine else 1.0

    def judged(change: Change) -> float:
        try:
            return share if judges(base, by, base.with_(**change.choices)) else 1.0
        except PlanError:
            return 1.0

    return replace(costs, base=share * costs.base, fixed_base=costs.base), judged


def _look(base: Pipeline, part: Evaluation, block: int, change: Change) -> tuple[float, float]:
    return look_at(base, change, part.values, block)


def _layers(base: Pipeline) -> int:
    """How many layers the model has, of which parts may be computed otherwise; 0 for models that make texts."""
    from llm_moments.base.errors import EngineError, ModelError
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_count

    if base.task.streams or base.model.is_linear or not base.task.layered:
        return 0
    try:
        return layer_count(load_module(base.model))
    except (EngineError, ModelError):
        return 0


def affordable(costs: Costs, there: int, changes: int, left: float, wanted: int) -> int:
    """How many examples fit into the time, if each change takes as long as the baseline does: it answers all of them
    and is timed on some, in turn with the baseline. At least a few.

    wanted: examples that can decide at all. Where so many do not fit for every change, they are taken for the few that
    promise most: many changes on few examples would all be left open.
    """

    def fits(count: int) -> int:
        return int((0.9 * left - count * costs.fixed) / max(costs.base * (count + 1), 1e-9))

    return min(max(fits(changes), min(fits(min(changes, MOST_OPEN)), wanted), FEWEST * costs.block), there)


def _result(
    part: Evaluation,
    outputs: Outputs,
    worths: list[Worth],
    layers: Layers,
    max_drop: float,
    clock: Clock,
    there: int,
) -> Worths:
    along = part.metric if part.labelled or all(w.kl is None for w in worths) else ALONG
    base, scores = part.pipe, part.scores(outputs, outputs)
    about: dict[str, Any] = {"of_examples": there} if there > len(part) else {}
    return Worths(
        with_verdicts(worths, max_drop, by_token=base.task.by_token, labelled=part.labelled), metric=along, baseline_score=round(float(scores.mean()), 4), n=len(part),
        independent=part.independent, counted=part.told if part.independent < len(part) else "",
        **about, labelled=part.labelled, rank_correlation=layers.rank_correlation, screen=layers.screen,
        replaced_by="identity on the hidden state" if layers.worths else "", seconds=round(clock.spent, 1),
        budget=in_words(clock.allowed), **clock.summary(),
    )  # fmt: skip
