"""What a task must do, for every problem type; scikit-learn's metrics are the naive references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from llm_moments import stats
from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, InputError, PlanError
from llm_moments.core import Example, Pipeline, Plan
from llm_moments.evaluate.evaluation import evaluation
from llm_moments.improve.certify import look
from tests.fakes import LABELS, logits, make_linear, make_model, make_texts

KINDS = {
    "single_label_classification": LABELS,
    "multi_label_classification": LABELS,
    "regression": ["value"],
}


@pytest.fixture(scope="module", params=[(kind, make) for kind in sorted(KINDS) for make in (make_model, make_linear)],
                ids=lambda one: f"{one[0]}-{one[1].__name__}")  # fmt: skip
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    kind, make = request.param
    return load(make(tmp_path_factory.mktemp(kind) / "model", labels=KINDS[kind], problem_type=kind))


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
        expected = metrics.r2_score(raw, outputs["logits"][:, 0])
    elif pipe.model.problem_type == "multi_label_classification":
        truth = np.array([[label in ref for label in LABELS] for ref in raw])
        expected = metrics.f1_score(truth, outputs["logits"] > 0, average="samples", zero_division=1.0)
    else:
        expected = metrics.accuracy_score([LABELS.index(r) for r in raw], outputs["logits"].argmax(1))
    assert scores.mean() == pytest.approx(expected, abs=1e-6)


def test_a_bound_says_what_it_takes_for_granted(pipe: Pipeline) -> None:
    """Scores without a least value: one worse than any seen may come."""
    raw = _references(pipe, 40)
    part = evaluation(pipe, [Example(t, r) for t, r in zip(make_texts(40), raw, strict=True)])
    outputs = pipe.outputs(part.values)
    found = look(part, outputs, outputs[::-1], "key", 0.5)
    if pipe.model.problem_type != "regression":
        assert found.assumes == ""
        return
    assert "no least value" in found.assumes
    near, far = np.full(40, 0.9), np.full(40, 0.9) - 0.01 * np.arange(40)
    assert stats.drop_bound(near, far).assumed is None  # as a score between 0 and 1
    assert part.drop(near, far).assumed == pytest.approx(0.39 * (1 + 20 / 39))


def test_a_pipeline_agrees_with_itself(pipe: Pipeline) -> None:
    outputs = pipe.outputs(make_texts(20))
    assert pipe.task.agreement(outputs, outputs).min() == 1.0
    assert pipe.task.argmax_equal(outputs, outputs).all()


def test_margins_say_how_sure_an_answer_is(pipe: Pipeline) -> None:
    outputs = logits(np.array([[3.0, -1.0, 2.5], [-4.0, -0.25, 9.0]], np.float32)[:, : len(pipe.model.labels)])
    shorter = {"vectorize.words": 8} if pipe.model.is_linear else {"truncate.max_length": 8}
    cascade = {"cascade": {"threshold": 1.0, "cheap": shorter}}
    plan = Plan({**pipe.plan.to_dict(), **cascade})
    if pipe.model.problem_type == "regression":
        assert not pipe.task.has_margins()
        with pytest.raises(PlanError, match="margin"):
            pipe.task.margins(outputs)
        with pytest.raises(PlanError, match="cascade"):
            pipe.with_(plan)
        return
    expected = [1.0, 0.25] if pipe.model.problem_type == "multi_label_classification" else [0.5, 9.25]
    assert pipe.task.margins(outputs).tolist() == expected
    assert len(pipe.with_(plan).outputs(make_texts(5))) == 5


@pytest.mark.parametrize("labels", [["1", "2"], ["2", "1"], ["0", "1"], ["-1", "+1", "1"], ["pos", "neg"]])
def test_a_label_is_a_name_first_and_an_index_only_where_no_name_is_meant(labels: list[str], tmp_path: Path) -> None:
    model = load(make_model(tmp_path / "m", labels=labels))
    for at, name in enumerate(labels):
        told = [name, f" {name} "] + ([float(name), np.float32(name), f"{float(name)}"] if name == "1" else [])
        assert model.task.references(told) == [at] * len(told)
    if labels == ["pos", "neg"]:
        assert model.task.references([1, 1.0, "1", "POS"]) == [1, 1, 1, 0]
    with pytest.raises(DataError, match="row 1"):
        model.task.references(["1.5"])
    if labels == ["1", "2"]:
        for unknown in (3.0, 0, "0"):
            with pytest.raises(DataError, match="row 1.*it knows 1, 2"):
                model.task.references([unknown])


def test_labels_that_differ_by_case_alone_are_told_apart(tmp_path: Path) -> None:
    model = load(make_model(tmp_path / "m", labels=["us", "US", "it"]))
    assert model.task.references(["US", "us", "IT"]) == [1, 0, 2]
    with pytest.raises(DataError, match="'Us'"):
        model.task.references(["Us"])


def test_unknown_references_are_named(pipe: Pipeline) -> None:
    with pytest.raises(DataError, match=r"row 2.*'strange'"):
        pipe.task.references([_references(pipe, 1)[0], "strange"])


def test_plain_inputs_of_every_kind(pipe: Pipeline) -> None:
    one, two = "good movie", "bad plot"
    same = [pipe(x) for x in (one, {"text": one}, Example(one))]
    assert same[0] == same[1] == same[2]
    assert pipe((one, two)) == pipe({"text": one, "text_pair": two})
    for several in ([one, two], [one]):  # two inputs, or a pair? It is asked, and not guessed
        with pytest.raises(InputError, match=r"pipe\.run"):
            pipe(several)
    assert pipe((one, two)) != pipe(one)
    for strange in (5, None, b"bytes", ("a", None), {}, {"text": 5}, {"text_pair": "b"}):
        with pytest.raises(DataError, match="an input is a text"):
            pipe(strange)
    for half in ("good \ud83d", ("good", "\udce9"), {"text": "\ud800"}):
        with pytest.raises(DataError, match="half a character"):
            pipe(half)
    for odd in ("", "\x00", "\u200b", "😀" * 5):
        assert pipe(odd).scores


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
