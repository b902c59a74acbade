"""Results as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_moments.base.visible import visible
from llm_moments.record.session import Session
from llm_moments.render.table import step_row
from llm_moments.render.text import (
    about_session,
    amount,
    by_worth,
    cut,
    epochs,
    figure,
    interval,
    label,
    limit,
    number,
    plan_in_short,
    share,
    value,
    worth_columns,
)
from llm_moments.render.text import verdict as verdict_of

__all__ = [
    "number", "figure", "plan_in_short", "show_certificate", "show_comparison", "show_doctor", "show_improvement",
    "show_session", "show_trials", "show_worths", "terminal",
]  # fmt: skip

COLOURS = {
    "free": "green",
    "harmful": "green",
    "helps": "green",
    "cheap": "yellow",
    "needed": "red",
    "unclear": "cyan",
    "unavailable": "dim",
}


def terminal() -> Console:
    """Standard output; wide enough for every column when it is a file or a pipe, and never in its way."""
    file = getattr(sys.stdout, "raw", sys.stdout)  # colours steer a terminal on purpose; all else goes through `safe`
    console = Console(file=file, emoji=False)
    return console if console.is_terminal else Console(file=file, emoji=False, width=160)


def safe(thing: Any) -> str:
    """A text from outside: neither rich's markup nor a control sequence of the terminal gets through."""
    return escape(visible(thing))


def say(console: Console, line: str, whole: bool = False) -> None:
    """whole: never broken, so that a path can be copied."""
    console.print(safe(line), highlight=False, soft_wrap=whole)


def table_of(title: str, texts: Sequence[str], numbers: Sequence[str] = (), last: Sequence[str] = ()) -> Table:
    """Columns of text, then of numbers (to the right, never broken), then of text again."""
    table = Table(title=safe(title), title_justify="left")
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, overflow="fold")
    return table


def facts(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=safe(title), title_justify="left", show_header=False)
    for name, fact in rows:
        table.add_row(safe(name), safe(fact))
    return table


def show_session(session: Session, console: Console, depth: int | None = None) -> None:
    heads = ("calls", "ms", "share", "items/s", "tokens/s", "padding", "cut rows / tokens", "of limit")
    table = table_of(f"{session.model}: where the time goes", ("step",), heads)
    modelled = False
    for level, step in session.root.walk():
        if depth is not None and level > depth:
            continue
        row = step_row(step, level, session.root.wall_s)
        modelled |= limit(step).endswith("*")
        table.add_row(
            "  " * level + safe(step.name), f"{step.calls:,}", amount(step.wall_s * 1000, ",.1f"), share(row["share"]),
            amount(row["items_per_s"]), amount(row["tokens_per_s"]), number(row["padding"], ".1%"),
            cut(row), limit(step),
        )  # fmt: skip
    console.print(table)
    for name, fact in about_session(session)[1:]:
        say(console, f"  {name}: {fact}")
    if modelled:
        say(console, "  * modelled from counted operations; times are measured")
    for name, fig in session.figures.items():
        note = f"  ({fig.note})" if fig.note and fig.value is not None else ""
        say(console, f"  {label(name)}: {figure(fig)} [{fig.kind}]{note}")
    for note in session.notes:
        say(console, f"  note: {note}")


def show_training(training: Any, console: Console) -> None:
    """How the loss and the score went, where the time went, and where the model is."""
    if training.session is not None:
        show_session(training.session, console)
    table = table_of("how it went", (), ("epoch", "update", "loss", "score"))
    for entry in epochs(training.history):
        table.add_row(
            number(entry["epoch"], ".0f"), number(entry["update"], ",.0f"), number(entry.get("loss"), ".4f"),
            number(entry.get("score"), ".4f"),
        )  # fmt: skip
    console.print(table)
    if training.expansion:
        e = training.expansion
        say(
            console, f"  {e['labelled']:,} of {e['unlabelled']:,} unlabelled examples got a label with a probability of at least "
            f"{e['threshold']:g} ({e['known_already']:,} were known already): {value(e['by_class'])}",
        )  # fmt: skip
    if training.evaluation:
        e = training.evaluation
        say(console, f"  {e['metric']} {e['score']:.4f} on {e['n']:,} examples of {e['data']}")
    say(console, f"saved {training.folder}", whole=True)


