"""What the pictures of plans and of changes hold: so much that it can be read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("plotly")

from llm_moments.improve.improvement import front as best_of
from llm_moments.render import charts
from llm_moments.render.worth_charts import LARGEST, NAMED, choices, largest, worth
from llm_moments.weigh.worth import Worth
from tests.test_html import CERTIFICATE, HOSTILE, STUDY


def change(name: str, saving: float, drop: float, within: float = 0.01) -> Worth:
    return Worth(name, "forward", {}, "free", saving, saving - 0.02, saving + 0.02, drop, drop - within, drop + within)


WORTHS = [change(f"change {n} <b>", 0.05 * n, 0.001 * n) for n in range(12)]


def test_the_largest_effects_are_savings_and_costs_that_are_certain() -> None:
    dear, noise = change("dear", 0.0, 0.3), change("noise", 0.0, 0.2, within=0.5)
    assert [w.name for w in largest([*WORTHS, dear, noise], 3)] == ["change 11 <b>", "dear", "change 10 <b>"]
    assert largest([Worth("none", "forward", {}, "unavailable")]) == []
    assert choices([]) is None
    assert largest([change("nothing", 0.0, 0.0)])


def test_five_choices_are_drawn_with_their_whole_figures() -> None:
    figure = choices([*WORTHS, Worth("none", "forward", {}, "unavailable")])
    assert [len(bars.x) for bars in figure.data] == [LARGEST, LARGEST]
    assert figure.data[0].x[0] == pytest.approx(55)
    assert "change 11" in figure.data[0].hovertext[0]
    assert "53 to 57" in figure.data[0].hovertext[0]
    assert "<b>" not in "".join(a.text for a in figure.layout.annotations)


def boxes(figure: Any) -> list[tuple[float, float, float, float]]:
    """Where the names stand in a picture as wide as that of a narrow page, in pixels."""
    (x0, x1), (y0, y1) = figure.layout.xaxis.range, figure.layout.yaxis.range
    found = []
    for a in [a for a in figure.layout.annotations if a.xshift]:
        x, y = 740 * (a.x - x0) / (x1 - x0) + a.xshift, 388 * (a.y - y0) / (y1 - y0) + (a.yshift or 0)
        left = x if a.xanchor == "left" else x - 6.6 * len(a.text)
        found.append((left, y - 8, left + 6.6 * len(a.text), y + 8))
    return found


def test_names_in_the_picture_of_changes_do_not_overlap() -> None:
    close = [change(f"cut at {n} tokens", 0.5 + n / 1000, 0.01 + n / 10000) for n in range(12)]
    figure = worth([*WORTHS, *close])
    placed = boxes(figure)
    assert 2 < len(placed) <= NAMED
    for at, one in enumerate(placed):
        assert one[0] >= 0
        assert one[2] <= 741
        for other in placed[:at]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    drawn = [trace for trace in figure.data if trace.error_x.array is not None]
    assert sum(len(trace.x) for trace in drawn) == NAMED
    assert (
        sum(len(trace.x) for trace in figure.data if trace.text is not None) == 24
    )  # all are there, and tell themselves


def test_of_all_plans_only_those_that_no_other_beats_have_intervals() -> None:
    trials = [
        replace(STUDY[0], key=f"k{n}", plan={"n": n}, gain=1.0 + n, gain_low=0.9 + n, gain_high=1.1 + n,
                drop=(n % 7) / 500, drop_low=0.0, drop_high=0.02)
        for n in range(60)
    ]  # fmt: skip
    trials.append(replace(trials[0], key="lost", plan={"n": "lost"}, gain=90.0, drop=0.9))
    chosen = replace(CERTIFICATE, plan={"n": 20})
    figure = charts.front(trials, chosen)
    drawn = {x for trace in figure.data if trace.error_y.array is not None for x in trace.x}
    assert drawn == {t.gain for t in best_of(trials) if t.key != "lost"} | {21.0}
    told = [text for trace in figure.data if trace.text is not None for text in trace.text]
    assert len(told) == 61
    assert all(" to " in text for text in told)
    legend = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert len(legend) == len(set(legend))
    assert max(trace.y[0] for trace in figure.data if trace.mode == "markers") <= figure.layout.yaxis.range[1]


@pytest.mark.parametrize(("gains", "ticks"), [((1, 30), "1× 2× 5× 10× 20×"), ((1, 5000), "1× 10× 100× 1000×")])
def test_a_wide_axis_has_few_round_ticks(gains: tuple[float, float], ticks: str) -> None:
    trials = [replace(STUDY[0], key=str(gain), gain=gain) for gain in gains]
    axis = charts.front(trials, None).layout.xaxis
    assert axis.type == "log"
    assert " ".join(axis.ticktext) == ticks
    assert all(math.log10(t) <= axis.range[1] for t in axis.tickvals)


def test_nothing_from_outside_is_markup_in_a_picture() -> None:
    figure = choices([change(HOSTILE, 0.5, 0.0)])
    assert "<script>" not in str(figure.to_plotly_json())
