"""What each choice of the chosen plan brings: it alone is taken back, and all others stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_moments.core import Pipeline, Plan
from llm_moments.engines.base import put_on
from llm_moments.errors import EngineError, ModelError, PlanError
from llm_moments.evaluation import Evaluation
from llm_moments.weigh.changes import Change
from llm_moments.weigh.price import priced
from llm_moments.weigh.verdict import with_verdicts
from llm_moments.weigh.worth import Worth, Worths


def weighed(stock: Pipeline, chosen: Pipeline, part: Evaluation, max_drop: float) -> Worths:
    """Each choice held against the chosen plan without it, on these examples: savings multiply."""
    worths = list(_priced(stock.plan, chosen, part))
    return Worths(
        with_verdicts(worths, max_drop), metric=part.metric, n=len(part), labelled=part.labelled,
        compared_with="the chosen plan with that choice alone taken back; savings are shares of its time",
    )  # fmt: skip


def _priced(stock: Plan, chosen: Pipeline, part: Evaluation) -> Iterator[Worth]:
    for name, step, back in taken_back(stock, chosen.plan):
        try:
            without = chosen.with_(back)
            outputs = without.outputs(part.values)
        except (EngineError, ModelError, PlanError):
            continue  # a plan that cannot be without it
        yield priced(without, part, outputs, Change(name, step, back.changes(chosen.plan)))


def taken_back(stock: Plan, chosen: Plan) -> Iterator[tuple[str, str, Plan]]:
    """What was chosen in words, its step, and the plan without it."""
    if "cascade" in chosen:
        yield "a cheap stage first", "cascade", chosen.without("cascade")
    for step in ("batch", "truncate", "precut", "decode", "resize"):
        old, new = stock.settings(step), chosen.settings(step)
        if old != new:
            yield _words(step, old, new), step, chosen.with_(**_back(step, old, new))
    old, new = stock.settings("forward"), chosen.settings("forward")
    if new.get("weights") != old.get("weights"):
        yield f"the weights {new.get('weights')}", "forward", chosen.with_(**{"forward.weights": old.get("weights")})
    old, new = ({k: v for k, v in one.items() if k != "weights"} for one in (old, new))
    engines = [one.get("engine", "torch") for one in (old, new)]
    precisions = [one.get("precision", "fp32") for one in (old, new)]
    if engines[0] != engines[1]:
        yield f"{engines[1]} {precisions[1]}, was {engines[0]}", "forward", chosen.with_(**_back("forward", old, new))
    if precisions[0] != precisions[1]:
        plain = {**put_on(engines[1], precisions[0]), "forward.calibration": None}
        yield f"{precisions[1]}, was {precisions[0]}", "forward", chosen.with_(**plain)
    for knob in (
        ("streams", "kv_precision", "prefix_reuse", "draft") if "max_new_tokens" in chosen.settings("decode") else ()
    ):
        if new.get(knob) != old.get(knob):
            said = f"{knob.replace('_', ' ')} {new.get(knob)}"
            yield said, "forward", chosen.with_(**{f"forward.{knob}": old.get(knob)})


def _back(step: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {f"{step}.{knob}": old.get(knob) for knob in {*old, *new} if old.get(knob) != new.get(knob)}


def _words(step: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    if step == "batch":
        return "rows sorted by length" if new.get("order") == "length" else f"{new.get('size', 32)} rows a batch"
    if step == "precut":
        return "texts cut before the tokenizer"
    if step in ("decode", "resize"):
        new = {name: value for name, value in new.items() if value != old.get(name)}
        said = ", ".join(f"{name} {value}, was {old.get(name, 'none')}" for name, value in new.items())
        return f"{step}: {said}"
    side = new.get("side", "head")
    kept = "" if side == old.get("side", "head") else f", {side} kept"
    return f"cut at {new.get('max_length')} tokens, was {old.get('max_length')}{kept}"
