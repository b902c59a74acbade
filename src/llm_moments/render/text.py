"""How numbers and plans are written, the same in every view."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_moments.record.session import Figure, StepCost

PLOTS_MISSING = "For the pictures: pip install 'llm-moments[report]'"


def number(value: float | None, form: str = ",.3g", unit: str = "") -> str:
    """A number, or a dash where there is none: what was not measured is never shown as 0."""
    return "-" if value is None or math.isnan(value) else f"{value:{form}}{unit}"


def interval(low: float | None, high: float | None, form: str = "+.4f") -> str:
    return "-" if low is None and high is None else f"{number(low, form)} to {number(high, form)}"


def share(value: float | None) -> str:
    """A share in percent; what is there but too little to round to is said to be little, not none."""
    return "<0.1%" if value is not None and 0 < value < 0.0005 else number(value, ".1%")


def amount(value: float | None, form: str = ",.0f") -> str:
    """A rate or a duration: three digits at least, so that 0.18 a second is not 0."""
    return number(value, form if value is None or abs(value) >= 100 else ",.3g")


def figure(fig: Figure | None) -> str:
    if fig is None or fig.value is None:
        return f"not measured ({fig.note})" if fig and fig.note else "not measured"
    if fig.unit == "bytes":
        return amount(fig.value / 2**20) + " MiB"
    if fig.unit == "share":
        return f"{fig.value:.2%}"
    return f"{fig.value:,.4g} {fig.unit}"


def limit(step: StepCost) -> str:
    """The share of the machine's limit; a star says that it is modelled, not measured."""
    if step.limit is None:
        return "-"
    star = "*" if step.limit.kind == "modelled" and step.limit.value is not None else ""
    return number(step.limit.value, ".0%") + star


def cut(row: Mapping[str, Any]) -> str:
    """Rows and tokens that truncation has cut, of a row of `table.step_row`."""
    if row["cut_rows"] is None and row["cut_tokens"] is None:
        return "-"
    return f"{number(row['cut_rows'], ',.0f')} / {number(row['cut_tokens'], ',.0f')}"


def verdict(worth: Any) -> str:
    more = f": needs {worth.needs:,} examples" if worth.needs else ""
    return worth.verdict + more + (f" ({worth.reason})" if worth.reason else "")


def worth_columns(worths: Sequence[Any]) -> list[tuple[str, Callable[[Any], str]]]:
    """Columns of a list of Worth between its names and verdicts, as (head, what is said). Of changes that were judged
    along texts the answers' scores are told where there are references; else how many answers are other ones."""
    found: list[tuple[str, Callable[[Any], str]]] = [("saves", lambda w: number(w.saving, ".0%"))]
    texts = any(w.kl is not None for w in worths)
    if not texts or getattr(worths, "about", {}).get("labelled"):
        found += [
            ("drop", lambda w: number(w.drop, "+.4f")),
            ("interval", lambda w: interval(w.drop_low, w.drop_high)),
            ("worse", lambda w: number(w.harmful, "d")),
            ("better", lambda w: number(w.beneficial, "d")),
        ]
    if texts:
        return [
            *found,
            ("next token, nats", lambda w: number(w.kl, ".2g")),
            ("interval", lambda w: "-" if w.kl_high is None else f"{w.kl_low:.2g} to {w.kl_high:.2g}"),
            ("own text, nats", lambda w: number(w.nll, "+.2g")),
            ("other tokens", lambda w: share(w.tokens_changed)),
            ("other answers", lambda w: "-" if w.answers is None else f"{w.answers_changed:.0%} of {w.answers}"),
        ]
    found.append(("divergence", lambda w: number(w.divergence, ".4f")))
    screened = any(w.screened is not None for w in worths)
    return [*found, ("screen", lambda w: number(w.screened, ".3g"))] if screened else found


def value(thing: Any) -> str:
    """A setting or a fact about the machine, in one line."""
    if thing is None:
        return "-"
    if isinstance(thing, Mapping):
        return ", ".join(f"{k}={value(v)}" for k, v in thing.items()) or "none"
    if isinstance(thing, Sequence) and not isinstance(thing, str):
        return ", ".join(value(v) for v in thing) or "none"
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    return f"{thing:,.4g}" if isinstance(thing, float) else str(thing)


def percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def label(name: str) -> str:
    return name.replace("_", " ")


def about(result: Any) -> list[tuple[str, str]]:
    """Which model and plan a result is of, and which data, as (name, fact)."""
    plan = [f"{step}.{knob}={value(v)}" for step, knobs in result.plan.items() for knob, v in knobs.items()]
    rows = [("model", result.model), ("task", result.task), ("data", result.data), ("plan", ", ".join(plan))]
    return [(name, fact) for name, fact in rows if fact]


