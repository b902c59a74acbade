"""Classifiers side by side, held against each of them asked alone and the mean taken by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, InputError, ModelError, PlanError
from llm_moments.core import Example
from tests.cli.command import moments
from tests.fakes import make_linear, make_model, make_texts
from tests.image_fakes import make_arrays, make_image_model

LABELS = ["on", "off", "stop"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("fusion")
    make_model(room / "one", labels=LABELS)
    make_model(room / "two", labels=LABELS[::-1], seed=7)
    make_model(room / "three", labels=LABELS, seed=9)
    (room / "side.toml").write_text(
        'join = "fuse"\n' + "\n".join(f'[[stage]]\nname = "{n}"\nmodel = "{n}"\nweight = {w}\n' for n, w in (("one", 1), ("two", 2.5), ("three", 1)))
    )  # fmt: skip
    return room


@pytest.fixture(scope="module")
def pipe(room: Path) -> Any:
    return lm.load(room / "side.toml")


def by_hand(room: Path, texts: list[str], weights: dict[str, float]) -> np.ndarray:
    told = []
    for name in weights:
        alone = lm.load(room / name)
        chances = alone.task.probabilities(alone.outputs(texts))
        told.append(chances[:, [alone.model.labels.index(label) for label in LABELS]])
    return np.average(told, axis=0, weights=list(weights.values()))


def test_the_mean_of_their_probabilities_decides(pipe: Any, room: Path) -> None:
    texts = make_texts(12)
    expected = by_hand(room, texts, {"one": 1, "two": 2.5, "three": 1})
    np.testing.assert_allclose(pipe.task.probabilities(pipe.outputs(texts)), expected, atol=1e-5)
    assert [answer.label for answer in pipe.run(texts)] == [LABELS[at] for at in expected.argmax(1)]


def test_a_stage_may_be_left_out(pipe: Any, room: Path) -> None:
    texts = make_texts(8)
    fewer = pipe.with_(**{"fuse.stages": ["two", "three"]})
    np.testing.assert_allclose(
        fewer.task.probabilities(fewer.outputs(texts)), by_hand(room, texts, {"two": 2.5, "three": 1}), atol=1e-5
    )
    assert [c.name for c in fewer.task.changes(fewer.plan)][:2] == ["without two", "without three"]
    alone = pipe.with_(**{"fuse.stages": ["one"]})
    assert not [c for c in alone.task.changes(alone.plan) if c.kind == "fuse"]
    for wrong in ([], ["nobody"], ["one", "one"], "one"):
        with pytest.raises(PlanError, match=r"fuse\.stages"):
            pipe.with_(**{"fuse.stages": wrong}).outputs(texts)


def test_it_is_recorded_saved_and_opened_as_one(pipe: Any, tmp_path: Path) -> None:
    texts = make_texts(6)
    tree = lm.record(pipe, texts).root
    assert {"one", "two", "three", "fuse"} <= {child.name for child in tree.children}
    few = pipe.with_(**{"fuse.stages": ["one", "two"]})
    few.save(tmp_path / "artefact")
    again = lm.load(tmp_path / "artefact")
    assert (again.plan, again.task.name, again.model.weights) == (few.plan, "fusion", pipe.model.weights)
    np.testing.assert_allclose(again.outputs(texts), few.outputs(texts), atol=1e-5)
    assert len(list(again.with_(**{"fuse.stages": ["three"]}).run(texts))) == 6


def test_the_verbs_take_it(room: Path, tmp_path: Path) -> None:
    rows = "\n".join(["text,label", *(f'"{text}",{LABELS[n % 3]}' for n, text in enumerate(make_texts(40)))])
    (tmp_path / "rows.csv").write_text(rows)
    assert "one" in moments("record", room / "side.toml", "--data", tmp_path / "rows.csv", "--limit", 8).stdout
    moments("run", room / "side.toml", "--data", tmp_path / "rows.csv", "--out", tmp_path / "answers.csv")
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 41
    worth = moments(
        "weigh", room / "side.toml", "--data", tmp_path / "rows.csv", "--limit", "20", "--budget", "8s"
    ).stdout
    assert "without two" in worth


@pytest.mark.slow
def test_a_search_leaves_out_what_the_answers_do_not_need(room: Path, tmp_path: Path) -> None:
    rows = [Example(text) for text in make_texts(400, seed=3)]
    parts = {name: lm.load(room / "one") for name in ("first", "again")}  # the same twice: one of them is of no use
    done = lm.improve(lm.fusion(parts), rows, max_drop=0.1, budget=60, out=tmp_path / "out")
    assert any(trial.plan.get("fuse", {}).get("stages") for trial in done.study if trial.status == "ok")
    assert done.certificate.certified


def test_a_text_and_an_image_decide_together(tmp_path: Path) -> None:
    sees = lm.load(make_image_model(tmp_path / "sees", "vit"))
    parts = {"reads": lm.load(make_model(tmp_path / "reads", labels=sees.model.labels[::-1])), "sees": sees}
    both = lm.fusion(parts, inputs={"reads": "text", "sees": "image"})
    texts, images = make_texts(5), make_arrays(5)
    rows = [{"text": text, "image": image} for text, image in zip(texts, images, strict=True)]
    told = both.task.probabilities(both.outputs(rows))
    read = parts["reads"].task.probabilities(parts["reads"].outputs(texts))
    seen = sees.task.probabilities(sees.outputs(images))[:, ::-1]
    np.testing.assert_allclose(told, (read + seen) / 2, atol=1e-5)
    with pytest.raises(DataError, match="no 'image' in the row"):
        both.outputs([{"text": "a film"}])
    with pytest.raises(InputError, match="name the input of each stage"):
        lm.fusion(parts, inputs={"reads": "text"})


def test_a_linear_model_votes_too(room: Path, tmp_path: Path) -> None:
    make_linear(tmp_path / "words", labels=LABELS)
    parts = {"net": lm.load(room / "one"), "words": lm.load(tmp_path / "words")}
    assert len(list(lm.fusion(parts).run(make_texts(4)))) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('join = "fuse"\n[[stage]]\nname="a"\nmodel="one"\n[[stage]]\nname="b"\nmodel="other"\n', "has other labels"),
        ('join = "fuse"\n[[stage]]\nname="a"\nmodel="one"\nweight=0.0\n[[stage]]\nname="b"\nmodel="two"\n', "above 0"),
        ('[[stage]]\nname="a"\nmodel="one"\nweight=2.0\n[[stage]]\nname="b"\nmodel="two"\n', "a chain has no weight"),
        ('join = "mix"\n[[stage]]\nname="a"\nmodel="one"\n[[stage]]\nname="b"\nmodel="two"\n', "no chain of models"),
    ],
)
def test_files_that_cannot_be_are_refused(text: str, said: str, room: Path) -> None:
    make_model(room / "other", labels=["x", "y"]) if not (room / "other").exists() else None
    (room / "wrong.toml").write_text(text)
    with pytest.raises((InputError, ModelError), match=said):
        lm.load(room / "wrong.toml")
