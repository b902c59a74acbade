"""`compare`: two pipelines on the same examples, paired, with intervals; a gate for CI."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm_moments import stats
from llm_moments.assembly.load import load
from llm_moments.base.budget import seconds
from llm_moments.base.busy import Watch
from llm_moments.base.errors import InputError, PlanError
from llm_moments.core import Outputs, Pipeline
from llm_moments.evaluate.evaluation import assumption, evaluation, gather
from llm_moments.evaluate.measure import interleaved
from llm_moments.evaluate.token_divergence import along_answers

ANSWERS = 0.5  # of the budget, for the answers of both
TIMING = 60.0  # seconds of timing in turn, where nobody waits
Tick = Callable[[float | None, str], None]


@dataclass(frozen=True)
class Comparison:
    """B held against A. drop > 0: B is worse; speedup > 1: B is faster. within: drop_high < max_drop.

    None: not measured (results of lm-eval have neither speed nor outputs)."""

    a: str
    b: str
    metric: str
    n: int
    score_a: float
    score_b: float
    drop: float
    drop_low: float
    drop_high: float
    harmful: int
    beneficial: int
    agreement: float | None
    divergence: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    confidence: float
    max_drop: float | None
    within: bool | None
    assumes: str = ""
    kl: float | None = None  # of the next token's distribution along A's own texts, mean, nats; None: not told
    top1: float | None = None  # share of those tokens at which both find the same one likeliest
    along_tokens: int | None = None
    beside: dict[str, tuple[float, float]] | None = None  # figures of all answers together, of A and of B
    independent: int | None = None  # rows that are; scores, drop and flips are of these
    counted: str = ""  # where not all are: how many, and what of them counts once
    busy: str = ""  # that others used the machine meanwhile
    of_examples: int | None = None  # how many there were, where the budget was too short for all

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "comparison", "format": 1, **asdict(self)}


def compare(
    a: Any, b: Any, data: Any, *, max_drop: float | None = None, rounds: int = 7, progress: Tick | None = None,
    device: str = "auto", task: str | None = None, metric: str | None = None,
    plan: Mapping[str, Any] | None = None, choices: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    budget: float | str | None = None, **read: Any,
) -> Comparison:  # fmt: skip
    """Answers of two models, artefacts or pipelines on the same examples; B's drop against A and its speed-up.

    b: None where it is the same model as A, with other choices. plan: choices that both are given on top of their own, such
    as `{"decode.max_new_tokens": 32}`; choices: of A and of B alone, such as `({}, {"forward.engine": "openvino"})`. Speed
    is timed on rows of the data, A and B in turn (A B, B A, …); a slow one on other rows each round. budget: time for all of
    it once both are open; as many of the rows as fit into it are used.
    """
    tick, watch = progress or (lambda done, message: None), Watch()
    end = time.monotonic() + (math.inf if budget is None else seconds(budget))
    one, two = _opened(a, b, choices, plan=plan, device=device, task=task, metric=metric)
    examples, _ = gather(data, judge=one, **read)
    part, other = evaluation(one, examples), evaluation(two, examples)
    there = len(part)
    tick(0.0, "answers of A")
    costs = {"a": _pace(one, part.values, budget), "b": _pace(two, other.values, budget)}
    if budget is not None:
        fits = int(ANSWERS * (end - time.monotonic()) / sum(costs.values()))
        least = one.task.sizes.warm  # they were answered to know the pace
        part, other = (some.take(range(min(max(fits, least), there))) for some in (part, other))
    outputs_a, costs["a"] = _answered(one, part.values)
    tick(0.4, "answers of B")
    outputs_b, costs["b"] = _answered(two, other.values)
    outputs_b = _in_order_of(one, two, outputs_b)
    before, after = part.scores(outputs_a, outputs_a), part.scores(outputs_b, outputs_a)
    bound = part.drop(before, after)
    harmful, beneficial = part.flips(before, after)
    along = along_answers(one, two, part.values, outputs_a)
    speed = _speed(one, two, part.values, costs, rounds, end, tick)
    same = one.task.argmax_equal(outputs_a, outputs_b)
    spread = one.task.divergence(outputs_a, outputs_b)
    once = speed.n == 1  # a single pair has no interval
    return Comparison(
        _name(a, choices[0]), _name(a if b is None else b, choices[1]), part.metric, len(part), float(before.mean()),
        float(after.mean()), bound.estimate, bound.low, bound.high, harmful, beneficial, float(same.mean()),
        float(spread.mean()), speed.estimate, None if once else speed.low, None if once else speed.high, bound.confidence,
        max_drop, None if max_drop is None else bound.high < max_drop, assumption(bound),
        kl=along.kl if along else None, top1=along.top1 if along else None,
        along_tokens=along.tokens if along else None, beside=_beside(part, outputs_a, outputs_b),
        independent=part.independent, counted=part.told if part.independent < len(part) else "",
        busy=watch.words(), of_examples=there if there > len(part) else None,
    )  # fmt: skip


def _opened(
    a: Any, b: Any, choices: tuple[Mapping[str, Any], Mapping[str, Any]], **how: Any
) -> tuple[Pipeline, Pipeline]:
    """Both pipelines; of one model they share what is open."""
    if b is None and not any(choices):
        raise InputError("name a second model, or what is to be chosen otherwise: --b forward.engine=openvino")
    one = load(a, **how)
    two = one if b is None else load(b, **how)
    for pipe, own, name in ((one, choices[0], "--a"), (two, choices[1], "--b")):
        try:
            pipe.with_(**own)
        except PlanError as error:
            raise PlanError(f"{name}: {error}") from error
    return one.with_(**choices[0]), two.with_(**choices[1])


def _pace(pipe: Pipeline, values: Any, budget: float | str | None) -> float:
    """Seconds an example, roughly, from a few; 0 where nobody waits."""
    if budget is None:
        return 0.0
    few = values[: pipe.task.sizes.warm]
    pipe.outputs(few[:1])
    return _timed(pipe, few)[1]


def _name(ref: Any, choices: Mapping[str, Any]) -> str:
    name = str(ref.model.name) if isinstance(ref, Pipeline) else str(ref)
    return f"{name} ({', '.join(f'{one}={value}' for one, value in choices.items())})" if choices else name


def _beside(part: Any, outputs_a: Outputs, outputs_b: Outputs) -> dict[str, tuple[float, float]] | None:
    """What the task says of all answers together, such as a corpus' BLEU: no test rests on it."""
    if not part.labelled:
        return None
    a, b = (part.pipe.task.beside(outputs, part.references) for outputs in (outputs_a, outputs_b))
    return {name: (a[name], b[name]) for name in a} or None


