"""The report's pictures, as plotly figures. Each function gives None where it has nothing to draw.

Colours are Okabe and Ito's, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/);
where colour carries a meaning, the shape of the mark or a label carries it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from llm_moments.base.visible import visible
from llm_moments.record.session import Session, StepCost
from llm_moments.render.text import amount, number, percent, plan_in_short, ratio, share

INK, FAINT, LINE = "#1c2430", "#5a6675", "#c9d0d8"
BLUE, SKY, PALE, GREEN = "#0072B2", "#56B4E9", "#A6D8F2", "#009E73"
ORANGE, RED, PINK, GREY = "#E69F00", "#D55E00", "#CC79A7", "#8a929c"
VERDICTS = {
    "free": (GREEN, "circle"), "cheap": (ORANGE, "diamond"), "needed": (RED, "square"),
    "harmful": (BLUE, "star"), "helps": (BLUE, "triangle-up"), "unclear": (GREY, "circle-open"),
}  # fmt: skip
MOST_BARS = 60


def short(name: str, most: int = 34) -> str:
    """Escaped for plotly, which would read its own markup in a name, and cut to fit."""
    name = visible(name)
    return escape(name if len(name) <= most else name[: most - 1] + "…")


def new_figure(height: int, **layout: Any) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        height=height, paper_bgcolor="white", plot_bgcolor="white", hovermode="closest", showlegend=False, bargap=0.28,
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        margin={"l": 62, "r": 24, "t": 34, "b": 48}, legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
        template="none", hoverlabel={"bgcolor": "white", "bordercolor": LINE, "font": {"color": INK}}, **layout,
    )  # fmt: skip
    axis = {
        "gridcolor": "#edf0f3",
        "zeroline": False,
        "linecolor": LINE,
        "title": {"font": {"color": FAINT, "size": 13}},
    }
    figure.update_xaxes(**axis, ticks="")
    figure.update_yaxes(**axis, ticks="")
    return figure


def side_labels(figure: Any, names: Sequence[str], depths: Sequence[int], most: int = 34) -> None:
    """Names of bars from the left edge on, indented: plotly's own labels stand to the right and lose it."""
    margin = max((7.2 * min(len(n), most) + 16 * d for n, d in zip(names, depths, strict=True)), default=60) + 22
    figure.update_layout(margin={"l": min(margin, 330)})
    for at, (name, depth) in enumerate(zip(names, depths, strict=True)):
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", xshift=-min(margin, 330) + 4 + 16 * depth, y=at, yref="y",
            text=short(name, most), showarrow=False, align="left", font={"color": INK if depth == 0 else FAINT},
        )  # fmt: skip
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], showticklabels=False, showgrid=False)


def before_after(c: Any) -> Any:
    bars = [
        ("baseline", 1.0, GREY),
        ("same answers: lossless gains only", c.lossless_speedup, SKY),
        ("careful plan set by hand", ratio(c), BLUE),
        ("certified plan" if c.certified else "best candidate, not certified", c.speedup, GREEN if c.certified else RED),
    ]  # fmt: skip
    known = [bar for bar in bars if bar[1] is not None]
    if len(known) < 2:
        return None
    names, values, colours = zip(*known, strict=True)
    figure = new_figure(74 + 40 * len(known))
    figure.add_bar(
        x=values, y=list(range(len(known))), orientation="h", marker_color=colours, textposition="outside", cliponaxis=False,
        text=[f"<b>{v:,.2g}×</b>" if v < 10 else f"<b>{v:,.1f}×</b>" for v in values], hoverinfo="skip",
    )  # fmt: skip
    if c.speedup is not None and c.speedup_low is not None:
        at = len(known) - 1
        figure.add_shape(
            type="line",
            x0=c.speedup_low,
            x1=c.speedup_low,
            y0=at - 0.3,
            y1=at + 0.3,
            line={"width": 2, "color": "white"},
        )
    side_labels(figure, names, [0] * len(known))
    figure.update_xaxes(
        title_text=f"{short(c.objective)}, times better than the baseline", range=[0, max(values) * 1.1]
    )
    figure.update_layout(margin={"t": 6})
    return figure


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 …; over more than three decades the powers of ten alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low <= 1000 else (1,)
    return [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]


def bars(points: Sequence[Any], value: str, low: str, high: str, colour: str, factor: float = 1.0) -> dict[str, Any]:
    """Error bars; a bound that is not known is not drawn."""

    def far(point: Any, end: str) -> float:
        known = getattr(point, end)
        return 0.0 if known is None else abs(known - getattr(point, value)) * factor

    return {
        "type": "data", "symmetric": False, "thickness": 1.2, "width": 0, "color": colour,
        "array": [far(p, high) for p in points], "arrayminus": [far(p, low) for p in points],
    }  # fmt: skip


