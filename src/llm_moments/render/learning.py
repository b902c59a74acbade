"""What `tune --weigh` has found, as a table on a terminal, in the report, and as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_moments.render.text import interval, label, number, percent, value

BLOCK_HEADS = ("parameters", "gradient norm", "update |Δw|/|w|", "Fisher a parameter")
CURVE_HEADS = ("examples", "score", "of the seeds", "seeds")
SHORT = ("rows", "of_rows", "epochs", "updates", "n", "seeds")


def show(result: Any, console: Any) -> None:
    from llm_moments.render.console import safe, say, show_worths, table_of

    table = table_of("each block along the run", ("block",), BLOCK_HEADS)
    for row in block_rows(result):
        table.add_row(*map(safe, row))
    console.print(table)
    show_worths(result.worths, console)
    table = table_of("learning curve", (), CURVE_HEADS)
    for row in curve_rows(result):
        table.add_row(*map(safe, row))
    console.print(table)
    say(console, result.curve.words())
    say(console, words(result.about))


def words(about: Any) -> str:
    """What the figures are true of."""
    return (
        f"Each figure is of trainings on {about['rows']:,} of {about['of_rows']:,} examples, {about['epochs']} epoch(s), "
        f"{about['updates']:,} updates, {about['seeds']} seeds, judged by {about['n']:,} examples; a drop below 0 is a gain. "
        "Savings are of an update's time. 95% bounds, each on its own side. What is unclear would take longer runs, more seeds "
        "or more examples to tell (--budget, --seeds, --eval)."
    )


def block_rows(result: Any) -> list[tuple[str, ...]]:
    return [
        (b.name, f"{b.parameters:,}", number(b.norm, ".3g"), number(b.ratio, ".2e"), number(b.fisher, ".2e"))
        for b in result.blocks
    ]


def curve_rows(result: Any) -> list[tuple[str, ...]]:
    return [
        (f"{p.rows:,}", number(p.score, ".4f"), interval(p.least, p.most, ".4f"), str(p.seeds))
        for p in result.curve.points
    ]


def fragment(result: Any) -> str:
    """Tables without a picture, for a notebook."""
    from llm_moments.render.notebook import html_table, notes_html, worths_html

    return (
        html_table(("block", *BLOCK_HEADS), block_rows(result)) + worths_html(result.worths)
        + html_table(CURVE_HEADS, curve_rows(result)) + notes_html([result.curve.words(), words(result.about)])
    )  # fmt: skip


def sections(result: Any, draw: Any) -> list[tuple[str, str]]:
    """(heading, inner HTML) for the report; draw: turns a chart of this result into HTML, or nothing."""
    from llm_moments.render.notebook import html_table, notes_html, worths_html

    facts = html_table(("", ""), [(label(k), value(v)) for k, v in result.about.items()])
    wide = '<div class="wide">{}</div>'.format
    return [
        (
            "What more data would bring",
            draw(curve_picture, result) + notes_html([result.curve.words()]) + html_table(CURVE_HEADS, curve_rows(result)),
        ),
        (
            "What each change of the training costs",
            draw(changes_picture, result) + wide(worths_html(result.worths)) + notes_html([words(result.about)]),
        ),
        ("Each block along the run", draw(blocks_picture, result) + wide(html_table(("block", *BLOCK_HEADS), block_rows(result)))),
        ("What this is true of", f'<div class="free">{facts}</div>'),
    ]  # fmt: skip


def write_scalars(folder: str | Path, result: Any) -> None:
    """Blocks by their number, changes by their name, the curve by its amounts of data."""
    from llm_moments.render.tensorboard import Scalars

    with Scalars(Path(folder)) as writer:
        for at, b in enumerate(result.blocks):
            found = {"gradient_norm": b.norm, "update_ratio": b.ratio, "fisher": b.fisher}
            writer.scalars("blocks", at, found)
        for w in result.worths:
            writer.scalars(f"weigh-train/{w.name}", 0, {"saving": w.saving, "drop": w.drop})
        for p in result.curve.points:
            writer.scalars("learning_curve", p.rows, {"score": p.score})


# ------------------------------------------------------------------------------------------- pictures


def curve_picture(result: Any) -> Any:
    """Scores by amount of data, and what is expected of more of it."""
    from llm_moments.render import charts

    points, curve = result.curve.points, result.curve
    if len(points) < 2:
        return None
    figure = charts.new_figure(380)
    figure.update_layout(showlegend=True)
    figure.add_scatter(
        x=[p.rows for p in points], y=[p.score for p in points], mode="lines+markers", name="measured, mean of the seeds",
        line={"color": charts.BLUE, "width": 2}, marker={"size": 8},
        error_y={
            "type": "data", "symmetric": False, "thickness": 1.2, "width": 4, "color": charts.BLUE,
            "array": [p.most - p.score for p in points], "arrayminus": [p.score - p.least for p in points],
        },
        hovertemplate="%{x:,} examples: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    ticks = [p.rows for p in points]
    if curve.gain is not None:
        last = points[-1]
        far = last.rows * curve.factor
        ticks.append(far)
        figure.add_scatter(
            x=[last.rows, far], y=[last.score, last.score + curve.gain], mode="lines+markers", name="modelled (95% bounds)",
            line={"color": charts.ORANGE, "width": 2, "dash": "dot"}, marker={"size": 9, "symbol": "diamond-open"},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 6, "color": charts.ORANGE,
                "array": [0, curve.high - curve.gain], "arrayminus": [0, curve.gain - curve.low],
            },
            hovertemplate="%{x:,.0f} examples: %{y:.4f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(
        title_text="examples learnt from (log)", type="log", tickvals=ticks, ticktext=[f"{t:,.0f}" for t in ticks]
    )
    figure.update_yaxes(title_text=charts.short(result.about.get("metric", "score")))
    return figure


def changes_picture(result: Any) -> Any:
    """Drop of each change as a bar, with its bounds; what helps is to the left of nothing."""
    from llm_moments.render import charts

    known = [w for w in result.worths if w.drop is not None]
    if not known:
        return None
    figure = charts.new_figure(90 + 28 * len(known))
    figure.add_bar(
        x=[100 * w.drop for w in known], y=list(range(len(known))), orientation="h",
        marker_color=[charts.VERDICTS.get(w.verdict, (charts.GREY, ""))[0] for w in known],
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.2, "width": 4, "color": charts.INK,
            "array": [100 * (w.drop_high - w.drop) for w in known], "arrayminus": [100 * (w.drop - w.drop_low) for w in known],
        },
        hovertext=[f"{charts.short(w.name, 90)}: {100 * w.drop:+.2f} points, saves {number(percent(w.saving), '.0f')}%, {charts.short(w.verdict)}" for w in known],
        hoverinfo="text",
    )  # fmt: skip
    names = [f"{w.name} (saves {number(w.saving, '.0%')})" for w in known]
    charts.side_labels(figure, names, [0] * len(known))
    figure.add_vline(x=0, line={"color": charts.LINE})
    figure.update_xaxes(title_text=f"points of {charts.short(result.about.get('metric', 'score'))} lost (95% bounds)")
    figure.update_layout(margin={"t": 6})
    return figure


def blocks_picture(result: Any) -> Any:
    """Gradient norm, update ratio and Fisher information of each block, side by side, each on its own scale."""
    from plotly.subplots import make_subplots

    from llm_moments.render import charts

    known = [b for b in result.blocks if b.norm is not None]
    if not known:
        return None
    figure = charts.new_figure(90 + 26 * len(known))
    kinds = (
        ("gradient norm", "norm", charts.BLUE),
        ("|Δw| / |w|", "ratio", charts.GREEN),
        ("Fisher", "fisher", charts.ORANGE),
    )
    grid = make_subplots(rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.04, figure=figure)
    for column, (head, name, colour) in enumerate(kinds, 1):
        values = [getattr(b, name) for b in known]
        grid.add_bar(
            x=values, y=[charts.short(b.name) for b in known], orientation="h", marker_color=colour, row=1, col=column,
            text=[f"{v:.2g}" for v in values], textposition="outside", cliponaxis=False, name=head,
            hovertemplate="%{y}: %{x:.3g}<extra>" + head + "</extra>",
        )  # fmt: skip
        grid.update_xaxes(
            title_text=head, showticklabels=False, range=[0, 1.25 * max(max(values), 1e-30)], row=1, col=column,
            gridcolor="#edf0f3", zeroline=False,
        )  # fmt: skip
        grid.update_yaxes(autorange="reversed", row=1, col=column, zeroline=False)
    figure.update_layout(margin={"l": 110, "t": 6}, showlegend=False)
    return grid
