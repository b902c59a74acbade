"""Results as small HTML fragments, for Jupyter's `_repr_html_`. No script, no style sheet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llm_moments.base.visible import visible
from llm_moments.render.table import step_row
from llm_moments.render.text import (
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

_NUMBER = re.compile(r"[-+<]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?[%*×]?|-|[-+\d.,]+ (to|/) [-+\d.,]+|[-+\d.,]+ / -")
INDENT = "\u2003"


def shown(thing: object) -> str:
    """Text in a page: neither markup nor a mark that turns the line round gets through."""
    return escape(visible(thing))


def html_table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    """Every cell is escaped. Columns of numbers stand to the right, all others to the left."""
    columns = list(zip(*body, strict=True)) if body else []
    left = [not all(_NUMBER.fullmatch(str(cell)) for cell in column) for column in columns] or [True] * len(head)
    align = [' style="text-align:left"' if text else ' style="text-align:right"' for text in left]

    def row(cells: Sequence[Any], tag: str) -> str:
        inner = (f"<{tag}{a}>{shown(cell)}</{tag}>" for cell, a in zip(cells, align, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    top = f"<thead>{row(head, 'th')}</thead>" if any(head) else ""
    return f"<table>{top}<tbody>{''.join(row(cells, 'td') for cells in body)}</tbody></table>"


def steps_html(session: Any) -> str:
    head = ("step", "calls", "ms", "share", "items/s", "tokens/s", "padding", "cut rows / tokens", "of limit")
    body = []
    for depth, step in session.root.walk():
        row = step_row(step, depth, session.root.wall_s)
        body.append((
            INDENT * depth + step.name, f"{step.calls:,}", amount(step.wall_s * 1000, ",.1f"), share(row["share"]),
            amount(row["items_per_s"]), amount(row["tokens_per_s"]), number(row["padding"], ".1%"),
            cut(row), limit(step),
        ))  # fmt: skip
    star = any(limit(step).endswith("*") for _, step in session.root.walk())
    return html_table(head, body) + ("<p><small>* modelled from counted operations</small></p>" if star else "")


def figures_html(session: Any) -> str:
    rows = [(label(k), figure(f), f.kind, f.note if f.value is not None else "") for k, f in session.figures.items()]
    return html_table(("figure", "value", "how", "note"), rows) if rows else ""


def notes_html(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{shown(note)}</li>' for note in notes)}</ul>" if notes else ""


def session_html(session: Any) -> str:
    return steps_html(session) + figures_html(session) + notes_html(session.notes)


def training_html(training: Any) -> str:
    """Epochs with their losses and scores, then where the time went."""
    rows = [
        (number(e["epoch"], ".0f"), number(e.get("loss"), ".4f"), number(e.get("score"), ".4f"))
        for e in epochs(training.history)
    ]
    steps = session_html(training.session) if training.session is not None else ""
    return html_table(("epoch", "loss", "score"), rows) + notes_html(training.warnings) + steps


def worths_html(worths: Any) -> str:
    columns = [column for column in worth_columns(worths) if column[0] != "screen"]
    head = ("change", *(head for head, _ in columns), "p", "verdict")
    body = [(w.name, *(said(w) for _, said in columns), number(w.p, ".2g"), verdict_of(w)) for w in by_worth(worths)]
    return html_table(head, body)


def about_html(worths: Any) -> str:
    rows = [(label(name), value(fact)) for name, fact in getattr(worths, "about", {}).items()]
    return html_table(("", ""), rows) if rows else ""


def certificate_html(certificate: Any) -> str:
    head = "Certified" if certificate.certified else "No certificate"
    return f"<p><strong>{head}.</strong> {shown(certificate.words())}</p>"


def trials_html(trials: Sequence[Any]) -> str:
    head = ("stage", "times", "score", "drop", "interval", "worse", "better", "plan")
    body = [
        (
            t.stage, number(t.gain, ",.1f"), number(t.score, ".4f"), number(t.drop, "+.4f"),
            interval(t.drop_low, t.drop_high), number(t.harmful, "d"), number(t.beneficial, "d"),
            plan_in_short(t.plan) + ("" if t.status == "ok" else f": {t.reason}"),
        )
        for t in trials
    ]  # fmt: skip
    return html_table(head, body)


def improvement_html(found: Mapping[str, Any]) -> str:
    from llm_moments.improve.certify import Certificate
    from llm_moments.improve.study import Trial

    words = certificate_html(Certificate.from_dict(found["certificate"]))
    tried = f"{found['trials']} plans tried in {number(found['seconds'], ',.0f')} s"
    place = f"; the artefact is in {found['artefact']}" if found["artefact"] else ""
    more = notes_html([said for said in (found.get("stands"), found.get("first"), found.get("nearly")) if said])
    return f"{words}{more}<p>{shown(tried + place)}</p>" + trials_html([Trial(**t) for t in found["front"]])