def _answered(pipe: Any, values: Any) -> tuple[Outputs, float]:
    """Outputs, and roughly the seconds an example."""
    pipe.outputs(values[: pipe.task.sizes.warm])
    return _timed(pipe, values)


def _timed(pipe: Any, values: Any) -> tuple[Outputs, float]:
    start = time.perf_counter()
    outputs = pipe.outputs(values)
    return outputs, (time.perf_counter() - start) / len(values)


def _in_order_of(one: Any, two: Any, outputs: Outputs) -> Outputs:
    """B's outputs with their columns in the order of A's labels; DataError if they are other labels."""
    if "logits" not in outputs or one.model.labels == two.model.labels:
        return outputs
    if sorted(one.model.labels) != sorted(two.model.labels):
        raise InputError(
            f"{two.model.name} answers with other labels ({', '.join(two.model.labels[:8])}) than {one.model.name}"
        )
    order = [two.model.labels.index(label) for label in one.model.labels]
    return Outputs({**outputs.columns, "logits": outputs["logits"][:, order]})


def _speed(
    one: Any, two: Any, values: Any, costs: dict[str, float], rounds: int, end: float, tick: Tick
) -> stats.Bound:
    """Of as many rounds as there is time for until `end`, at least one."""
    least = max(max(pipe.task.sizes.block, int(pipe.engine_settings.get("streams", 1))) for pipe in (one, two))
    left, turn = end - time.monotonic(), min(least, len(values)) * sum(costs.values())
    rounds = rounds if left == math.inf else max(min(rounds, int(left / max(turn, 1e-9))), 1)
    found = interleaved(
        {"a": one, "b": two}, values, "throughput", costs=costs, rounds=rounds, seconds=min(max(left, 1.0), TIMING),
        tick=lambda done: tick(0.6 + 0.4 * done, "timing, interleaved"),
    )  # fmt: skip
    return stats.ratio_interval(found["a"], found["b"])
