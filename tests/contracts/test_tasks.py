"""What a task must do, for every problem type; scikit-learn's metrics are the naive references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from llm_moments.core import Example, Pipeline
from llm_moments.errors import DataError
from llm_moments.evaluation import evaluation
from llm_moments.model import load
from tests.fakes import LABELS, make_model, make_texts

KINDS = {
    "single_label_classification": LABELS,
    "multi_label_classification": LABELS,
    "regression": ["value"],
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return load(make_model(folder, labels=KINDS[request.param], problem_type=request.param))


def _references(pipe: Pipeline, n: int) -> list:
    rng = np.random.default_rng(0)
    if pipe.model.problem_type == "regression":
        return rng.normal(size=n).tolist()
    if pipe.model.problem_type == "multi_label_classification":
        return [[LABELS[i] for i in np.flatnonzero(row)] for row in rng.random((n, 3)) < 0.5]
    return rng.choice(LABELS, n).tolist()


def test_answers(pipe: Pipeline) -> None:
    answers = list(pipe.run(make_texts(7)))
    assert len(answers) == 7
    for answer in answers:
        assert list(answer.scores) == pipe.model.labels
        if pipe.model.problem_type == "regression":
            assert isinstance(answer.label, float)
            continue
        assert all(0 <= p <= 1 for p in answer.scores.values())
        chosen = answer.label if isinstance(answer.label, list) else [answer.label]
        assert set(chosen) <= set(LABELS)


def test_scores_are_the_usual_metrics(pipe: Pipeline) -> None:
    texts, raw = make_texts(40), _references(pipe, 40)
    outputs = pipe.outputs(texts)
    part = evaluation(pipe, [Example(t, r) for t, r in zip(texts, raw, strict=True)])
    scores = part.scores(outputs, outputs)
    assert scores.shape == (40,)
    if pipe.model.problem_type == "regression":
        expected = metrics.r2_score(raw, outputs[:, 0])
    elif pipe.model.problem_type == "multi_label_classification":
        truth = np.array([[label in ref for label in LABELS] for ref in raw])
        expected = metrics.f1_score(truth, outputs > 0, average="samples", zero_division=1.0)
    else:
        expected = metrics.accuracy_score([LABELS.index(r) for r in raw], outputs.argmax(1))
    assert scores.mean() == pytest.approx(expected, abs=1e-6)


def test_a_pipeline_agrees_with_itself(pipe: Pipeline) -> None:
    outputs = pipe.outputs(make_texts(20))
    assert pipe.task.agreement(outputs, outputs, pipe.model).min() == 1.0
    assert pipe.task.argmax_equal(outputs, outputs, pipe.model).all()
    assert (pipe.task.margins(outputs, pipe.model) >= 0).all()


def test_unknown_references_are_named(pipe: Pipeline) -> None:
    with pytest.raises(DataError, match=r"row 2.*'strange'"):
        pipe.task.references([_references(pipe, 1)[0], "strange"], pipe.model)


def test_plain_inputs_of_every_kind(pipe: Pipeline) -> None:
    one, two = "good movie", "bad plot"
    same = [pipe(x) for x in (one, {"text": one}, Example(one))]
    assert same[0] == same[1] == same[2]
    assert pipe((one, two)) == pipe({"text": one, "text_pair": two}) == pipe([one, two])
    assert pipe((one, two)) != pipe(one)
    with pytest.raises(DataError, match="an input is a text"):
        pipe(5)


def test_without_references_the_original_is_the_judge(pipe: Pipeline) -> None:
    part = evaluation(pipe, [Example(t) for t in make_texts(10)])
    outputs = pipe.outputs(part.values)
    assert not part.labelled
    assert "agreement" in part.metric
    assert part.scores(outputs, outputs).mean() == 1.0


def test_the_stock_plan_is_transformers_own_pipeline(tmp_path: Path) -> None:
    from transformers import pipeline

    folder, texts = make_model(tmp_path / "model"), make_texts(12, longest=90)
    stock = pipeline("text-classification", str(folder), batch_size=5, truncation=True)
    for ours, theirs in zip(load(folder).run(texts), stock(texts), strict=True):
        assert ours.label == theirs["label"]
        assert ours.score == pytest.approx(theirs["score"], abs=1e-5)
