"""Examples made ready for judging: one metric for all parts, and bad rows named or left out in every verb."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_moments.base.errors import DataError
from llm_moments.core import Example
from llm_moments.data.readers import read
from llm_moments.evaluate.evaluation import evaluation, gather, split
from llm_moments.models.model import Model
from llm_moments.tasks.chat import Chat, TextGeneration
from llm_moments.tasks.text_classification import TextClassification
from llm_moments.tasks.translation import Translation
from llm_moments.train.train import train

MULTI = "multi_label_classification"


def pipe(*names: str, problem: str = "single_label_classification") -> Any:
    config = {"id2label": dict(enumerate(names)), "problem_type": problem}
    model = Model(Path("model"), config)
    return SimpleNamespace(task=TextClassification(model), model=model)


def table(file: Path, *rows: str) -> Path:
    file.write_text("text,label\n" + "".join(f"{row}\n" for row in rows))
    return file


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.44, 0.56])
def test_all_parts_are_judged_by_one_metric(seed: int, share: float) -> None:
    some = random.Random(seed)
    examples = [Example(f"text {at}", "a" if some.random() < share else None) for at in range(60)]
    judge = pipe("a", "b")
    whole, parts = evaluation(judge, examples), split(judge, examples)
    assert {part.metric for part in parts.values()} == {whole.metric}
    assert sum(map(len, parts.values())) == len(whole)


def test_rows_without_a_label_are_told_or_counted(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "one,a", "two,b", "three,", "four,a")
    data = read(file)
    gather(data, judge=pipe("a", "b"))
    assert data.notes[-1] == "1 of 4 rows have no label (the first: 3); they are not judged by"
    data = read(file, on_error="skip")
    found, _ = gather(data, judge=pipe("a", "b"))
    assert ([e.id for e in found], data.errors) == ([1, 2, 4], {"no label": 1})


def test_an_empty_cell_is_judged_where_there_may_be_several_labels(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "one,a|b", "two,", "three,b", "four,")
    judge = pipe("a", "b", problem=MULTI)
    found, _ = gather(read(file), judge=judge)
    assert evaluation(judge, found).references == [{0, 1}, set(), {1}, set()]
    nothing, _ = gather(read(table(tmp_path / "b.csv", "one,", "two,")), judge=judge)
    assert not evaluation(judge, nothing).labelled


def test_unknown_labels_are_named_or_skipped_when_a_column_of_lists_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [
        '{"text": "one", "labels": [1, 0, 0]}',
        '{"text": "two", "labels": [1, 0]}',
        '{"text": "three", "labels": ["d"]}',
    ]
    file.write_text("\n".join(rows))
    judge = pipe("a", "b", "c", problem=MULTI)
    with pytest.raises(DataError, match="row 3: the model does not know the label 'd'"):
        gather(read(file), judge=judge)
    data = read(file, on_error="skip")
    found, _ = gather(data, judge=judge)
    assert [e.id for e in found] == [1, 2]
    assert evaluation(judge, found).references == [{0}, {0, 1}]  # the first can be nothing but a vector
    assert data.errors == {"unknown label": 1}


@pytest.mark.parametrize(
    ("rows", "labels", "problem", "skipped"),
    [
        (["good film,pos", "bad film,neg", "so so,", "fine film,pos"], ["neg", "pos"], "single_label_classification", 1),
        (["good film,1", "bad film,0", "so so,1.0", "fine film,0"], ["0", "1"], "single_label_classification", 0),
        (["you idiot,toxic|insult", "buy now,spam", "hello,ok", "fine,"], ["insult", "ok", "spam", "toxic"], MULTI, 0),
        (['you idiot,"[1, 1, 0]"', 'buy now,"[0, 0, 1]"', 'hello,"[0, 0, 0]"'], ["LABEL_0", "LABEL_1", "LABEL_2"], MULTI, 0),
        (["good film,0.5", "bad film,much", "so so,2"], ["LABEL_0"], "regression", 1),
    ],
)  # fmt: skip
def test_labels_are_learnt_as_they_are_judged(
    tmp_path: Path, rows: list[str], labels: list[str], problem: str, skipped: int
) -> None:
    file = table(tmp_path / "a.csv", *rows)
    if skipped:
        with pytest.raises(DataError, match=r"a\.csv, row \d: .*--on-error skip"):
            train("linear", file, tmp_path / "x", epochs=1)
    data, judged = read(file, on_error="skip"), read(file, on_error="skip")
    if problem == "regression" or len(rows) < 4:
        judged = None
    done = train("linear", data, tmp_path / "m", epochs=1, evaluate=judged)
    told = Model(done.folder, json.loads((done.folder / "config.json").read_text()))
    assert (told.labels, told.problem_type) == (labels, problem)
    assert sum(data.errors.values()) == skipped
    assert not any("never occur" in said for said in done.warnings)


@pytest.mark.parametrize("task", [Chat(None), TextGeneration(None), Translation(None)])
def test_two_texts_a_row_are_none_for_a_model_that_takes_one(task: Any) -> None:
    with pytest.raises(DataError, match="two texts a row.*--text-column"):
        task.normalise(("Who won?", "The home team won."))


def test_examples_to_judge_a_training_by_may_all_have_one_label(tmp_path: Path) -> None:
    learn = [Example(f"{word} film {at}", word) for at in range(4) for word in ("good", "bad")]
    done = train(
        "linear", learn, tmp_path / "m", epochs=1, evaluate=[Example("good one", "good"), Example("so good", "good")]
    )
    assert done.evaluation
