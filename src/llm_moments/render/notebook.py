"""Results as small HTML fragments, for Jupyter's `_repr_html_`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llm_moments.render.console import figure, number, plan_in_short
from llm_moments.render.table import step_row


def html_table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    """Every cell is escaped."""
    top = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def session_html(session: Any) -> str:
    body = []
    for depth, step in session.root.walk():
        row = step_row(step, depth, session.root.wall_s)
        body.append((
            "\u2003" * depth + step.name, step.calls, number(step.wall_s * 1000, ",.1f"), number(row["share"], ".1%"),
            number(row["items_per_s"], ",.0f"), number(row["tokens_per_s"], ",.0f"), number(row["padding"], ".1%"),
            number(row["cut_rows"], ",.0f"), number(row["limit"], ".0%"),
        ))  # fmt: skip
    head = ("step", "calls", "ms", "share", "items/s", "tokens/s", "padding", "cut rows", "of limit")
    figures = html_table(("figure", "value", "how"), [(k, figure(f), f.kind) for k, f in session.figures.items()])
    notes = "".join(f"<p>{escape(note)}</p>" for note in session.notes)
    return html_table(head, body) + figures + notes


def worths_html(worths: Any) -> str:
    head = ("change", "saves", "drop", "interval", "worse", "better", "divergence", "verdict")
    body = [
        (
            w.name, number(w.saving, ".0%"), number(w.drop, "+.4f"),
            "-" if w.drop_low is None else f"{w.drop_low:+.4f} … {w.drop_high:+.4f}", number(w.harmful, "d"),
            number(w.beneficial, "d"), number(w.divergence, ".4f"),
            w.verdict + (f": needs {w.needs:,} examples" if w.needs else "") + (f" ({w.reason})" if w.reason else ""),
        )
        for w in worths
    ]  # fmt: skip
    return html_table(head, body)


def certificate_html(certificate: Any) -> str:
    return f"<p>{escape(certificate.words())}</p>"


def trials_html(trials: Sequence[Any]) -> str:
    head = ("stage", "times", "score", "drop", "interval", "worse", "better", "plan")
    body = [
        (
            t.stage, number(t.gain, ".1f"), number(t.score, ".4f"), number(t.drop, "+.4f"),
            "-" if t.drop_low is None else f"{t.drop_low:+.4f} … {t.drop_high:+.4f}", t.harmful, t.beneficial,
            plan_in_short(t.plan) + ("" if t.status == "ok" else f": {t.reason}"),
        )
        for t in trials
    ]  # fmt: skip
    return html_table(head, body)


def improvement_html(found: Mapping[str, Any]) -> str:
    from llm_moments.improve.certify import Certificate
    from llm_moments.improve.study import Trial

    words = certificate_html(Certificate.from_dict(found["certificate"]))
    return words + trials_html([Trial(**t) for t in found["front"]])