def _seen(drops: Sequence[float], budget: float | None) -> tuple[float, float]:
    """The span of drops to show, in points: around the budget, so that one useless plan does not flatten all."""
    ordered = sorted(drops)
    core = ordered[int(0.75 * (len(ordered) - 1))]
    top = max(core * 1.25, 3 * (budget or 0), 0.5)
    low = min(ordered[0], 0.0)
    return low - 0.28 * (top - low), top


def front(study: Sequence[Any], certificate: Any) -> Any:
    """Gain against drop of every plan that was measured, the front, the budget and the choice."""
    done = [t for t in study if t.status == "ok" and t.gain and t.gain > 0 and t.drop is not None]
    if not done:
        return None
    from llm_moments.improve.improvement import front as best_of

    budget = None if certificate is None else 100 * certificate.max_drop
    low, top = _seen([100 * t.drop for t in done], budget)
    figure = new_figure(470)
    figure.update_layout(showlegend=True)
    best = [t for t in best_of(done) if 100 * (t.drop or 0.0) <= top]
    figure.add_scatter(
        x=[t.gain for t in best], y=[100 * (t.drop or 0.0) for t in best], mode="lines", name="no plan beats these",
        line={"color": "#9aa5b1", "width": 1.5, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    shown = {t.key for t in best} | {t.key for t in done if certificate is not None and t.plan == certificate.plan}
    groups = {
        ("same answers (lossless)", BLUE, "square"): [t for t in done if t.lossless],
        ("set by hand", PINK, "diamond"): [t for t in done if t.stage == "by hand" and not t.lossless],
        ("found by the search", ORANGE, "circle"): [t for t in done if t.stage != "by hand" and not t.lossless],
    }  # fmt: skip
    for (name, colour, symbol), some in groups.items():
        inside = [t for t in some if 100 * t.drop <= top]
        beyond = [t for t in some if 100 * t.drop > top]
        for part, mark in ((inside, symbol), (beyond, "triangle-up-open")):
            if part:
                legend = {"name": name, "showlegend": part is inside or not inside, "legendgroup": name}
                _plans(figure, part, top, colour, mark, legend, shown)
    _choice(figure, done, certificate, low, top)
    _gain_axis(figure, [t.gain for t in done])
    figure.update_yaxes(title_text="points of score lost (95% bounds of the best)", range=[low, top * 1.04])
    return figure


def _plans(
    figure: Any, some: Sequence[Any], top: float, colour: str, symbol: str, legend: dict[str, Any], shown: set[str]
) -> None:
    """Intervals are drawn of the plans that no other beats, and of the chosen one; of all others the hover tells them."""
    said = [
        f"{short(plan_in_short(t.plan), 90)}<br>{t.gain:.1f} times ({number(t.gain_low, '.1f')} to "
        f"{number(t.gain_high, '.1f')}), {100 * t.drop:+.2f} points "
        f"({number(percent(t.drop_low), '+.2f')} to {number(percent(t.drop_high), '+.2f')})<br>{short(t.stage, 90)}"
        for t in some
    ]  # fmt: skip
    open_, known = symbol.endswith("-open"), [t.key in shown for t in some]
    figure.add_scatter(
        x=[t.gain for t in some], y=[min(100 * t.drop, top) for t in some], mode="markers", **legend,
        text=said, hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        marker={
            "size": [11 if k else 8 for k in known], "color": colour, "symbol": symbol,
            "opacity": [1.0 if k or open_ else 0.55 for k in known],
            "line": {"width": 2 if open_ else 0.8, "color": colour if open_ else "white"},
        },
    )  # fmt: skip
    best = [t for t in some if t.key in shown and not open_]
    if best:
        figure.add_scatter(
            x=[t.gain for t in best], y=[100 * t.drop for t in best], mode="markers", hoverinfo="skip", showlegend=False,
            legendgroup=legend["legendgroup"], marker={"size": 1, "color": colour},
            error_y=bars(best, "drop", "drop_low", "drop_high", colour, 100),
            error_x=bars(best, "gain", "gain_low", "gain_high", colour),
        )  # fmt: skip


def _choice(figure: Any, done: Sequence[Any], certificate: Any, low: float, top: float) -> None:
    figure.add_hline(y=0, line={"color": "#9aa5b1", "width": 1})
    if certificate is None:
        return
    budget = 100 * certificate.max_drop
    if low <= budget <= top:
        figure.add_hline(y=budget, line={"dash": "dash", "width": 1.5, "color": RED})
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", xshift=6, y=budget, yanchor="bottom", showarrow=False,
            text=f"budget: {budget:g} point{'' if budget == 1 else 's'}", font={"color": RED},
        )  # fmt: skip
    chosen = next((t for t in done if t.plan == certificate.plan), None)
    if chosen is None:
        return
    y = min(100 * chosen.drop, top)
    figure.add_scatter(
        x=[chosen.gain], y=[y], mode="markers", name="chosen", hoverinfo="skip", showlegend=False, cliponaxis=False,
        marker={"size": 19, "symbol": "circle-open", "line": {"width": 2.5}, "color": INK},
    )  # fmt: skip
    log = _wide([t.gain for t in done])
    figure.add_annotation(
        x=math.log10(chosen.gain) if log else chosen.gain, y=y, text=f"<b>chosen: {chosen.gain:.1f}×</b>", ax=46, ay=52,
        showarrow=True, arrowhead=0, arrowwidth=1.2, standoff=10, bgcolor="rgba(255,255,255,.85)",
    )  # fmt: skip


def _wide(gains: Sequence[float]) -> bool:
    return max(gains) / min(gains) > 8


def _gain_axis(figure: Any, gains: Sequence[float]) -> None:
    title = "times better than the baseline, on the search split"
    if _wide(gains):
        low, high = min(gains) * 0.8, max(gains) * 1.25
        ticks = _log_ticks(low, high)
        figure.update_xaxes(
            title_text=f"{title} (log)", type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks,
            ticktext=[f"{t:g}×" for t in ticks],
        )  # fmt: skip
    else:
        high = max([*gains, 1.0]) * 1.1
        figure.update_xaxes(title_text=title, ticksuffix="×", range=[min(0.9, 0.9 * min(gains)), high])


def waterfall(session: Session) -> Any:
    """Every step's total time after that of its elder siblings, inner steps below their own."""
    steps = _fitting(session)
    if not steps:
        return None
    total = session.root.wall_s or sum(s.wall_s for _, s, _ in steps) or 1.0
    factor, unit = (1000, "ms") if total < 10 else (1, "s")
    figure = new_figure(66 + 23 * len(steps))
    figure.add_bar(
        base=[factor * start for _, _, start in steps], x=[factor * s.wall_s for _, s, _ in steps],
        y=list(range(len(steps))), orientation="h", marker_color=[(BLUE, SKY, PALE)[min(d, 2)] for d, _, _ in steps],
        text=[share(s.wall_s / total) for _, s, _ in steps], textposition="outside", cliponaxis=False, hoverinfo="text",
        hovertext=[f"{short(s.name, 90)}: {amount(factor * s.wall_s, ',.1f')} {unit}, {s.calls:,} calls" for _, s, _ in steps],
    )  # fmt: skip
    side_labels(figure, [s.name for _, s, _ in steps], [d for d, _, _ in steps])
    end = max(total, *(start + s.wall_s for _, s, start in steps))
    figure.update_xaxes(
        title_text=f"{unit}; the total of each step, laid out one after another", range=[0, factor * end * 1.07],
        tickformat=",~g",
    )  # fmt: skip
    figure.update_layout(margin={"t": 6})
    return figure


def _fitting(session: Session) -> list[tuple[int, StepCost, float]]:
    """(depth, step, start) as deep as there is room for."""
    found: list[tuple[int, StepCost, float]] = []

    def lay(parent: StepCost, depth: int, start: float) -> None:
        for child in parent.children:
            if child.wall_s > 0:
                found.append((depth, child, start))
                lay(child, depth + 1, start)
                start += child.wall_s

    lay(session.root, 0, 0.0)
    deepest = max((depth for depth, _, _ in found), default=0)
    while deepest and sum(depth <= deepest for depth, _, _ in found) > MOST_BARS:
        deepest -= 1
    return [step for step in found if step[0] <= deepest][: 2 * MOST_BARS]


def curves(training: Any) -> Any:
    """Loss and learning rate by update, and the score after each epoch, one below the other."""
    from plotly.subplots import make_subplots

    kinds = (("loss", "loss", BLUE), ("score", "score", GREEN), ("learning_rate", "learning rate", ORANGE))
    lines = [(head, colour, _line(training.history, name)) for name, head, colour in kinds]
    lines = [line for line in lines if len(line[2][0]) > 1 or line[0] == "score" and line[2][0]]
    if not lines:
        return None
    figure = new_figure(190 * len(lines) + 40)
    grid = make_subplots(rows=len(lines), cols=1, shared_xaxes=True, vertical_spacing=0.09, figure=figure)
    for row, (head, colour, (xs, ys)) in enumerate(lines, 1):
        grid.add_scatter(
            x=xs, y=ys, mode="lines+markers" if head == "score" else "lines", name=head, row=row, col=1,
            line={"color": colour, "width": 2}, hovertemplate="update %{x:,}<br>" + head + " %{y:.4g}<extra></extra>",
        )  # fmt: skip
        axis = {"gridcolor": "#edf0f3", "zeroline": False, "linecolor": LINE}
        said = {"text": head, "font": {"size": 12, "color": FAINT}, "standoff": 8}
        grid.update_yaxes(title=said, automargin=True, row=row, col=1, **axis)
        grid.update_xaxes(row=row, col=1, **axis)
    grid.update_xaxes(title_text="update", row=len(lines), col=1)
    return grid


def _line(history: Sequence[Any], name: str) -> tuple[list[float], list[float]]:
    known = [(entry["update"], entry[name]) for entry in history if name in entry]
    return [x for x, _ in known], [y for _, y in known]
