"""The baseline's answers from a float graph: the same, or asked of the baseline itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.evaluate import stand_in as baseline
from llm_moments.evaluate.stand_in import StandIn
from tests.fakes import logits, make_texts


@pytest.fixture
def pipe(trained_model: Path) -> lm.Pipeline:
    return lm.load(trained_model)


def test_a_float_graph_that_equals_the_baseline_answers_in_its_place(pipe: lm.Pipeline) -> None:
    rows = make_texts(60, seed=5)
    by = baseline.stand_in(pipe, rows, pipe.outputs(rows), base_cost=10.0)
    assert by.engine in ("openvino", "onnxruntime")
    assert 0 < by.apart < 1e-4
    assert by.held == 60
    values = make_texts(90, seed=6)
    outputs, asked = baseline.settled(pipe, by, baseline.on(pipe, by.engine).outputs(values), values)
    expected = pipe.outputs(values)
    assert pipe.task.argmax_equal(outputs, expected).all()
    assert np.abs(np.asarray(outputs) - np.asarray(expected)).max() <= 2 * by.apart + 1e-6
    assert asked < 10
    assert f"{asked} rows" in by.words(asked, 90)


def test_rows_that_rounding_could_turn_are_asked_of_the_baseline(pipe: lm.Pipeline) -> None:
    values = make_texts(40, seed=7)
    expected = pipe.outputs(values)
    margins = pipe.task.margins(expected)
    by = StandIn("openvino", apart=float(np.sort(margins)[5]) / baseline.ROOM, held=60, cost=0.1)
    wrong = logits(-expected["logits"])  # of another mind everywhere: only rows with a small margin may be mended
    outputs, asked = baseline.settled(pipe, by, wrong, values)
    mended = np.isclose(outputs, expected, atol=1e-5).all(axis=1)
    assert mended.sum() == asked == (pipe.task.margins(wrong) < baseline.ROOM * by.apart).sum()
    outputs, asked = baseline.settled(pipe, by, logits(np.full_like(expected["logits"], np.nan)), values)
    assert asked == 40
    assert np.allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize(
    "why", ["few rows", "another answer", "too many near", "slower", "a cascade", "bf16", "no engine"]
)
def test_where_nothing_is_proved_equal_the_baseline_answers_itself(
    pipe: lm.Pipeline, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, cost = make_texts(60, seed=5), 10.0
    if why == "few rows":
        rows = rows[:10]
    elif why == "slower":
        cost = 1e-9
    elif why == "bf16":
        pipe = pipe.with_(**{"forward.precision": "bf16"})
    elif why == "a cascade":
        pipe = pipe.with_(
            lm.Plan({**pipe.plan.to_dict(), "cascade": {"threshold": 1.0, "cheap": {"truncate.max_length": 8}}})
        )
    elif why == "too many near":
        monkeypatch.setattr(baseline, "ROOM", 1e9)
    elif why == "no engine":
        monkeypatch.setattr(baseline, "available", lambda: ["torch"])
    else:
        monkeypatch.setattr(baseline, "on", lambda pipe, engine: pipe.with_(**{"truncate.max_length": 4}))
    by = baseline.stand_in(pipe, rows, pipe.outputs(rows), cost)
    assert by == StandIn(cost=cost)
    assert by.words(0, 60) == ""


def test_a_changed_plan_is_answered_by_the_graph_where_it_computes_the_same(pipe: lm.Pipeline) -> None:
    by = StandIn("openvino", 1e-6, 40, 0.01)
    shorter = pipe.with_(**{"truncate.max_length": 6})
    assert baseline.judges(pipe, by, shorter)
    for choice in ({"forward.skip_layers": [0]}, {"forward.precision": "bf16"}, {"forward.bf16_layers": ["head"]}):
        assert not baseline.judges(pipe, by, pipe.with_(**choice))
    assert not baseline.judges(pipe, StandIn(), shorter)
    values = make_texts(30, seed=9)
    ours, real = baseline.answers(pipe, by, shorter, values), shorter.outputs(values)
    assert pipe.task.argmax_equal(ours, real).all()
    assert np.abs(ours["logits"] - real["logits"]).max() < 1e-3
    assert (ours["logits"] != pipe.outputs(values)["logits"]).any()
