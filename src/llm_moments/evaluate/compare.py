"""`compare`: two pipelines on the same examples, paired, with intervals; a gate for CI."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm_moments import stats
from llm_moments.assembly.load import load
from llm_moments.core import Outputs, Pipeline
from llm_moments.evaluate.evaluation import assumption, evaluation, gather
from llm_moments.evaluate.measure import interleaved
from llm_moments.evaluate.token_divergence import along_answers

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

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "comparison", "format": 1, **asdict(self)}


def compare(
    a: Any, b: Any, data: Any, *, max_drop: float | None = None, rounds: int = 7, progress: Tick | None = None,
    device: str = "auto", task: str | None = None, metric: str | None = None,
    plan: Mapping[str, Any] | None = None, **read: Any,
) -> Comparison:  # fmt: skip
    """Answers of two models, artefacts or pipelines on the same examples; B's drop against A and its speed-up.

    plan: choices that both are given on top of their own, such as `{"decode.max_new_tokens": 32}`. Speed is timed on
    rows of the data, A and B in turn (A B, B A, …); a slow one on other rows each round.
    """
    tick = progress or (lambda done, message: None)
    one, two = (load(ref, plan=plan, device=device, task=task, metric=metric) for ref in (a, b))
    examples, _ = gather(data, judge=one, **read)
    part, other = evaluation(one, examples), evaluation(two, examples)
    tick(0.0, "answers of A")
    outputs_a, cost_a = _answered(one, part.values)
    tick(0.4, "answers of B")
    outputs_b, cost_b = _answered(two, other.values)
    outputs_b = _in_order_of(one, two, outputs_b)
    before, after = part.scores(outputs_a, outputs_a), part.scores(outputs_b, outputs_a)
    bound = part.drop(before, after)
    harmful, beneficial = part.flips(before, after)
    speed = _speed(one, two, part.values, {"a": cost_a, "b": cost_b}, rounds, tick)
    same = one.task.argmax_equal(outputs_a, outputs_b)
    spread = one.task.divergence(outputs_a, outputs_b)
    along = along_answers(one, two, part.values, outputs_a)
    return Comparison(
        _name(a), _name(b), part.metric, len(part), float(before.mean()), float(after.mean()), bound.estimate, bound.low,
        bound.high, harmful, beneficial, float(same.mean()), float(spread.mean()), speed.estimate, speed.low,
        speed.high, bound.confidence, max_drop, None if max_drop is None else bound.high < max_drop, assumption(bound),
        kl=along.kl if along else None, top1=along.top1 if along else None,
        along_tokens=along.tokens if along else None, beside=_beside(part, outputs_a, outputs_b),
        independent=part.independent, counted=part.told if part.independent < len(part) else "",
    )  # fmt: skip


def _name(ref: Any) -> str:
    return str(ref.model.name) if isinstance(ref, Pipeline) else str(ref)


def _beside(part: Any, outputs_a: Outputs, outputs_b: Outputs) -> dict[str, tuple[float, float]] | None:
    """What the task says of all answers together, such as a corpus' BLEU: no test rests on it."""
    if not part.labelled:
        return None
    a, b = (part.pipe.task.beside(outputs, part.references) for outputs in (outputs_a, outputs_b))
    return {name: (a[name], b[name]) for name in a} or None


def _answered(pipe: Any, values: Any) -> tuple[Outputs, float]:
    """Outputs, and roughly the seconds an example."""
    pipe.outputs(values[: pipe.task.sizes.warm])
    start = time.perf_counter()
    outputs = pipe.outputs(values)
    return outputs, (time.perf_counter() - start) / len(values)


def _in_order_of(one: Any, two: Any, outputs: Outputs) -> Outputs:
    """B's outputs with their columns in the order of A's labels; DataError if they are other labels."""
    from llm_moments.base.errors import InputError

    if "logits" not in outputs or one.model.labels == two.model.labels:
        return outputs
    if sorted(one.model.labels) != sorted(two.model.labels):
        raise InputError(
            f"{two.model.name} answers with other labels ({', '.join(two.model.labels[:8])}) than {one.model.name}"
        )
    order = [two.model.labels.index(label) for label in one.model.labels]
    return Outputs({**outputs.columns, "logits": outputs["logits"][:, order]})


def _speed(one: Any, two: Any, values: Any, costs: dict[str, float], rounds: int, tick: Tick) -> stats.Bound:
    found = interleaved(
        {"a": one, "b": two}, values, "throughput", costs=costs, rounds=rounds,
        tick=lambda done: tick(0.6 + 0.4 * done, "timing, interleaved"),
    )  # fmt: skip
    return stats.ratio_interval(found["a"], found["b"])
