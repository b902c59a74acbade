"""When a search has a narrower student, or one for int8, be taught: on trials whose costs and answers are given."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.core import Pipeline
from llm_moments.data.readers import read
from llm_moments.evaluate.evaluation import split
from llm_moments.improve.heal import STUDENTS, Healer
from llm_moments.improve.search import Search
from llm_moments.improve.strategies import ladder as stages
from llm_moments.improve.study import Study, Trial
from llm_moments.train.problems import imitation
from tests.fakes import logits, make_texts

Asked = list[tuple[str, int]]


class Given:
    """A search whose trials are made up: cost in seconds, and answers that are the original's or all of one class."""

    def __init__(self, model: Path, data: Path, made: str = ""):
        pipe = load(model)
        self.search = Search(
            pipe, split(pipe, list(read(data)))["search"], Study(None, {}), max_drop=0.02, n_certify=400,
            objective="throughput", deadline=time.monotonic() + 1000, tick=lambda done, said: None,
        )  # fmt: skip
        self.search.answer_as_stock()
        self.asked: Asked = []
        self.search.heal = self._heal
        self.made = made

    def _heal(self, teacher: Pipeline, length: int, seconds: float, student: str) -> str:
        assert student in STUDENTS
        self.asked.append((student, length))
        return self.made

    def trial(self, cost: float, good: bool, precision: str = "fp32", length: int = 64, **more: Any) -> Trial:
        plan = self.search.plan_of("onnxruntime" if precision == "int8" else "torch", precision, length, **more)
        wrong = logits(np.eye(3, dtype=np.float32)[np.zeros(len(self.search.part), int)])
        outputs = self.search.baseline if good else wrong
        made = Trial(
            plan.to_dict(), plan.key, "given", n=len(self.search.part), seconds=cost, cost=cost, score=float(good)
        )
        return self.search.study.add(made, outputs)


@pytest.fixture
def given(trained_model: Path, toy_csv: Path) -> Given:
    return Given(trained_model, toy_csv)


def test_all_layers_are_narrowed_where_half_of_them_are_not_good(given: Given) -> None:
    given.trial(1e-6, True)
    given.trial(5e-7, False, **{"forward.weights": "healed-half"})
    stages.narrow(given.search)
    assert given.asked == [("narrow", 64)]


def test_half_the_layers_are_narrowed_where_these_are_good(given: Given) -> None:
    given.trial(1e-6, True)
    given.trial(5e-7, True, **{"forward.weights": "healed-half"})
    stages.narrow(given.search)
    assert given.asked == [("quarter", 64)]


def test_nothing_is_narrowed_that_could_hardly_be_faster(given: Given) -> None:
    given.trial(1e-6, True)
    given.trial(3e-7, True, **{"forward.weights": "healed-one"})
    stages.narrow(given.search)
    assert given.asked == []


def test_nothing_is_narrowed_in_less_time_than_the_others_had(given: Given) -> None:
    given.trial(1e-6, True)
    given.search.study.note("heal", {"seconds": 900.0, "examples": 10, "students": {"one": 900.0}})
    stages.narrow(given.search)
    assert given.asked == []


@pytest.mark.parametrize(
    ("cost", "good", "length", "asked"),
    [
        (5e-7, False, 64, [("int8", 64)]),
        (5e-7, True, 64, []),  # int8 costs nothing
        (9e-7, False, 64, []),  # int8 is not much faster
        (5e-7, False, 32, []),  # in float that length is no good, either
    ],
)
def test_int8_is_learnt_where_it_was_fast_and_lost(
    given: Given, cost: float, good: bool, length: int, asked: Asked
) -> None:
    given.trial(1e-6, True)
    given.trial(8e-7, False, length=32)
    given.trial(cost, good, "int8", length)
    if good:  # a good plan that is faster still is not to be repaired
        assert given.search.good()[0].cost == cost
    stages.heal_int8(given.search)
    assert given.asked == asked


def test_without_a_healer_nothing_is_done(given: Given) -> None:
    given.trial(1e-6, True)
    given.search.heal = None
    count = len(given.search.study.trials)
    stages.narrow(given.search)
    stages.heal_int8(given.search)
    assert len(given.search.study.trials) == count


def test_the_healer_makes_each_of_them(trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "MOST_EPOCHS", 1)
    pipe, study = load(trained_model), Study(None, {})
    study.note("stock_cost", {"stock": 1e-3, "sorted": 1e-3})
    healer = Healer(pipe, study, make_texts(40), tmp_path, lambda done, said: None)
    for student in ("narrow", "quarter", "int8"):
        name = healer(pipe, 32, 6.0, student)
        assert name == f"healed-{student}"
        assert pipe.with_(**{"forward.weights": name}).outputs(["a good film"])["logits"].shape == (1, 3)
    assert pipe.engines.variants["healed-int8"].notes["quantize"] == "int8"


@pytest.mark.parametrize("left_out", [["forward"], ["truncate"], ["batch", "forward", "truncate"]])
def test_a_plan_that_leaves_sections_out_is_searched_as_what_it_means(left_out: list[str], tiny_model: Path) -> None:
    """`--plan FILE` may name one table only; who changes plans must know what the others are."""
    whole = load(tiny_model)
    plan = whole.plan
    for step in left_out:
        plan = plan.without(step)
    pipe = load(tiny_model, plan=plan)
    settled = pipe.settled()
    assert settled.plan.settings("forward") == whole.plan.settings("forward")
    assert settled.plan.get_choice("truncate.max_length") == whole.plan.get_choice("truncate.max_length")
    assert settled.settled() is settled
    np.testing.assert_array_equal(settled.outputs(["a good film"]), pipe.outputs(["a good film"]))
    assert [c.name for c in settled.task.inputs(settled, make_texts(4))] == [
        c.name for c in whole.task.inputs(whole, make_texts(4))
    ]
