"""Two plans of one model held against each other: the same figures as from two saved models, and within a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from tests.cli.command import moments
from tests.fakes import label_of, make_texts
from tests.fakes_text import make_causal


@pytest.fixture(scope="module")
def rows() -> list[lm.Example]:
    return [lm.Example(text, label_of(text), n) for n, text in enumerate(make_texts(40, seed=3))]


@pytest.fixture
def file(rows: list[lm.Example], tmp_path: Path) -> Path:
    found = tmp_path / "rows.csv"
    found.write_text("text,label\n" + "".join(f"{row.input},{row.reference}\n" for row in rows))
    return found


def test_choices_of_b_alone_are_held_against_the_model_itself(trained_model: Path, rows: list[lm.Example]) -> None:
    cut = {"truncate.max_length": 6}
    found = lm.compare(trained_model, None, rows, rounds=1, choices=({}, cut))
    saved = lm.compare(trained_model, lm.load(trained_model, plan=cut), rows, rounds=1)
    assert (found.drop, found.agreement, found.score_b) == (saved.drop, saved.agreement, saved.score_b)
    assert found.b == f"{trained_model} (truncate.max_length=6)"
    assert (found.speedup is None, found.speedup_low, found.speedup_high) == (False, None, None)  # of a single pair


def test_the_command_names_engines(trained_model: Path, file: Path) -> None:
    words = ("compare", trained_model, "--a", "forward.engine=torch", "--b", "forward.engine=onnxruntime")
    found = json.loads(moments(*words, "--data", file, "--json").stdout)
    assert found["a"].endswith("(forward.engine=torch)")
    assert found["agreement"] == 1.0
    assert found["divergence"] < 1e-5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--b forward.engine=openvino"),
        (("--b", "forward.engine=nothing"), "--b: impossible value 'nothing' for forward.engine"),
        (("--b", "forward.engin=torch"), "did you mean 'engine'"),
        (("--b", "torch"), "--b takes step.knob=value"),
        (("--b", "truncate.max_length=8", "--budget", "soon"), "a budget is a time such as 90s"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    trained_model: Path, file: Path, words: tuple[str, ...], said: str
) -> None:
    done = moments("compare", trained_model, "--data", file, *words, code=None)
    assert done.returncode not in (0, 1, 3)
    assert said in done.stderr


def test_a_budget_takes_as_many_rows_as_fit(
    trained_model: Path, rows: list[lm.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    import llm_moments.evaluate.compare as module

    monkeypatch.setattr(module, "_pace", lambda pipe, values, budget: 0.5)
    found = lm.compare(trained_model, None, rows, rounds=1, choices=({}, {"truncate.max_length": 6}), budget="20s")
    assert found.of_examples == 40
    assert 1 <= found.n <= 10  # half of the time, for the answers of both


def test_texts_of_two_plans_of_one_model(tmp_path: Path) -> None:
    pipe: Any = lm.load(make_causal(tmp_path / "lm"), plan={"decode.max_new_tokens": 4})
    found = lm.compare(pipe, None, make_texts(4, seed=1), rounds=1, choices=({}, {"forward.skip_layers": [1]}))
    assert found.kl is not None
    assert np.isfinite(found.kl)
    assert found.kl > 0
