"""Cascades of two and three stages: against asking row by row; foretold as they are; saved, recorded, bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import PlanError
from llm_moments.core import Outputs, Plan
from llm_moments.improve.cascade import foretell_three
from llm_moments.render.text import plan_in_short
from tests.fakes import logits, make_texts

LENGTHS = (6, 12, 48)  # of the stages, the first one first


def three(pipe: lm.Pipeline, low: float, high: float) -> lm.Pipeline:
    cheap = {
        "truncate.max_length": LENGTHS[1], "cascade.threshold": low, "cascade.cheap": {"truncate.max_length": LENGTHS[0]},
    }  # fmt: skip
    return pipe.with_(**{"truncate.max_length": LENGTHS[2], "cascade.threshold": high, "cascade.cheap": cheap})


@pytest.fixture(scope="module")
def alone(trained_model: Path) -> tuple[lm.Pipeline, list[str], list[np.ndarray], float, float]:
    """The pipeline, texts, what each stage answers alone, and thresholds that ask about half and a third."""
    pipe, values = lm.load(trained_model), make_texts(150, seed=8)
    outputs = [pipe.with_(**{"truncate.max_length": n}).outputs(values) for n in LENGTHS]
    margins = [pipe.task.margins(o) for o in outputs]
    return pipe, values, outputs, float(np.quantile(margins[0], 0.5)), float(np.quantile(margins[1], 0.6))


def by_row(pipe: Any, outputs: list[Outputs], low: float, high: float) -> tuple[np.ndarray, int, int]:
    """The naive reference: a row goes on while the stage before is unsure, and never after one that was sure."""
    found, second, third = [], 0, 0
    for first, middle, last in zip(*(o["logits"] for o in outputs), strict=True):
        if pipe.task.margins(logits(first[None]))[0] >= low:
            found.append(first)
        elif pipe.task.margins(logits(middle[None]))[0] >= high:
            found.append(middle)
            second += 1
        else:
            found.append(last)
            second, third = second + 1, third + 1
    return np.array(found), second, third


def test_three_stages_answer_as_row_by_row(alone: tuple) -> None:
    pipe, values, outputs, low, high = alone
    expected, second, third = by_row(pipe, outputs, low, high)
    made = three(pipe, low, high)
    assert 0 < third < second < len(values)
    assert np.allclose(made.outputs(values), expected, atol=1e-5)
    assert [one.plan["truncate"]["max_length"] for one in made.stages] == list(LENGTHS)
    # A high bar between the last two must not ask again about rows that the first stage was sure of.
    expected, second, third = by_row(pipe, outputs, low, 1e9)
    assert third == second < len(values)
    assert np.allclose(three(pipe, low, 1e9).outputs(values), expected, atol=1e-5)


def test_what_is_foretold_is_what_comes(alone: tuple) -> None:
    pipe, values, outputs, _, high = alone
    told = foretell_three(
        [("first", 1.0, outputs[0])], ("middle", "last", high), (4.0, outputs[1]), (9.0, outputs[2]),
        lambda o: pipe.task.margins(o),
    )  # fmt: skip
    for one, low in list(told)[2::5]:
        expected, second, third = by_row(pipe, outputs, low, high)
        assert np.allclose(one.outputs, expected)
        assert one.cost == pytest.approx(1.0 + 4.0 * second / len(values) + 9.0 * third / len(values))


def test_three_stages_are_saved_recorded_and_told(alone: tuple, tmp_path: Path) -> None:
    pipe, values, _, low, high = alone
    made = three(pipe, low, high)
    assert Plan.from_toml(made.plan.to_toml()) == made.plan
    made.save(tmp_path / "a")
    assert np.allclose(lm.load(tmp_path / "a").outputs(values), made.outputs(values))
    session = lm.record(made, values)
    outer = session.root.find("cascade")
    assert outer is not None
    inner = next(step for step in outer.children if step.name == "cascade")
    assert inner.counts["asked"] > outer.counts["asked"] > 0
    assert "6 tokens below margin" in plan_in_short(made.plan.to_dict())
    assert "12 tokens below margin" in plan_in_short(made.plan.to_dict())


def test_four_stages_and_half_a_stage_are_refused(alone: tuple) -> None:
    pipe, *_ = alone
    inner: dict[str, Any] = {"truncate.max_length": 4}
    for length in (6, 8):
        inner = {"truncate.max_length": length, "cascade.threshold": 1.0, "cascade.cheap": inner}
    with pytest.raises(PlanError, match="at most 3 stages"):
        pipe.with_(**{"cascade.threshold": 1.0, "cascade.cheap": inner})
    with pytest.raises(PlanError, match="needs threshold"):
        pipe.with_(**{"cascade.threshold": 1.0, "cascade.cheap": {"cascade.cheap": {"truncate.max_length": 4}}})
