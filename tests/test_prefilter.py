"""A linear model in front of another: made within a search, a cascade's cheap stage, kept in an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

import llm_moments as lm
from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Example
from llm_moments.engines import crossed
from llm_moments.evaluate.evaluation import Evaluation, evaluation, split
from llm_moments.improve import prefilter
from llm_moments.improve.improve import improve
from llm_moments.improve.improvement import front
from llm_moments.improve.strategies import ladder as stages
from llm_moments.improve.study import Study
from llm_moments.models.vectorizer import Vectorizer
from llm_moments.train import convex
from llm_moments.train.train import train
from llm_moments.weigh.weigh import weigh
from tests.fakes import label_of, make_model, make_texts


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


def made(model: Path, folder: Path, examples: list[Example]) -> Any:
    """The pipeline, its parts and what makes the model."""
    pipe = load(model)
    parts = split(pipe, examples)
    return pipe, parts, prefilter.First(pipe, Study(folder, {}), parts, folder, lambda done, said: None)


def learnt(pipe: Any, parts: Any, maker: prefilter.First) -> str:
    return maker(parts["search"], pipe.outputs(parts["search"].values))


@pytest.mark.parametrize("with_labels", [True, False])
def test_each_row_that_judges_is_answered_by_weights_that_have_not_seen_it(
    trained_model: Path, tmp_path: Path, with_labels: bool
) -> None:
    examples = labelled(300)
    examples += [Example(e.input.upper(), e.reference) for e in examples[:50]]
    if not with_labels:
        examples = [Example(e.input) for e in examples]
    pipe, parts, maker = made(trained_model, tmp_path / "study", examples)
    assert learnt(pipe, parts, maker) == "linear"
    many = len(parts["search"]) + (len(parts["calibrate"]) if with_labels else 0)
    assert maker.study.notes["first"]["examples"] == many
    assert pipe.engines.variants["linear"].labels == pipe.model.labels
    # By hand: all but one fold, then that fold's rows; near-equal rows are in one fold.
    search = parts["search"]
    references = search.references
    if not with_labels:
        references = pipe.task.as_references(pipe.outputs(search.values))
    values, known, folds = maker._rows(search, pipe.outputs(search.values))
    assert known[: len(search)] == list(references)
    by_unit = dict(zip(search.units.tolist(), folds.tolist(), strict=False))
    assert all(by_unit[unit] == fold for unit, fold in zip(search.units.tolist(), folds.tolist(), strict=False))
    found = pipe.with_(**{"forward.weights": "linear"}).outputs(search.values)
    vectorizer = pipe.engines.variants["linear"].vectorizer
    folds = prefilter._together(crossed.keys_of(vectorizer.rows(values)), folds)
    for fold in range(prefilter.FOLDS):
        seen = np.flatnonzero(folds != fold)
        targets = np.eye(len(pipe.model.labels))[[int(known[i]) for i in seen]]
        table = convex.table(vectorizer.rows([values[i] for i in seen]), vectorizer.size)
        weight, bias = convex.fitted(table, targets)
        rows = np.flatnonzero(folds == fold)
        expected = [dense(vectorizer, values[i]) @ weight + bias for i in rows]
        np.testing.assert_allclose(found[rows], expected, atol=1e-4)
    again = made(trained_model, tmp_path / "study", examples)[2]
    assert "linear" in again.pipe.engines.variants  # the study is gone on with: it is there already


def dense(vectorizer: Any, value: str) -> np.ndarray:
    numbers, values, _ = vectorizer.rows([value])
    row = np.zeros(vectorizer.size)
    row[numbers] = values
    return row


def test_rows_that_certify_are_answered_as_the_artefact_answers_them(trained_model: Path, tmp_path: Path) -> None:
    pipe, parts, maker = made(trained_model, tmp_path / "study", labelled(400, seed=3))
    learnt(pipe, parts, maker)
    alone = pipe.with_(**{"forward.weights": "linear"})
    alone.save(tmp_path / "artefact")
    assert not list((tmp_path / "artefact").rglob(crossed.FILE))
    kept = load(tmp_path / "artefact")
    certify, search = (parts[name].values for name in ("certify", "search"))
    np.testing.assert_allclose(kept.outputs(certify), alone.outputs(certify), atol=1e-5)
    assert np.abs(kept.outputs(search)["logits"] - alone.outputs(search)["logits"]).max() > 0.1


def test_of_several_labels_each_is_learnt_alone(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", labels=["film", "plot", "good"], problem_type="multi_label_classification")
    texts = make_texts(400, seed=8)
    examples = [Example(t, [name for name in ("film", "plot", "good") if name in t.split()]) for t in texts]
    pipe, parts, maker = made(model, tmp_path / "study", examples)
    learnt(pipe, parts, maker)
    outputs = pipe.with_(**{"forward.weights": "linear"}).outputs(parts["certify"].values)
    assert parts["certify"].scores(outputs, outputs).mean() > 0.95


def test_what_is_learnt_by_chance_is_not_believed(trained_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    examples = [Example(text, str(rng.choice(["neg", "neutral", "pos"]))) for text in make_texts(400, seed=5)]
    pipe, parts, maker = made(trained_model, tmp_path / "study", examples)
    learnt(pipe, parts, maker)
    outputs = pipe.with_(**{"forward.weights": "linear"}).outputs(parts["search"].values)
    assert parts["search"].scores(outputs, outputs).mean() < 0.45  # a third by chance; on rows it has seen it is near 1


@pytest.mark.parametrize("several", [True, False])
def test_the_weights_are_the_optimum(several: bool) -> None:
    rng = np.random.default_rng(1)
    vectorizer = Vectorizer.fit(make_texts(80, seed=2), ngrams=1)
    rows = convex.table(vectorizer.rows(make_texts(80, seed=2)), vectorizer.size)
    targets = rng.integers(0, 2, (80, 3)).astype(float) if several else np.eye(3)[rng.integers(0, 3, 80)]
    weight, bias = (
        torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in convex.fitted(rows, targets, several=several)
    )
    table = torch.tensor(np.array([dense(vectorizer, text) for text in make_texts(80, seed=2)]))
    scores, wanted = table @ weight + bias, torch.tensor(targets)
    kind = torch.nn.functional.binary_cross_entropy_with_logits if several else torch.nn.functional.cross_entropy
    loss = kind(scores, wanted, reduction="sum") / 80 + convex.RIDGE / 2 * (weight**2).sum()
    loss.backward()
    assert float(weight.grad.abs().max()) < 1e-3
    assert float(bias.grad.abs().max()) < 1e-3


def test_a_cascade_with_it_answers_as_its_stages_do_and_survives_saving(trained_model: Path, tmp_path: Path) -> None:
    pipe, parts, maker = made(trained_model, tmp_path / "study", labelled(900))
    learnt(pipe, parts, maker)
    texts = make_texts(80, seed=9)
    cheap = pipe.with_(**{"forward.weights": "linear"})
    assert [step.name for step in cheap.steps] == ["vectorize", "batch", "forward"]
    low, high = cheap.outputs(texts), pipe.outputs(texts)
    sure = pipe.task.margins(low)
    threshold = float(np.median(sure))
    both = pipe.with_(**{"cascade.cheap": {"forward.weights": "linear"}, "cascade.threshold": threshold})
    expected = low.where(sure < threshold, high)
    np.testing.assert_allclose(both.outputs(texts), expected, atol=1e-4)
    both.save(tmp_path / "artefact")
    np.testing.assert_allclose(load(tmp_path / "artefact").outputs(texts), expected, atol=1e-4)
    session = lm.record(load(tmp_path / "artefact"), texts)
    assert [s.name for s in session.root.find("cascade").children] == ["vectorize", "batch", "forward"]
    assert "tokenize" in [s.name for s in session.root.children]
    long = " ".join(texts[:6])
    for text in (texts[int(sure.argmax())], texts[int(sure.argmin())], long):
        found = lm.explain(load(tmp_path / "artefact").with_(**{"truncate.max_length": 8}), text)
        full = "the full plan answered" in found.stage
        assert bool(found.layers) == full  # a linear model has none,
        assert bool(found.unseen) == (full and len(text.split()) > 8)  # and reads what the network is not given


def test_a_search_offers_it_to_the_cascades(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "STAGES", (stages.first, stages.cascades))
    done = improve(trained_model, labelled(1200, seed=4), max_drop=0.1, budget="120s", out=tmp_path / "out")
    tried = [t for t in done.study if t.stage == "put first"]
    assert tried[0].status == "ok"
    cascades = [t for t in done.study if "cascade" in t.plan]
    assert all(t.plan["cascade"]["cheap"]["forward.weights"] == "linear" for t in cascades)
    assert (tmp_path / "out" / "study" / "weights" / "linear" / "config.json").exists()
    assert "A linear model of words" in done.first
    assert done.first in done.report()
    assert not [t for t in front(list(done.study)) if t.stage == "put first"]
    texts = make_texts(30)
    np.testing.assert_allclose(load(tmp_path / "out").outputs(texts), done.pipeline.outputs(texts), atol=1e-4)


def test_where_nothing_can_be_put_first_it_is_said(tiny_model: Path, tmp_path: Path) -> None:
    number = make_model(tmp_path / "number", labels=["LABEL_0"], problem_type="regression")
    plain = train("linear", labelled(40), tmp_path / "linear", epochs=1).folder
    for model, wanted in ((tiny_model, "quadratic"), (number, "linear"), (plain, "linear")):
        with pytest.raises(InputError):
            improve(model, labelled(50), first=wanted, budget="5s")
    with pytest.raises(InputError, match="--first"):
        improve(tiny_model, labelled(50), first="linear", objective="size", budget="5s")


def test_a_part_without_words_is_no_reason_to_stop(tiny_model: Path, tmp_path: Path) -> None:
    pipe = load(tiny_model)
    part = Evaluation(pipe, ["!!!", "???"], [0, 1])
    maker = prefilter.First(pipe, Study(None, {}), {"search": part}, None, lambda done, said: None)
    assert maker(part, pipe.outputs(part.values)) == ""
    assert "no text" in maker.study.notes["first"]


def test_words_in_another_order_are_in_one_fold_and_a_damaged_file_is_named(
    trained_model: Path, tmp_path: Path
) -> None:
    texts = make_texts(120, seed=9)
    rng = np.random.default_rng(0)
    turned = [" ".join(rng.permutation(text.split())) for text in texts]
    pipe, parts, maker = made(trained_model, tmp_path / "study", [Example(t, label_of(t)) for t in texts + turned])
    learnt(pipe, parts, maker)
    file = tmp_path / "study" / "weights" / "linear" / crossed.FILE
    tensors = load_file(file)
    assert len(set(tensors["keys"].tolist())) == len(
        set(zip(tensors["keys"].tolist(), tensors["folds"].tolist(), strict=True))
    )
    for damage in (b"no tensors", save_tensors({**tensors, "folds": tensors["folds"] + 90})):
        file.write_bytes(damage)
        with pytest.raises(EngineError, match="crossed"):
            made(trained_model, tmp_path / "study", labelled(60))[0].with_(**{"forward.weights": "linear"}).outputs(
                ["good"]
            )


def test_a_folder_of_the_users_is_never_crossed(trained_model: Path, tmp_path: Path) -> None:
    """Such a file beside a model's weights is no part of what the model is known by."""
    pipe, parts, maker = made(trained_model, tmp_path / "study", labelled(300))
    learnt(pipe, parts, maker)
    texts = parts["search"].values
    opened = load(tmp_path / "study" / "weights" / "linear").outputs(texts)
    assert np.abs(opened["logits"] - pipe.with_(**{"forward.weights": "linear"}).outputs(texts)["logits"]).max() > 0.1


def test_so_many_labels_that_it_would_fill_the_memory_are_left_out(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefilter, "MOST_WEIGHTS", 900)
    pipe, parts, maker = made(trained_model, tmp_path / "study", labelled(100))
    assert learnt(pipe, parts, maker) == ""
    assert "too many" in maker.study.notes["first"]


# ---------------------------------------------------------------------------------- a linear model itself


def test_a_linear_model_is_weighed_and_improved_like_any_other(tmp_path: Path) -> None:
    model = train("linear", labelled(600, seed=1), tmp_path / "linear", epochs=4, learning_rate=0.1).folder
    worths = weigh(model, labelled(120, seed=2))
    names = [w.name for w in worths]
    assert {"the first 16 words", "single words only"} <= set(names)
    assert all("torch fp32 only" in w.reason for w in worths if w.name.startswith("onnxruntime"))
    done = improve(model, labelled(1500, seed=3), max_drop=0.2, budget="25s", out=tmp_path / "out")
    assert {t.stage for t in done.study} >= {"lossy", "lossless"}
    pipe = load(tmp_path / "out")
    assert evaluation(pipe, labelled(20)).labelled
    assert pipe("good good good").label in ("neg", "neutral", "pos")
