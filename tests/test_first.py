"""A linear model in front of another: made within a search, a cascade's cheap stage, kept in an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.core import Example
from llm_moments.errors import InputError
from llm_moments.evaluation import Evaluation, evaluation, split
from llm_moments.improve import first, stages
from llm_moments.improve.improve import improve
from llm_moments.improve.study import Study
from llm_moments.model import load
from llm_moments.train.train import train
from llm_moments.weigh.weigh import weigh
from tests.fakes import label_of, make_model, make_texts


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


def made(model: Path, folder: Path, examples: list[Example]) -> Any:
    """The pipeline, its parts and the name of the weights."""
    pipe = load(model)
    parts = split(pipe, examples, heal=True)
    study = Study(folder, {})
    maker = first.First(
        pipe, study, parts["heal"], [parts["search"], parts["certify"]], folder, lambda done, said: None
    )
    return pipe, parts, maker, study


@pytest.mark.parametrize("with_labels", [True, False])
def test_it_learns_from_no_example_that_is_judged_and_knows_every_label(
    trained_model: Path, tmp_path: Path, with_labels: bool
) -> None:
    examples = labelled(300)
    examples += [Example(e.input.upper(), e.reference) for e in examples[:50]]
    if not with_labels:
        examples = [Example(e.input) for e in examples]
    pipe, parts, maker, study = made(trained_model, tmp_path / "study", examples)
    judged = {value.lower() for name in ("search", "certify") for value in parts[name].values}
    assert not judged & {value.lower() for value in maker.taught.values}
    assert 0 < len(maker.taught) == len(parts["heal"])  # what is near-equal is in one split
    assert maker(pipe) == "linear"
    assert study.notes["first"]["examples"] == len(maker.taught)
    assert pipe.engines.variants["linear"].labels == pipe.model.labels
    again = made(trained_model, tmp_path / "study", examples)[2]
    assert "linear" in again.pipe.engines.variants  # the study is gone on with: it is there already


def test_a_cascade_with_it_answers_as_its_stages_do_and_survives_saving(trained_model: Path, tmp_path: Path) -> None:
    pipe, parts, maker, _ = made(trained_model, tmp_path / "study", labelled(900))
    maker(pipe)
    texts = make_texts(80, seed=9)
    cheap = pipe.with_(**{"forward.weights": "linear"})
    assert [step.name for step in cheap.steps] == ["vectorize", "batch", "forward"]
    low, high = cheap.outputs(texts), pipe.outputs(texts)
    sure = pipe.task.margins(low, pipe.model)
    threshold = float(np.median(sure))
    both = pipe.with_(**{"cascade.cheap": {"forward.weights": "linear"}, "cascade.threshold": threshold})
    expected = np.where((sure < threshold)[:, None], high, low)
    np.testing.assert_allclose(both.outputs(texts), expected, atol=1e-4)
    both.save(tmp_path / "artefact")
    np.testing.assert_allclose(load(tmp_path / "artefact").outputs(texts), expected, atol=1e-4)
    session = lm.record(load(tmp_path / "artefact"), texts)
    assert [s.name for s in session.root.find("cascade").children] == ["vectorize", "batch", "forward"]
    assert "tokenize" in [s.name for s in session.root.children]


def test_a_search_offers_it_to_the_cascades(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "STAGES", (stages.first, stages.cascades))
    done = improve(
        trained_model, labelled(1200, seed=4), max_drop=0.1, budget="120s", out=tmp_path / "out", first="linear"
    )
    tried = [t for t in done.study if t.stage == "put first"]
    assert tried[0].status == "ok"
    cascades = [t for t in done.study if "cascade" in t.plan]
    assert all(t.plan["cascade"]["cheap"]["forward.weights"] == "linear" for t in cascades)
    assert (tmp_path / "out" / "study" / "weights" / "linear" / "config.json").exists()
    texts = make_texts(30)
    np.testing.assert_allclose(load(tmp_path / "out").outputs(texts), done.pipeline.outputs(texts), atol=1e-4)


def test_where_nothing_can_be_put_first_it_is_said(tiny_model: Path, tmp_path: Path) -> None:
    number = make_model(tmp_path / "number", labels=["LABEL_0"], problem_type="regression")
    plain = train("linear", labelled(40), tmp_path / "linear", epochs=1).folder
    for model, wanted in ((tiny_model, "quadratic"), (number, "linear"), (plain, "linear")):
        with pytest.raises(InputError):
            improve(model, labelled(50), first=wanted, budget="5s")


def test_a_part_without_words_is_no_reason_to_stop(tiny_model: Path, tmp_path: Path) -> None:
    pipe = load(tiny_model)
    part = Evaluation(pipe, ["!!!", "???"], [0, 1])
    maker = first.First(pipe, Study(None, {}), part, [], None, lambda done, said: None)
    assert maker(pipe) == ""
    assert "no text" in maker.study.notes["first"]


# ---------------------------------------------------------------------------------- a linear model itself


def test_a_linear_model_is_weighed_and_improved_like_any_other(tmp_path: Path) -> None:
    model = train("linear", labelled(600, seed=1), tmp_path / "linear", epochs=4, learning_rate=0.1).folder
    worths = weigh(model, labelled(120, seed=2))
    names = [w.name for w in worths]
    assert {"the first 16 words", "single words only"} <= set(names)
    assert all("torch fp32 only" in w.reason for w in worths if w.name.startswith("onnxruntime"))
    done = improve(model, labelled(1500, seed=3), max_drop=0.2, budget="60s", out=tmp_path / "out")
    assert {t.stage for t in done.study} >= {"lossy", "lossless"}
    pipe = load(tmp_path / "out")
    assert evaluation(pipe, labelled(20)).labelled
    assert pipe("good good good").label in ("neg", "neutral", "pos")