def show_worths(worths: Any, console: Console) -> None:
    about: Mapping[str, Any] = getattr(worths, "about", {})
    columns = worth_columns(worths)
    title = "what each change would save and lose" + (f" ({about['metric']})" if about.get("metric") else "")
    table = table_of(title, ("change",), tuple(head for head, _ in columns), ("verdict",))
    for worth in by_worth(worths):
        colour = COLOURS.get(worth.verdict)
        verdict = safe(verdict_of(worth))
        table.add_row(
            safe(worth.name), *(said(worth) for _, said in columns),
            f"[{colour}]{verdict}[/]" if colour else verdict,
        )  # fmt: skip
    console.print(table)
    for name, fact in about.items():
        say(console, f"  {label(name)}: {value(fact)}")


def show_improvement(found: Mapping[str, Any], console: Console) -> None:
    from llm_moments.improve.certify import Certificate
    from llm_moments.improve.study import Trial

    show_trials([Trial(**t) for t in found["front"]], console)
    show_elsewhere(found.get("elsewhere") or (), console)
    show_certificate(Certificate.from_dict(found["certificate"]), console)
    for said in ("stands", "first", "nearly"):
        if found.get(said):
            say(console, found[said])
    if found.get("waiting"):
        say(console, f"{found['waiting']:,} questions to answer: {found['questions']}", whole=True)
        say(console, f"then: moments certify {found['artefact']}", whole=True)
    if isinstance(found.get("healing"), str):
        say(console, found["healing"])
    say(console, f"{found['trials']} plans tried in {number(found['seconds'], ',.0f')} s")
    if found["artefact"] and (found.get("certified") or not found.get("waiting")):
        say(console, f"artefact: {found['artefact']}", whole=True)
        say(console, f"report:   {found['artefact']}/report.html", whole=True)


