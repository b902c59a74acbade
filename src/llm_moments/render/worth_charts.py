"""Pictures of what changes save and lose: the largest so that they can be read, the rest as points and in the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_moments.render.charts import FAINT, GREY, INK, VERDICTS, bars, new_figure, short, side_labels
from llm_moments.render.text import number, percent

LARGEST = 5  # choices that are drawn with their names
NAMED = 8  # changes that have a name in the picture of all of them
WIDTH, HEIGHT = (
    740,
    388,
)  # of the picture area of a narrow page: names placed by hand stand free there and on any wider one


def choices(worths: Any) -> Any:
    """The choices with the largest effects, the largest first: the time that each saves, the score that it costs."""
    from plotly.subplots import make_subplots

    known = largest(worths)
    if not known:
        return None
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, figure=new_figure(120 + 44 * len(known))
    )
    colours = [VERDICTS.get(w.verdict, (GREY, ""))[0] for w in known]
    said = [hover(w) for w in known]
    for column, (name, factor) in enumerate((("saving", 100), ("drop", 100)), 1):
        figure.add_bar(
            x=[factor * getattr(w, name) for w in known], y=list(range(len(known))), orientation="h", row=1, col=column,
            marker_color=colours, hovertext=said, hoverinfo="text",
            error_x={**bars(known, name, f"{name}_low", f"{name}_high", INK, factor), "width": 4},
        )  # fmt: skip
    names = [w.name for w in known]
    side_labels(figure, names, [0] * len(names), most=44)
    figure.update_layout(annotations=[{**one.to_plotly_json(), "yshift": 8} for one in figure.layout.annotations])
    for at, w in enumerate(known):  # colour alone would not tell everyone
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", xshift=4 - figure.layout.margin.l, y=at, yref="y", yshift=-9, text=short(w.verdict),
            showarrow=False, font={"color": FAINT, "size": 12},
        )  # fmt: skip
    axis = {"gridcolor": "#edf0f3", "linecolor": "#c9d0d8", "zeroline": True, "zerolinecolor": "#9aa5b1", "ticks": ""}
    for column, (name, title) in enumerate((("saving", "time saved, %"), ("drop", "points of score lost")), 1):
        span = _span([_ends(w, name) for w in known])
        figure.update_xaxes(
            title={"text": title, "font": {"size": 13, "color": FAINT}}, range=span, nticks=6, row=1, col=column, **axis
        )
    figure.update_layout(margin={"t": 10}, bargap=0.45)
    return figure


def largest(worths: Any, most: int = LARGEST) -> list[Any]:
    """By what they save or cost, as a share of the greatest saving and of the greatest cost; a cost counts where it is
    certain not to be none."""
    known = [w for w in worths if w.saving is not None and w.drop is not None]
    saved = max((abs(w.saving) for w in known), default=0.0) or 1.0
    lost = max((abs(w.drop) for w in known if _certain(w)), default=0.0) or 1.0
    order = sorted(known, key=lambda w: -max(abs(w.saving) / saved, abs(w.drop) / lost if _certain(w) else 0.0))
    return order[:most]


def _certain(worth: Any) -> bool:
    return (worth.drop_low or 0.0) > 0 or (worth.drop_high or 0.0) < 0


def hover(worth: Any) -> str:
    return (
        f"{short(worth.name, 90)}<br>saves {number(percent(worth.saving), '.0f')}% "
        f"({number(percent(worth.saving_low), '.0f')} to {number(percent(worth.saving_high), '.0f')}), loses "
        f"{number(percent(worth.drop), '+.2f')} points ({number(percent(worth.drop_low), '+.2f')} to "
        f"{number(percent(worth.drop_high), '+.2f')})<br>{short(worth.verdict, 90)}"
    )


def worth(worths: Any) -> Any:
    """What each change saves against what it loses, by verdict. Names and intervals are those of the largest effects;
    the hover tells all."""
    known = [w for w in worths if w.saving is not None and w.drop is not None]
    if not known:
        return None
    figure, named = new_figure(470), largest(known, NAMED)
    figure.update_layout(showlegend=True)
    for verdict, (colour, symbol) in VERDICTS.items():
        some = [w for w in known if w.verdict == verdict]
        for w in [w for w in some if any(w is one for one in named)]:
            figure.add_scatter(
                x=[100 * w.saving], y=[100 * w.drop], mode="markers", hoverinfo="skip", showlegend=False,
                legendgroup=verdict, marker={"size": 1, "color": colour},
                error_y=bars([w], "drop", "drop_low", "drop_high", colour, 100),
                error_x=bars([w], "saving", "saving_low", "saving_high", colour, 100),
            )  # fmt: skip
        if some:
            figure.add_scatter(
                x=[100 * w.saving for w in some], y=[100 * w.drop for w in some], mode="markers", name=verdict,
                legendgroup=verdict, text=[hover(w) for w in some], hovertemplate="%{text}<extra></extra>",
                marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "white"},
                        "opacity": [1.0 if any(w is one for one in named) else 0.6 for w in some]},
            )  # fmt: skip
    xs = _span([_ends(w, "saving") if any(w is n for n in named) else (100 * w.saving,) for w in known])
    ys = _span([_ends(w, "drop") if any(w is n for n in named) else (100 * w.drop,) for w in known])
    _names(figure, known, named, xs, ys)
    figure.add_hline(y=0, line={"color": "#9aa5b1", "width": 1})
    figure.update_xaxes(title_text="time saved, % of the baseline", range=xs)
    figure.update_yaxes(title_text="points of score lost (95% bounds of the largest)", range=ys)
    return figure


def _ends(worth: Any, name: str) -> tuple[float | None, ...]:
    return tuple(percent(getattr(worth, name + end)) for end in ("", "_low", "_high"))


def _span(points: Sequence[tuple[float | None, ...]]) -> list[float]:
    every = [value for point in points for value in point if value is not None] + [0.0]
    low, high = min(every), max(every)
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def _names(figure: Any, known: Sequence[Any], named: Sequence[Any], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Names beside the points, those that stand free of each other, of points and of intervals."""
    wide, tall = WIDTH / (xs[1] - xs[0]), HEIGHT / (ys[1] - ys[0])

    def spot(saving: float | None, drop: float | None) -> tuple[float, float]:
        return wide * (100 * (saving or 0.0) - xs[0]), tall * (100 * (drop or 0.0) - ys[0])

    points = [spot(w.saving, w.drop) for w in known]
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    for w in named:
        (x, y), (left, low), (right, high) = (
            spot(*(getattr(w, f"{name}{end}") for name in ("saving", "drop"))) for end in ("", "_low", "_high")
        )
        taken += [(left, y - 1, right, y + 1)] if w.saving_low is not None else []
        taken += [(x - 1, low, x + 1, high)] if w.drop_low is not None else []
    for w in named:
        x, y = spot(w.saving, w.drop)
        text = short(w.name, 34)
        for dx, dy, box in _places(x, y, 6.6 * min(len(w.name), 34)):
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                figure.add_annotation(
                    x=100 * w.saving, y=100 * w.drop, text=text, showarrow=False, xshift=dx, yshift=dy,
                    font={"size": 12, "color": INK}, xanchor="left" if dx > 0 else "right",
                )  # fmt: skip
                break


def _places(x: float, y: float, long: float) -> Iterator[tuple[float, float, Box]]:
    """(shift to the side, shift up, the box that the name takes), near places first."""
    for up in (12, -12, 26, -26, 42, -42, 60, -60):
        for side in (9, -9):
            left = x + side - (long if side < 0 else 0)
            yield side, up, (left, y + up - 8, left + long, y + up + 8)


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
