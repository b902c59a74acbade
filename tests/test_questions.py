"""Labels only where answers differ: what is asked, blind; what answers are worth; a certificate on rows without labels."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments import stats
from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Example, Outputs
from llm_moments.core.outputs import texts
from llm_moments.data.readers import read
from llm_moments.evaluate.evaluation import split_to_ask
from llm_moments.improve import asks, questions
from llm_moments.improve.finals import Timed
from llm_moments.improve.questions import Questions
from tests.fakes import label_of, make_model, make_texts


@pytest.fixture(scope="module")
def asked(trained_model: Path) -> tuple[lm.Pipeline, list[str], Outputs, dict[str, Outputs]]:
    pipe, values = lm.load(trained_model), make_texts(200, seed=41)
    outputs = {f"cut {n}": pipe.with_(**{"truncate.max_length": n}).outputs(values) for n in (12, 6)}
    return pipe, values, pipe.outputs(values), outputs


def answered(file: Path, truth: Any) -> dict[str, str]:
    with file.open(newline="", encoding="utf-8") as stream:
        return {row["question"]: truth(row["input"]) for row in csv.DictReader(stream)}


def test_answers_to_the_differing_rows_are_worth_what_all_labels_are(asked: tuple, tmp_path: Path) -> None:
    pipe, values, before, outputs = asked
    made = Questions(pipe, values, before, outputs, 1000)
    made.write(tmp_path / "q.csv", {})
    told = answered(tmp_path / "q.csv", label_of)
    truth = pipe.task.references([label_of(v) for v in values])
    for key, after in outputs.items():
        right = pipe.task.scores(before, truth) - pipe.task.scores(after, truth)
        drops, open_ = made.drops(key, told)
        assert open_ == 0
        assert (drops == right).all()
    differing = {row for key in outputs for row in made.differing(key).tolist()}
    assert len(told) == len(made.asked) == len(differing) < 150


def test_questions_are_blind_and_each_is_asked_once(asked: tuple, tmp_path: Path) -> None:
    pipe, values, before, outputs = asked
    made = Questions(pipe, values, before, outputs, 1000)
    made.write(tmp_path / "q.csv", {})
    rows = list(csv.reader((tmp_path / "q.csv").open(encoding="utf-8")))
    assert rows[0] == ["question", "input", "answers", "label"]
    assert len({row[0] for row in rows[1:]}) == len(rows) - 1
    assert not any(row[3] for row in rows[1:])
    first = [one.shown[0] == questions._said(pipe, before[[one.row]]) for one in made.asked]
    assert 0.25 < np.mean(first) < 0.75  # the place of an answer tells nothing of who gave it
    assert [r[0] for r in rows[1:]] == sorted(r[0] for r in rows[1:])
    again = Questions(pipe, values[::-1], before[::-1], {k: o[::-1] for k, o in outputs.items()}, 1000)
    assert {one.key: one.shown for one in again.asked} == {one.key: one.shown for one in made.asked}


def test_what_is_not_answered_counts_as_harm(asked: tuple, tmp_path: Path) -> None:
    pipe, values, before, outputs = asked
    made = Questions(pipe, values, before, outputs, 1000)
    made.write(tmp_path / "q.csv", {})
    told = answered(tmp_path / "q.csv", label_of)
    for key in outputs:
        none, open_ = made.drops(key, {})
        assert open_ == len(made.differing(key)) == none.sum()
        for many in (3, 9):
            some, left = made.drops(key, dict(list(told.items())[:many]))
            assert left <= open_
            assert (some >= made.drops(key, told)[0]).all()
    few = Questions(pipe, values, before, outputs, 2)  # more differ than may be asked
    assert len(few.asked) == 2
    assert few.drops("cut 6", told)[1] == len(made.differing("cut 6")) - len(
        {a.row for a in few.asked} & set(made.differing("cut 6").tolist())
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("question,label\nx,maybe\n", "maybe"),
        ("question,label\nx,pos\nx,neg\n", "twice"),
        ("a,b\n1,2\n", "no column"),
        ("\xff", None),
    ],
)
def test_bad_answers_are_named(asked: tuple, tmp_path: Path, text: str, named: str | None) -> None:
    pipe, values, before, outputs = asked
    made = Questions(pipe, values, before, outputs, 1000)
    file = tmp_path / "q.csv"
    file.write_bytes(text.replace("x,", f"{made.asked[0].key},").encode("latin-1"))
    with pytest.raises(DataError, match=named):
        made.drops("cut 12", questions.read(file)), made.drops("cut 6", questions.read(file))


def test_of_texts_it_is_asked_which_is_better(tmp_path: Path) -> None:
    class Texts:
        name = "translation"
        compared = True

        def has_margins(self) -> bool:
            return False

        def argmax_equal(self, outputs: Any, others: Any) -> Any:
            return outputs["text"] == others["text"]

        def answers(self, outputs: Any) -> list[Any]:
            return [SimpleNamespace(text=str(text)) for text in outputs["text"]]

    pipe: Any = SimpleNamespace(task=Texts(), model=SimpleNamespace())
    before, after = texts(["a", "b", "c", "d"]), texts(["a", "B", "C", "D"])
    made = Questions(pipe, ["1", "2", "3", "4"], before, {"k": after}, 10)
    made.write(tmp_path / "q.csv", {})
    rows = list(csv.DictReader((tmp_path / "q.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["question", "input", "answer 1", "answer 2", "better"]
    better = {"2": "b", "3": "C", "4": None}  # the baseline's, the candidate's, neither
    told = {
        r["question"]: "equal" if better[r["input"]] is None else "12"[r["answer 2"] == better[r["input"]]]
        for r in rows
    }
    drops, open_ = made.drops("k", told)
    assert (drops.tolist(), open_) == ([0.0, 1.0, -1.0, 0.0], 0)
    with pytest.raises(DataError, match="better"):
        made.drops("k", dict.fromkeys(told, "first"))


def test_candidates_are_kept_within_the_number_of_questions_by_the_search_split_alone() -> None:
    rates = {name: np.zeros(100, bool) for name in ("sure", "bold", "fast")}
    rates["sure"][:2], rates["bold"][2:30], rates["fast"][:4] = True, True, True
    assert questions.within(rates, 1000, 50) == ["sure", "fast"]
    assert questions.within(rates, 1000, 400) == ["sure", "bold", "fast"]
    assert questions.within(rates, 1000, 10) == []


def test_the_look_is_the_exact_bound_and_counts_groups_once() -> None:
    part: Any = SimpleNamespace(
        independent=1000, units=None, needs=lambda *a: 1, flips=lambda b, a: (int(b.sum()), int(a.sum()))
    )
    part.__len__ = lambda: 1000
    drops = np.zeros(1000)
    drops[:3], drops[3:10] = 1, -1

    class Part(SimpleNamespace):
        def __len__(self) -> int:
            return 1000

    found = asks.look(Part(**vars(part)), drops, "k", 0.01)
    assert found.drop_high == stats.paired_flip_bound(3, 7, 1000).high
    assert (found.harmful, found.beneficial, found.passed) == (3, 7, found.drop_high < 0.01)


def test_rows_that_were_searched_on_certify_nothing(trained_model: Path) -> None:
    pipe = lm.load(trained_model)
    known = [Example(t, label_of(t)) for t in make_texts(60, seed=1)]
    bare = [Example(t) for t in [*make_texts(80, seed=2), *[e.input.upper() for e in known[:20]]]]
    parts = split_to_ask(pipe, known, bare)
    assert set(parts) == {"calibrate", "search", "certify"}
    assert len(parts["search"]) + len(parts["calibrate"]) == 60
    assert parts["search"].labelled
    assert not parts["certify"].labelled
    assert len(parts["certify"]) <= 80
    alone = split_to_ask(pipe, [], bare)
    assert sum(map(len, alone.values())) == 100
    assert not alone["search"].labelled


@pytest.mark.parametrize("labelled", [True, False])
def test_questions_are_answered_and_the_same_call_goes_on(
    trained_model: Path, toy_csv: Path, tmp_path: Path, labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(search: Any) -> list[Any]:  # a short search, whose plans do differ
        return [search.try_plan(search.plan_of("torch", "fp32", n), "lossy") for n in (36, 30)]

    twice = Timed(stats.Bound(2.0, 1.9, 2.1, 0.95, "made up", 7), None, None, 0.01)
    monkeypatch.setattr("llm_moments.improve.run.strategies.run", run)
    monkeypatch.setattr("llm_moments.improve.run.timed", lambda *_: twice)  # how fast a tiny model is, is chance
    rows = list(read(toy_csv))
    known, bare = rows[:250], [Example(e.input) for e in rows[250:]]
    out = tmp_path / "out"

    def go() -> Any:
        return lm.improve(
            trained_model, known if labelled else None, unlabelled=bare, questions=60, max_drop=0.06, budget="12s", out=out,
        )  # fmt: skip

    first = go()
    assert not (out / "MANIFEST.json").exists()
    assert (first.certified, first.waiting > 0) == (False, True)
    told = answered(out / "questions.csv", label_of)
    assert first.waiting == len(told) <= 60
    lines = list(csv.reader((out / "questions.csv").open(encoding="utf-8")))
    with (out / "questions.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([lines[0], *[[*row[:3], told[row[0]]] for row in lines[1:]]])
    done = go()
    assert done.certified, done.certificate.reason
    assert "questions" in done.certificate.words()
    assert done.certificate.labelled
    truth = {e.input: e.reference for e in rows}
    values = [e.input for e in bare]
    references = done.pipeline.task.references([truth[v] for v in values])
    scores = [p.task.scores(p.outputs(values), references).mean() for p in (lm.load(trained_model), lm.load(out))]
    assert scores[0] - scores[1] < 0.06


def test_what_cannot_be_asked_is_refused(trained_model: Path, tmp_path: Path) -> None:
    regression = make_model(tmp_path / "r", labels=["LABEL_0"], problem_type="regression")
    with pytest.raises(InputError, match="numbers"):
        lm.improve(regression, None, unlabelled=make_texts(30), out=tmp_path / "o")
    with pytest.raises(InputError, match="--out"):
        lm.improve(trained_model, None, unlabelled=make_texts(30))
    with pytest.raises(InputError, match="--unlabelled"):
        lm.improve(trained_model, None)