def about_session(session: Any) -> list[tuple[str, str]]:
    """The same of a recording, and how long its prompts were."""
    told = prompt_tokens(session)
    return about(session) + ([("prompts", told)] if told else [])


def prompt_tokens(session: Any) -> str:
    """Tokens of all prompts, by what they are; '' where nobody counted them."""
    counts = next((step.counts for _, step in session.root.walk() if "template_tokens" in step.counts), None)
    if counts is None:
        return ""
    kinds = {
        "template": "the template",
        "system": "system prompts",
        "history": "earlier turns",
        "user": "the last messages",
    }
    told = {said: counts.get(f"{kind}_tokens", 0.0) for kind, said in kinds.items()}
    parts = ", ".join(f"{count:,.0f} {said}" for said, count in told.items() if count)
    return f"{sum(told.values()):,.0f} tokens: {parts}"


def plan_in_short(plan: Mapping[str, Any]) -> str:
    """Engine, precision, length and whatever else decides answers, in a few words; of a chain those of each stage."""
    stages = dict.fromkeys(step.partition(".")[0] for step in plan if "." in step)
    if stages:
        own = {
            stage: {s[len(stage) + 1 :]: c for s, c in plan.items() if s.startswith(f"{stage}.")} for stage in stages
        }
        return "; ".join(f"{stage}: {plan_in_short(section)}" for stage, section in own.items())
    forward, truncate = plan.get("forward", {}), plan.get("truncate", {})
    if forward.get("weights") == "linear" and "cascade" not in plan:
        return "a linear model alone"
    words: list[Any] = [forward.get("engine", "torch"), forward.get("precision", "fp32")]
    decode = plan.get("decode", {})
    if "max_new_tokens" in decode:
        told = {"streams": "together", "lookup": "looked up", "beams": "beams", "kv_precision": "cache"}
        every = {**forward, **decode}
        words += [f"{every[name]} {word}" for name, word in told.items() if every.get(name) not in (None, 0, 1, "")]
        words += ["prefix kept"] if forward.get("prefix_reuse") else []
    if "max_length" in truncate:
        words.append(f"{truncate['max_length']} tokens")
    if "size" in plan.get("resize", {}):
        words.append(f"{plan['resize']['size']} pixels")
    if plan.get("decode", {}).get("draft"):
        words.append(f"draft {plan['decode']['draft']}")
    if truncate.get("side", "head") != "head":
        words.append(truncate["side"])
    if forward.get("skip_layers"):
        words.append(f"without layers {value(forward['skip_layers'])}")
    if "cascade" in plan:
        words.append(f"after {_before(plan['cascade'])}")
    return " ".join(map(str, words))


def _before(cascade: Mapping[str, Any]) -> str:
    """The stages before the last one, and the margins below which the next is asked."""
    cheap = cascade.get("cheap", {})
    said = f"{_extent(cheap)} below margin {value(cascade.get('threshold'))}"
    if not isinstance(cheap, Mapping) or not isinstance(cheap.get("cascade.cheap"), Mapping):
        return said
    return f"{_before({'cheap': cheap['cascade.cheap'], 'threshold': cheap.get('cascade.threshold')})}, {said}"


def _extent(changes: Any) -> str:
    changes = changes if isinstance(changes, Mapping) else {}
    if changes.get("forward.weights") == "linear":
        return "a linear model"
    if "resize.size" in changes:
        return f"{changes['resize.size']} pixels"
    return f"{changes.get('truncate.max_length', 'the same')} tokens"


def by_worth(worths: Any) -> list[Any]:
    """Steps together, in the order of their first mention; in a step what saves most comes first."""
    steps = list(dict.fromkeys(w.step for w in worths))
    return sorted(worths, key=lambda w: (steps.index(w.step), w.saving is None, -(w.saving or 0)))


def ratio(certificate: Any) -> float | None:
    """How many times the baseline the plan set by hand is: known from what is chosen against both."""
    c = certificate
    return c.speedup / c.hand_speedup if c.speedup and c.hand_speedup else None


def epochs(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The history of a training by epoch: mean of the losses that were noted in it, its last score."""
    found: dict[float, dict[str, Any]] = {}
    for entry in history:
        known = found.setdefault(entry["epoch"], {"epoch": entry["epoch"], "losses": []})
        known["update"] = entry["update"]
        if "loss" in entry:
            known["losses"].append(entry["loss"])
        if "score" in entry:
            known["score"] = entry["score"]
    for known in found.values():
        losses = known.pop("losses")
        if losses:
            known["loss"] = sum(losses) / len(losses)
    return [found[epoch] for epoch in sorted(found)]
