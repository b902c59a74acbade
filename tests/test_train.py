from __future__ import annotations

from pathlib import Path

import pytest

from llm_moments.core import Example
from llm_moments.errors import DataError, InputError, MomentsError, OutputExists
from llm_moments.model import load
from llm_moments.train.train import train
from tests.fakes import label_of, make_texts


def test_it_learns_the_toy_task(trained_model: Path) -> None:
    texts = make_texts(200, seed=5)
    right = [a.label == label_of(t) for a, t in zip(load(trained_model).run(texts), texts, strict=True)]
    assert sum(right) / len(right) > 0.85
    assert load(trained_model).model.trained_length == 48


def test_the_same_seed_gives_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    data = [Example(t, label_of(t)) for t in make_texts(64)]
    one, two = (train(tiny_model, data, tmp_path / name, epochs=1) for name in "ab")
    assert load(one).model.digest == load(two).model.digest


@pytest.mark.parametrize(
    ("references", "problem"),
    [
        ([0.5, 1.25], "regression"),
        ([["a", "b"], ["a"]], "multi_label_classification"),
        ([0, 1], "single_label_classification"),
    ],
)
def test_problem_types(tiny_model: Path, tmp_path: Path, references: list, problem: str) -> None:
    data = [Example(t, references[i % 2]) for i, t in enumerate(make_texts(16))]
    pipe = load(train(tiny_model, data, tmp_path / "m", epochs=1, evaluate=data))
    assert pipe.model.problem_type == problem
    assert "score" in pipe.model.notes["evaluation"]


def test_bad_data_and_settings_are_named(tiny_model: Path, tmp_path: Path) -> None:
    texts = make_texts(8)
    with pytest.raises(DataError, match="one class only"):
        train(tiny_model, [Example(t, "x") for t in texts], tmp_path / "m")
    with pytest.raises(DataError, match="row 2: no label"):
        train(tiny_model, [Example(texts[0], "x"), Example(texts[1])], tmp_path / "m")
    good = [Example(t, i % 2) for i, t in enumerate(texts)]
    for wrong in ({"learning_rate": float("nan")}, {"epochs": 0}, {"learning_rate": 0}):
        with pytest.raises(InputError):
            train(tiny_model, good, tmp_path / "m", **wrong)
    (tmp_path / "m").mkdir()
    with pytest.raises(OutputExists):
        train(tiny_model, good, tmp_path / "m")


def test_a_loss_that_explodes_saves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_moments.train import train as module

    monkeypatch.setattr(module._Loop, "loss", lambda self, logits, targets: logits.sum() * float("nan"))
    with pytest.raises(MomentsError, match="loss became nan"):
        train(tiny_model, [Example(t, i % 2) for i, t in enumerate(make_texts(8))], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_whole_numbers_read_as_floats_are_the_labels_they_were() -> None:
    from llm_moments.train.train import _labels

    assert _labels([1.0, 2.0, 1.0, 10.0], "here") == (["1", "2", "10"], "single_label_classification")
    assert _labels([1.5, 2.0], "here") == (["LABEL_0"], "regression")
