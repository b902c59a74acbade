"""One HTML page that holds everything, and asks nothing of any other place."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from llm_moments.render.console import number, plan_in_short
from llm_moments.render.notebook import html_table, session_html, trials_html, worths_html

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
VERDICTS = {"free": GREEN, "cheap": ORANGE, "needed": RED, "harmful": BLUE, "unclear": GREY}

STYLE = """
:root{color-scheme:light}body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2rem auto;padding:0 1.5rem;color:#1c2430}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}table{border-collapse:collapse;font-size:13px;margin:.5rem 0}
th,td{text-align:right;padding:.28rem .7rem;border-bottom:1px solid #e3e7ec;font-variant-numeric:tabular-nums;white-space:nowrap}
th:first-child,td:first-child,td:last-child,th:last-child{text-align:left}td:last-child{white-space:normal}th{color:#5a6675;font-weight:600}
.claim{border-left:5px solid #009E73;background:#f2f8f6;padding:1rem 1.3rem;border-radius:4px}.claim.no{border-color:#D55E00;background:#fdf4ee}
.big{display:flex;gap:2.5rem;margin:.4rem 0 .8rem}.big b{display:block;font-size:1.9rem;line-height:1.2}.big span{color:#5a6675}
.wide{overflow-x:auto}.note{color:#5a6675;font-size:13px}
@media print{body{margin:0;max-width:none}}
"""


def report(
    *, session: Any = None, after: Any = None, worths: Any = None, study: Sequence[Any] | None = None, certificate: Any = None,
    title: str = "llm-moments",
) -> str:  # fmt: skip
    """The page, from whatever results are given."""
    charts = _Charts()
    parts = []
    if certificate is not None:
        parts += [_claim(certificate), charts.before_after(certificate)]
    if study:
        parts += ["<h2>Every plan that was tried</h2>", charts.front(study, certificate), _trials(study)]
    if session is not None:
        head = "Where the time goes" if after is None else "Where the time went in the original"
        parts += [f"<h2>{head}</h2>", charts.waterfall(session), _wide(session_html(session))]
    if after is not None:
        parts += ["<h2>Where it goes now</h2>", charts.waterfall(after), _wide(session_html(after))]
    if worths is not None:
        parts += ["<h2>What each change would save and lose</h2>", charts.worth(worths), _wide(worths_html(worths))]
        parts.append(
            html_table(("about these figures", ""), [(k.replace("_", " "), v) for k, v in worths.about.items()])
        )
    if certificate is not None:
        parts += ["<h2>The plan</h2>", _plans(certificate)]
    environment = (certificate or session) and (certificate or session).environment
    if environment:
        rows = [(k, ", ".join(v) if isinstance(v, list) else v) for k, v in environment.items()]
        parts += ["<h2>Measured on</h2>", html_table(("", ""), rows)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"{charts.script()}</head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>"
    )


def _wide(table: str) -> str:
    return f'<div class="wide">{table}</div>'


def _claim(c: Any) -> str:
    figures = (
        (number(c.speedup, ".1f", "×"), f"{c.objective}, times the original"),
        (number(None if c.drop is None else c.drop * 100, "+.2f"), f"points of {c.metric} lost, measured"),
        (
            number(None if c.drop_high is None else c.drop_high * 100, "+.2f"),
            f"points at most (budget {c.max_drop * 100:g})",
        ),
    )
    big = "".join(f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in figures)
    kind, head = ("", "Certified") if c.certified else (" no", "Not certified: the original is kept")
    return f'<div class="claim{kind}"><strong>{head}</strong><div class="big">{big}</div>{escape(c.words())}</div>'


def _trials(study: Sequence[Any]) -> str:
    good = sorted((t for t in study if t.status == "ok"), key=lambda t: t.cost or 0)
    bad = [t for t in study if t.status != "ok"]
    table = f"<details><summary>{len(good)} plans measured</summary>{_wide(trials_html(good))}</details>"
    if bad:
        rows = [(plan_in_short(t.plan), t.reason) for t in bad]
        table += f"<details><summary>{len(bad)} not available</summary>{html_table(('plan', 'reason'), rows)}</details>"
    return table


def _plans(c: Any) -> str:
    names = sorted({(s, k) for plan in (c.plan, c.baseline_plan) for s in plan for k in plan[s]})
    rows = [(f"{s}.{k}", c.baseline_plan.get(s, {}).get(k, "-"), c.plan.get(s, {}).get(k, "-")) for s, k in names]
    return html_table(("choice", "original", "now"), rows)


class _Charts:
    """Plotly pictures; its script is put in the page once, if there is any picture."""

    def __init__(self) -> None:
        try:
            import plotly.graph_objects as go
        except ImportError:
            go = None
        self.go, self.used = go, 0

    def script(self) -> str:
        if not self.used:
            return ""
        from plotly.offline import get_plotlyjs

        return f"<script>{get_plotlyjs()}</script>"

    def _drawn(self, figure: Any, height: int) -> str:
        self.used += 1
        figure.update_layout(
            height=height, template="plotly_white", margin={"l": 10, "r": 20, "t": 20, "b": 10}, hovermode="closest",
            font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c2430"},
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        )  # fmt: skip
        figure.update_xaxes(automargin=True)
        figure.update_yaxes(automargin=True)
        config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
        return figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, config=config)

    def _missing(self) -> str:
        return "<p class=\"note\">For the pictures: pip install 'llm-moments[report]'</p>"

    def before_after(self, c: Any) -> str:
        if not c.certified:
            return ""
        if self.go is None:
            return self._missing()
        hand = c.speedup / c.hand_speedup if c.hand_speedup and c.speedup else None
        bars = [
            ("original", 1.0),
            ("same answers, lossless gains only", c.lossless_speedup),
            ("careful plan set by hand", hand),
            ("certified plan", c.speedup),
        ]
        bars = [(name, value) for name, value in bars if value is not None][::-1]
        names, values = [b[0] for b in bars], [b[1] for b in bars]
        colours = [GREEN if n == "certified plan" else BLUE if n != "original" else GREY for n in names]
        figure = self.go.Figure(self.go.Bar(
            x=values, y=names, orientation="h", marker_color=colours, text=[f"{v:.1f}×" for v in values],
            textposition="outside", cliponaxis=False,
        ))  # fmt: skip
        figure.update_xaxes(title=f"{c.objective}, times the original", range=[0, max(values) * 1.12])
        return "<h2>Before and after</h2>" + self._drawn(figure, 70 + 42 * len(bars))

    def front(self, study: Sequence[Any], certificate: Any) -> str:
        done = [t for t in study if t.status == "ok" and t.gain and t.drop is not None]
        if self.go is None or not done:
            return self._missing() if self.go is None else ""
        figure = self.go.Figure()
        stages = sorted({t.stage for t in done})
        palette = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#F0E442", GREY)
        for at, stage in enumerate(stages):
            some = [t for t in done if t.stage == stage]
            drops = [100 * (t.drop or 0) for t in some]
            figure.add_scatter(
                x=[t.gain for t in some], y=drops, mode="markers", name=stage,
                marker={"size": 8, "color": palette[at % len(palette)]}, text=[escape(plan_in_short(t.plan)) for t in some],
                hovertemplate="%{text}<br>%{x:.1f} times, %{y:+.2f} points<extra></extra>",
                error_y={
                    "type": "data", "thickness": 1, "width": 0, "symmetric": False,
                    "array": [100 * (t.drop_high or 0) - d for t, d in zip(some, drops, strict=True)],
                    "arrayminus": [d - 100 * (t.drop_low or 0) for t, d in zip(some, drops, strict=True)],
                },
            )  # fmt: skip
        if certificate is not None:
            figure.add_hline(
                y=100 * certificate.max_drop, line={"dash": "dot", "color": RED}, annotation_text="budget",
                annotation_position="top left",
            )  # fmt: skip
            figure.add_hline(y=0, line={"color": GREY, "width": 1})
            chosen = [t for t in done if t.plan == certificate.plan]
            if chosen:
                figure.add_scatter(
                    x=[chosen[0].gain], y=[100 * chosen[0].drop], mode="markers", name="chosen", hoverinfo="skip",
                    marker={"size": 18, "symbol": "circle-open", "line": {"width": 2.5}, "color": "#000000"},
                )  # fmt: skip
        ordered = sorted(100 * t.drop for t in done)
        top = ordered[int(0.85 * (len(ordered) - 1))] + 4
        figure.update_xaxes(title="times the original, search split (log)", type="log", dtick="D2")
        figure.update_yaxes(title="points lost (95% bounds)", range=[min(ordered[0], 0) - 2, max(top, 3)])
        clipped = '<p class="note">Plans that lose far more than the others may lie above the picture; the table has them all.</p>'
        return self._drawn(figure, 430) + clipped

    def waterfall(self, session: Any) -> str:
        if self.go is None:
            return self._missing()
        steps = [(d, s) for d, s in session.root.walk() if d > 0 and s.wall_s > 0]
        starts: list[float] = []
        ends = {0: 0.0}
        for depth, step in steps:  # a step starts where its elder sibling, or its parent, does
            start = ends.get(depth, ends.get(depth - 1, 0.0)) if depth > 1 else ends.get(1, 0.0)
            starts.append(start)
            ends[depth] = start + step.wall_s
            ends[depth + 1] = start
        total = session.root.wall_s or 1.0
        names = [f"{at:03d}" for at in range(len(steps))]
        figure = self.go.Figure(self.go.Bar(
            base=[1000 * s for s in starts], x=[1000 * s.wall_s for _, s in steps], y=names, orientation="h",
            marker_color=[(BLUE, "#56B4E9", "#A6D8F2")[min(d - 1, 2)] for d, _ in steps],
            text=[f"{s.wall_s / total:.1%}" for _, s in steps], textposition="outside", cliponaxis=False,
            hovertext=[f"{escape(s.name)}: {1000 * s.wall_s:,.1f} ms" for _, s in steps], hoverinfo="text",
        ))  # fmt: skip
        labels = ["\u2003" * (d - 1) + escape(s.name) for d, s in steps]
        figure.update_yaxes(autorange="reversed", tickvals=names, ticktext=labels, type="category")
        figure.update_xaxes(title="ms, totals of each step laid out one after another", range=[0, 1080 * total])
        return self._drawn(figure, 90 + 24 * len(steps))

    def worth(self, worths: Any) -> str:
        known = [w for w in worths if w.saving is not None and w.drop is not None]
        if self.go is None or not known:
            return self._missing() if self.go is None else ""
        figure = self.go.Figure()
        for verdict, colour in VERDICTS.items():
            some = [w for w in known if w.verdict == verdict]
            if not some:
                continue
            drops = [100 * w.drop for w in some]
            figure.add_scatter(
                x=[100 * w.saving for w in some], y=drops, mode="markers", name=verdict,
                marker={"size": 9, "color": colour}, text=[escape(w.name) for w in some],
                hovertemplate="%{text}<br>saves %{x:.0f}%, loses %{y:+.2f} points<extra></extra>",
                error_y={
                    "type": "data", "thickness": 1, "width": 0, "symmetric": False,
                    "array": [100 * w.drop_high - d for w, d in zip(some, drops, strict=True)],
                    "arrayminus": [d - 100 * w.drop_low for w, d in zip(some, drops, strict=True)],
                },
            )  # fmt: skip
        figure.update_xaxes(title="time saved, % of the original", zeroline=True)
        figure.update_yaxes(title="points lost (95% bounds)", zeroline=True)
        return self._drawn(figure, 430)
