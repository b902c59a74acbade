"""The report's pictures, as plotly figures. Each function gives None where it has nothing to draw.

Colours are Okabe and Ito's, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/);
where colour carries a meaning, the shape of the mark or a label carries it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from llm_moments.record.session import Session, StepCost
from llm_moments.render.text import number, percent, plan_in_short, ratio, share

INK, FAINT, LINE = "#1c2430", "#5a6675", "#c9d0d8"
BLUE, SKY, PALE, GREEN = "#0072B2", "#56B4E9", "#A6D8F2", "#009E73"
ORANGE, RED, PINK, GREY = "#E69F00", "#D55E00", "#CC79A7", "#8a929c"
VERDICTS = {
    "free": (GREEN, "circle"), "cheap": (ORANGE, "diamond"), "needed": (RED, "square"),
    "harmful": (BLUE, "star"), "helps": (BLUE, "triangle-up"), "unclear": (GREY, "circle-open"),
}  # fmt: skip
WIDTH = 1080  # of the picture area of the page on a laptop, for what is placed by hand
MOST_BARS = 60


def short(name: str, most: int = 34) -> str:
    """Escaped for plotly, which would read its own markup in a name, and cut to fit."""
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


def side_labels(figure: Any, names: Sequence[str], depths: Sequence[int]) -> None:
    """Names of bars from the left edge on, indented: plotly's own labels stand to the right and lose it."""
    margin = max((7.2 * min(len(n), 34) + 16 * d for n, d in zip(names, depths, strict=True)), default=60) + 22
    figure.update_layout(margin={"l": min(margin, 330)})
    for at, (name, depth) in enumerate(zip(names, depths, strict=True)):
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", xshift=-min(margin, 330) + 4 + 16 * depth, y=at, yref="y",
            text=short(name), showarrow=False, align="left", font={"color": INK if depth == 0 else FAINT},
        )  # fmt: skip
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], showticklabels=False, showgrid=False)


def before_after(c: Any) -> Any:
    bars = [
        ("original", 1.0, GREY),
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
        title_text=f"{escape(c.objective)}, times better than the original", range=[0, max(values) * 1.1]
    )
    figure.update_layout(margin={"t": 6})
    return figure


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]


def _bars(points: Sequence[Any], value: str, low: str, high: str, colour: str, factor: float = 1.0) -> dict[str, Any]:
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
    best = best_of(done)
    figure.add_scatter(
        x=[t.gain for t in best], y=[min(100 * (t.drop or 0.0), top) for t in best], mode="lines", name="best known",
        line={"color": "#9aa5b1", "width": 1.5, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    groups = {
        ("same answers (lossless)", BLUE, "rgba(0,114,178,.3)", "square"): [t for t in done if t.lossless],
        ("set by hand", PINK, "rgba(204,121,167,.4)", "diamond"): [t for t in done if t.stage == "by hand" and not t.lossless],
        ("found by the search", ORANGE, "rgba(230,159,0,.3)", "circle"): [
            t for t in done if t.stage != "by hand" and not t.lossless
        ],
    }  # fmt: skip
    for (name, colour, bar, symbol), some in groups.items():
        if some:
            _plans(figure, some, top, name, colour, bar, symbol)
    _choice(figure, done, certificate, low, top)
    _gain_axis(figure, [t.gain for t in done])
    figure.update_yaxes(title_text="points of score lost (95% bounds)", range=[low, top * 1.04])
    return figure


def _plans(figure: Any, some: Sequence[Any], top: float, name: str, colour: str, bar: str, symbol: str) -> None:
    said = [
        f"{short(plan_in_short(t.plan), 90)}<br>{t.gain:.1f} times, {100 * t.drop:+.2f} points "
        f"({number(percent(t.drop_low), '+.2f')} to {number(percent(t.drop_high), '+.2f')})<br>{escape(t.stage)}"
        for t in some
    ]  # fmt: skip
    over = [100 * t.drop > top for t in some]
    figure.add_scatter(
        x=[t.gain for t in some], y=[top if o else 100 * t.drop for t, o in zip(some, over, strict=True)], mode="markers",
        name=name, text=said, hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        marker={
            "size": 9, "color": colour, "symbol": ["triangle-up-open" if o else symbol for o in over],
            "line": {"width": [2 if o else 0.8 for o in over], "color": [colour if o else "white" for o in over]},
        },
        error_y=_bars(some, "drop", "drop_low", "drop_high", bar, 100), error_x=_bars(some, "gain", "gain_low", "gain_high", bar),
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
    title = "times better than the original, on the search split"
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
        hovertext=[f"{short(s.name, 90)}: {factor * s.wall_s:,.1f} {unit}, {s.calls:,} calls" for _, s, _ in steps],
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


def worth(worths: Any) -> Any:
    """What each change saves against what it loses, by verdict."""
    known = [w for w in worths if w.saving is not None and w.drop is not None]
    if not known:
        return None
    figure = new_figure(470)
    figure.update_layout(showlegend=True)
    for verdict, (colour, symbol) in VERDICTS.items():
        some = [w for w in known if w.verdict == verdict]
        if some:
            figure.add_scatter(
                x=[100 * w.saving for w in some], y=[100 * w.drop for w in some], mode="markers", name=verdict,
                marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 1}}, text=[short(w.name, 90) for w in some],
                hovertemplate="%{text}<br>saves %{x:.0f}%, loses %{y:+.2f} points<extra>" + verdict + "</extra>",
                error_y=_bars(some, "drop", "drop_low", "drop_high", colour, 100),
                error_x=_bars(some, "saving", "saving_low", "saving_high", colour, 100),
            )  # fmt: skip
    xs = _span([(100 * w.saving, percent(w.saving_low), percent(w.saving_high)) for w in known])
    ys = _span([(100 * w.drop, percent(w.drop_low), percent(w.drop_high)) for w in known])
    _names(figure, known, xs, ys)
    figure.add_hline(y=0, line={"color": "#9aa5b1", "width": 1})
    figure.update_xaxes(title_text="time saved, % of the original", range=xs)
    figure.update_yaxes(title_text="points of score lost (95% bounds)", range=ys)
    return figure


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


def _span(points: Sequence[tuple[float | None, ...]]) -> list[float]:
    every = [value for point in points for value in point if value is not None] + [0.0]
    low, high = min(every), max(every)
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


def _names(figure: Any, known: Sequence[Any], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Names beside the points, as many as stand free of each other; the rest is in the hover and the table."""
    wide, tall = WIDTH / (xs[1] - xs[0]), 388 / (ys[1] - ys[0])
    spots = [(wide * (100 * w.saving - xs[0]), tall * (100 * w.drop - ys[0])) for w in known]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    for w, (x, y) in sorted(zip(known, spots, strict=True), key=lambda pair: -abs(pair[0].drop)):
        long = 6.8 * min(len(w.name), 26)
        right = 9 + wide * 100 * max((w.saving_high or w.saving) - w.saving, 0)
        left = 9 + wide * 100 * max(w.saving - (w.saving_low or w.saving), 0)
        for dx, dy in ((right, 0), (-left - long, 0), (8, 14), (8, -14), (-8 - long, 14), (-8 - long, -14)):
            box = (x + dx, y + dy - 8, x + dx + long, y + dy + 8)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= 388
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                figure.add_annotation(
                    x=100 * w.saving, y=100 * w.drop, text=short(w.name, 26), showarrow=False, yshift=dy,
                    font={"size": 12, "color": FAINT}, xanchor="left" if dx > 0 else "right",
                    xshift=dx if dx > 0 else dx + long,
                )  # fmt: skip
                break


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
