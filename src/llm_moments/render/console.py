"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_moments.record.session import Figure, Session
from llm_moments.render.table import step_row

COLOURS = {
    "free": "green",
    "harmful": "green",
    "cheap": "yellow",
    "needed": "red",
    "unclear": "cyan",
    "unavailable": "dim",
}


def terminal() -> Console:
    """Standard output; wide enough for every column when it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def number(value: float | None, form: str = ",.3g", unit: str = "") -> str:
    """A number, or a dash where there is none: what was not measured is never shown as 0."""
    return "-" if value is None else f"{value:{form}}{unit}"


def figure(fig: Figure | None) -> str:
    if fig is None or fig.value is None:
        return f"not measured ({fig.note})" if fig else "not measured"
    if fig.unit == "bytes":
        return f"{fig.value / 2**20:,.0f} MiB"
    if fig.unit == "share":
        return f"{fig.value:.2%}"
    return f"{fig.value:,.4g} {fig.unit}"


def show_session(session: Session, console: Console, depth: int | None = None) -> None:
    table = Table(title=f"{escape(session.model)}: where the time goes", title_justify="left")
    table.add_column("step")
    for name in ("calls", "ms", "share", "items/s", "tokens/s", "padding", "cut rows", "of limit"):
        table.add_column(name, justify="right")
    for level, step in session.root.walk():
        if depth is not None and level > depth:
            continue
        row = step_row(step, level, session.root.wall_s)
        limit = number(row["limit"], ".0%") + ("*" if step.limit and step.limit.kind == "modelled" else "")
        table.add_row(
            "  " * level + escape(step.name), str(step.calls), number(step.wall_s * 1000, ",.1f"),
            number(row["share"], ".1%"), number(row["items_per_s"], ",.0f"), number(row["tokens_per_s"], ",.0f"),
            number(row["padding"], ".1%"), number(row["cut_rows"], ",.0f"), limit if step.limit else "-",
        )  # fmt: skip
    console.print(table)
    for name, fig in session.figures.items():
        note = f"  ({escape(fig.note)})" if fig.note and fig.value is not None else ""
        console.print(f"  {name.replace('_', ' ')}: {figure(fig)} [{fig.kind}]{note}", markup=False, highlight=False)
    for note in session.notes:
        console.print(f"  note: {note}", markup=False, highlight=False)


def show_worths(worths: Any, console: Console) -> None:
    about = worths.about
    table = Table(
        title=f"what each change would save and lose ({escape(str(about.get('metric', '')))})", title_justify="left"
    )
    table.add_column("change")
    for name in ("saves", "drop", "interval", "worse", "better", "divergence", "screen"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for worth in sorted(worths, key=lambda w: (w.step, -(w.saving or 0))):
        interval = "-" if worth.drop_low is None else f"{worth.drop_low:+.4f} … {worth.drop_high:+.4f}"
        verdict = worth.verdict + (f": needs {worth.needs:,} examples" if worth.needs else "")
        if worth.reason:
            verdict += f" ({worth.reason[:60]})"
        table.add_row(
            escape(worth.name), number(worth.saving, ".0%"), number(worth.drop, "+.4f"), interval,
            number(worth.harmful, "d"), number(worth.beneficial, "d"), number(worth.divergence, ".4f"),
            number(worth.screened, ".3g"), f"[{COLOURS.get(worth.verdict, '')}]{escape(verdict)}[/]",
        )  # fmt: skip
    console.print(table)
    for name, value in about.items():
        console.print(f"  {name.replace('_', ' ')}: {value}", markup=False, highlight=False)


def show_improvement(found: Mapping[str, Any], console: Console) -> None:
    from llm_moments.improve.certify import Certificate
    from llm_moments.improve.study import Trial

    show_trials([Trial(**t) for t in found["front"]], console)
    show_certificate(Certificate.from_dict(found["certificate"]), console)
    console.print(f"{found['trials']} plans tried in {found['seconds']:.0f} s", highlight=False)
    if found["artefact"]:
        console.print(f"artefact: {found['artefact']}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"report:   {found['artefact']}/report.html", markup=False, highlight=False, soft_wrap=True)


def show_certificate(certificate: Any, console: Console) -> None:
    c = certificate
    table = Table(title="certificate" if c.certified else "no certificate", title_justify="left", show_header=False)
    for name, value in (
        ("certified", "yes" if c.certified else "no"),
        (f"{c.objective}, times the original", f"{number(c.speedup, '.1f')} (at least {number(c.speedup_low, '.1f')})"),
        ("  of these without touching an answer", number(c.lossless_speedup, ".1f")),
        ("  over a careful plan set by hand", number(c.hand_speedup, ".1f")),
        (f"{c.metric}, original and now", f"{number(c.baseline_score, '.4f')} and {number(c.score, '.4f')}"),
        ("drop, at most", f"{number(c.drop, '+.4f')}, {number(c.drop_high, '+.4f')} (budget {c.max_drop:g})"),
        ("answers changed for worse, better", f"{c.harmful}, {c.beneficial} of {c.n_certify:,}"),
        ("plan", ", ".join(f"{s}.{k}={v}" for s, knobs in c.plan.items() for k, v in knobs.items())),
    ):
        table.add_row(escape(name), escape(str(value)))
    console.print(table)
    console.print(c.words(), markup=False, highlight=False)


def show_trials(trials: Sequence[Any], console: Console) -> None:
    table = Table(title="plans that no other beats in both speed and answers (search split)", title_justify="left")
    table.add_column("stage")
    for name in ("times", "score", "drop", "interval", "worse", "better"):
        table.add_column(name, justify="right")
    table.add_column("plan")
    for t in sorted((t for t in trials if t.status == "ok"), key=lambda t: t.cost or 0):
        interval = "-" if t.drop_low is None else f"{t.drop_low:+.4f} … {t.drop_high:+.4f}"
        table.add_row(
            escape(t.stage), number(t.gain, ".1f"), number(t.score, ".4f"), number(t.drop, "+.4f"), interval,
            str(t.harmful), str(t.beneficial), escape(plan_in_short(t.plan)),
        )  # fmt: skip
    console.print(table)


def plan_in_short(plan: Mapping[str, Any]) -> str:
    """Engine, precision, length and whatever else decides answers, in a few words."""
    forward, cut = plan.get("forward", {}), plan.get("truncate", {})
    words = [forward.get("engine", "torch"), forward.get("precision", "fp32"), f"{cut.get('max_length', '')} tokens"]
    if cut.get("side", "head") != "head":
        words.append(cut["side"])
    if forward.get("skip_layers"):
        words.append(f"without layers {forward['skip_layers']}")
    if "cascade" in plan:
        cheap = plan["cascade"]["cheap"]
        words.append(
            f"after {cheap.get('truncate.max_length', 'the same')} tokens below margin {plan['cascade']['threshold']}"
        )
    return " ".join(map(str, words))


def show_comparison(found: Mapping[str, Any], console: Console) -> None:
    table = Table(
        title=f"{escape(found['b'])} held against {escape(found['a'])}", title_justify="left", show_header=False
    )
    within = {None: "no budget given", True: f"within {found['max_drop']}", False: f"NOT within {found['max_drop']}"}[
        found["within"]
    ]
    for name, value in (
        (f"{found['metric']}, A and B", f"{found['score_a']:.4f} and {found['score_b']:.4f}"),
        ("drop", f"{found['drop']:+.4f} ({found['drop_low']:+.4f} … {found['drop_high']:+.4f})"),
        ("answers changed for worse, better", f"{found['harmful']}, {found['beneficial']} of {found['n']:,}"),
        ("same answer", f"{found['agreement']:.2%}"),
        ("speed, times A", f"{found['speedup']:.2f} ({found['speedup_low']:.2f} … {found['speedup_high']:.2f})"),
        ("budget", within),
    ):
        table.add_row(escape(name), escape(value))
    console.print(table)


def show_doctor(found: Mapping[str, Any], console: Console) -> None:
    hardware = Table(title="this machine", title_justify="left", show_header=False)
    for name, value in found["hardware"].items():
        hardware.add_row(name, escape(", ".join(value) if isinstance(value, list) else str(value)))
    for name, value in (found["peaks"] or {}).items():
        unit = "GB/s copied" if name == "copy_gb" else f"GFLOP/s in {name}"
        hardware.add_row("measured peak", f"{number(value, ',.0f')} {unit}")
    hardware.add_row("devices", ", ".join(found["devices"]))
    console.print(hardware)
    engines = Table(title="engines", title_justify="left")
    for name in ("engine", "version", "precisions", "install"):
        engines.add_column(name)
    for name, engine in found["engines"].items():
        engines.add_row(
            name, str(engine["version"] or "-"), ", ".join(engine["precisions"]), escape(engine["cure"] or "found")
        )
    console.print(engines)
    for note in found["notes"]:
        console.print(note, markup=False, highlight=False)