def show_elsewhere(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What other budgets would bring, as the search split lets expect."""
    if not rows:
        return
    table = table_of(
        "expected at other budgets, not certified", ("drop below",), ("times", "examples that prove it"), ("plan",)
    )
    for one in rows:
        many = f"{one['rows']:,}{'' if one['enough'] else ' (more than there are)'}"
        table.add_row(f"{one['max_drop']:g}", number(one["speedup"], ".1f"), many, safe(plan_in_short(one["plan"])))
    console.print(table)
    said = rows[0]["command"].replace(f"{rows[0]['max_drop']:g}", "DROP")
    say(console, f"to have one of them certified: {said}", whole=True)


def show_certificate(certificate: Any, console: Console) -> None:
    c = certificate
    low, high = number(c.speedup_low, ".1f"), number(c.drop_high, "+.4f")
    rows = [("certified", "yes" if c.certified else "no")]
    if c.speedup is not None:
        rows += [
            (f"{c.objective}, times the baseline", f"{number(c.speedup, '.1f')} (at least {low})"),
            ("  of these without touching an answer", number(c.lossless_speedup, ".1f")),
            (
                "  over a careful plan set by hand",
                number(c.hand_speedup, ".2g" if (c.hand_speedup or 1) < 1 else ".1f"),
            ),
        ]
    if c.drop is not None:
        changed = f"{number(c.harmful, 'd')}, {number(c.beneficial, 'd')} of {c.independent or c.n_certify:,}"
        rows += [
            (f"{c.metric}, baseline and now", f"{number(c.baseline_score, '.4f')} and {number(c.score, '.4f')}"),
            ("drop", f"{number(c.drop, '+.4f')}, at most {high} (budget {c.max_drop:g})"),
            ("answers changed for worse, better", changed),
        ]
    rows.append(("plan", ", ".join(f"{s}.{k}={value(v)}" for s, knobs in c.plan.items() for k, v in knobs.items())))
    console.print(facts("certificate" if c.certified else "no certificate", rows))
    say(console, c.words())


def show_trials(trials: Sequence[Any], console: Console) -> None:
    """Only those that no other beats: a search has too many for a terminal."""
    from llm_moments.improve.improvement import front

    best = front(list(trials))
    if not best:
        return
    title = "plans that no other beats in both speed and answers (search split)"
    table = table_of(title, ("stage",), ("times", "score", "drop", "interval", "worse", "better"), ("plan",))
    for t in best:
        table.add_row(
            safe(t.stage), number(t.gain, ".1f"), number(t.score, ".4f"), number(t.drop, "+.4f"),
            interval(t.drop_low, t.drop_high), number(t.harmful, "d"), number(t.beneficial, "d"),
            safe(plan_in_short(t.plan)),
        )  # fmt: skip
    console.print(table)
    reasons = [t.reason for t in trials if t.status == "unavailable"]
    if reasons:
        say(console, f"{len(reasons)} plans were not available: {'; '.join(dict.fromkeys(reasons))}")


def show_comparison(found: Mapping[str, Any], console: Console) -> None:
    budget = value(found["max_drop"])
    within = {None: "no budget given", True: f"within {budget}", False: f"NOT within {budget}"}[found["within"]]
    drop, faster = (
        interval(found["drop_low"], found["drop_high"]),
        interval(found["speedup_low"], found["speedup_high"], ".2f"),
    )
    rows = [
        (f"{found['metric']}, A and B", f"{number(found['score_a'], '.4f')} and {number(found['score_b'], '.4f')}"),
        ("drop", f"{number(found['drop'], '+.4f')} ({drop})"),
        (
            "answers changed for worse, better",
            f"{number(found['harmful'], 'd')}, {number(found['beneficial'], 'd')} of {found.get('independent') or found['n']:,}",
        ),
        *((f"{name}, A and B", f"{a:.4f} and {b:.4f}") for name, (a, b) in (found.get("beside") or {}).items()),
        ("same answer", number(found["agreement"], ".2%")),
        *_along(found),
        ("speed, times A", f"{number(found['speedup'], '.2f')} ({faster})"),
        ("budget", within),
        *(
            [("examples", f"{found['n']:,} of {found['of_examples']:,}: the time was up")]
            if found.get("of_examples")
            else []
        ),
    ]
    console.print(facts(f"{found['b']} held against {found['a']}", rows))
    for note in (found.get("counted"), found.get("assumes")):
        if note:
            say(console, note)


def _along(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of models that make texts: how far the next token's distributions are apart along A's answers."""
    if found.get("kl") is None:
        return []
    over = f"over {found['along_tokens']:,} tokens of A's answers"
    return [
        ("next token: divergence, nats", f"{number(found['kl'], '.4g')} {over}"),
        ("next token: same likeliest", f"{number(found['top1'], '.2%')} {over}"),
    ]


def show_doctor(found: Mapping[str, Any], console: Console) -> None:
    rows = [(name, value(fact)) for name, fact in found["hardware"].items()]
    for name, peak in (found["peaks"] or {}).items():
        unit = "GB/s copied" if name == "copy_gb" else f"GFLOP/s in {name}"
        rows.append(("measured peak", f"{number(peak, ',.0f')} {unit}"))
    console.print(facts("this machine", [*rows, ("devices", ", ".join(found["devices"]))]))
    engines = table_of("engines", ("engine", "version", "precisions", "install"))
    for name, engine in found["engines"].items():
        precisions = safe(", ".join(engine["precisions"]))
        engines.add_row(safe(name), safe(engine["version"] or "-"), precisions, safe(engine["cure"] or "found"))
    console.print(engines)
    for note in found["notes"]:
        say(console, note)
