"""The certificate of a training plan, on a terminal and in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_moments.render.text import number, value

TRIED = ("change", "times faster", "validation loss", "kept")
HELD = (
    "plan",
    "passed",
    "times faster",
    "at least",
    "loss",
    "usual loss",
    "rise at most",
    "allowed",
    "score",
    "usual score",
)


def show(certificate: Any, console: Any) -> None:
    from llm_moments.render.console import safe, say, table_of

    for title, heads, rows in (
        ("what was tried, one change after the other", TRIED, tried_rows(certificate)),
        ("held against the usual plan", HELD, held_rows(certificate)),
    ):
        if rows:
            table = table_of(title, heads[:1], heads[1:])
            for row in rows:
                table.add_row(*map(safe, row))
            console.print(table)
    for name, old, new in differences(certificate):
        say(console, f"  {name}: {old} -> {new}")
    say(console, certificate.words())


def tried_rows(c: Any) -> list[tuple[str, ...]]:
    return [
        (t["name"], number(t["faster"], ".2f"), number(t["loss"], ".4f"), "yes" if t["kept"] else "no") for t in c.tried
    ]


def held_rows(c: Any) -> list[tuple[str, ...]]:
    return [
        (
            x.name, "yes" if x.passed else "no", number(x.speedup, ".2f"), number(x.speedup_low, ".2f"), number(x.loss, ".4f"),
            number(x.baseline_loss, ".4f"), number(x.rise_high, "+.4f"), number(x.allowed, ".4f"), number(x.score, ".4f"),
            number(x.baseline_score, ".4f"),
        )
        for x in c.looks
    ]  # fmt: skip


def differences(c: Any) -> Sequence[tuple[str, str, str]]:
    return [(n, value(c.baseline[n]), value(v)) for n, v in c.settings.items() if value(c.baseline[n]) != value(v)]


def sections(c: Any, draw: Any) -> list[tuple[str, str]]:
    from llm_moments.render.notebook import html_table, shown

    head = (
        "Certified: the same validation loss in less time" if c.certified else "Not certified: the usual plan is kept"
    )
    best, big = c.best, ""
    if best is not None:
        figures = (
            (f"{best.speedup:.2f}×", "faster, measured"),
            (f"{best.speedup_low:.2f}×", "at least, with 95% confidence"),
        )
        big = "".join(f"<div><b>{v}</b><span>{said}</span></div>" for v, said in figures)
    claim = (
        f'<div class="claim{"" if c.certified else " no"}"><h2>{shown(head)}</h2><div class="big">{big}</div>'
        f"<p>{shown(c.words())}</p></div>"
    )
    wide = '<div class="wide">{}</div>'.format
    changed = html_table(("setting", "usual", "now"), differences(c)) if differences(c) else ""
    held = wide(html_table(HELD, held_rows(c))) if c.looks else ""
    tried = wide(html_table(TRIED, tried_rows(c))) if c.tried else ""
    return [
        ("", claim),
        ("What is set differently", changed),
        ("Plans held against the usual one", draw(picture, c) + held),
        ("What was tried", tried),
        ("Measured on", html_table(("", ""), [(k, value(v)) for k, v in c.environment.items()])),
    ]


def picture(c: Any) -> Any:
    """Each plan's speed against its loss, the usual plan at 1, and the loss that is allowed."""
    from llm_moments.render import charts

    if not c.looks:
        return None
    figure = charts.new_figure(320)
    figure.add_scatter(
        x=[1.0, *(x.speedup for x in c.looks)], y=[c.looks[0].baseline_loss, *(x.loss for x in c.looks)], mode="markers+text",
        text=["usual", *(f"{x.speedup:.2f}×" for x in c.looks)], textposition="top center",
        marker={
            "size": 12, "color": [charts.GREY, *(charts.GREEN if x.passed else charts.RED for x in c.looks)],
            "symbol": ["circle", *("circle" if x.passed else "x" for x in c.looks)],
        },
        error_y={
            "type": "data", "symmetric": False, "array": [0, *(x.rise_high - x.rise for x in c.looks)],
            "arrayminus": [0] * (len(c.looks) + 1), "color": charts.GREY,
        },
        hovertext=["the usual plan", *(charts.short(x.name, 120) for x in c.looks)], hoverinfo="text",
    )  # fmt: skip
    figure.add_hline(y=c.looks[0].baseline_loss + c.looks[0].allowed, line={"dash": "dash", "color": charts.RED})
    figure.update_xaxes(title_text="times faster than the usual plan", ticksuffix="×")
    figure.update_yaxes(title_text="validation loss (upper 95% bound)")
    return figure
