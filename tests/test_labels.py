"""What a label means: the same for judging, learning and reading, however it is written."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.base.errors import DataError
from llm_moments.core import Example
from llm_moments.data.labels import (
    MULTI,
    REGRESSION,
    SINGLE,
    Known,
    Named,
    cell_of,
    class_names,
    listed,
    missing,
    spelt,
)
from llm_moments.data.readers import Data
from llm_moments.models.model import Model
from llm_moments.tasks.image_classification import ImageClassification
from llm_moments.tasks.likelihood import TextChoice
from llm_moments.tasks.text_classification import TextClassification
from llm_moments.train.lesson import lesson_of

FOUR = ["toxic", "insult", "spam", "ok"]


def model(*names: str, problem: str = SINGLE) -> Model:
    config = {
        "id2label": dict(enumerate(names)),
        "problem_type": problem,
        "architectures": ["BertForSequenceClassification"],
    }
    return Model(Path("model"), config)


def read(column: list[Any], *names: str, problem: str = SINGLE, task: Any = TextClassification) -> list[Any]:
    return task(model(*names, problem=problem)).references(column)


def rows(column: list[Any]) -> list[Example]:
    return [Example(f"text {at}", value) for at, value in enumerate(column)]


ONE = [1, 1.0, True, "1", " 1 ", "1.0", np.int64(1), np.float32(1), np.bool_(True), Decimal("1.00"), b"1", "+1", "1e0"]


@pytest.mark.parametrize("value", ONE, ids=repr)
def test_equal_numbers_are_one_label_in_every_verb(value: Any) -> None:
    assert spelt(value) == "1"
    assert read([value], "a", "b", "c") == [1]  # names without numbers: places
    assert read([value], "1", "0") == [0]
    assert lesson_of(rows([value, 0, "1"]), "here").labels == ["0", "1"]
    assert read([[value]], *FOUR, problem=MULTI) == [{1}]
    assert read([value], "n", problem=REGRESSION) == [1.0]
    example = TextChoice(None).prepared(Example({"prompt": "p", "choices": ["x", "y"]}, value))
    assert example.reference == 1


def test_names_of_numbers_keep_what_is_written_in_one_way_only() -> None:
    assert class_names(["01", "02", "01"]) == ["01", "02"]
    assert class_names(["01", "1", 2.5, "2.50", "x", -1]) == ["-1", "1", "2.5", "x"]
    assert class_names(["1_0", "10", "1e999", "nan"]) == ["10", "1_0", "1e999", "nan"]


def test_numbers_are_no_places_where_names_hold_numbers() -> None:
    stars = ["1 star", *(f"{n} stars" for n in range(2, 6))]
    assert read([1, "4", 5.0], *stars) == [0, 3, 4]
    assert read([1, 2], "label_1", "label_2") == [0, 1]
    assert read([0, 1], "LABEL_0", "LABEL_1") == [0, 1]
    assert read([10], "class 20", "class 10") == [1]
    assert lesson_of(rows([1, 2, 4]), "here", model(*stars)).labels == stars
    for names, wrong in (
        (stars, 0),
        (("label_1", "label_2"), 0),
        (("1-2", "3-4"), 1),
        (("-1", "1"), 0),
        (("a 1", "b 1"), 1),
    ):
        with pytest.raises(DataError, match=f"row 1: the model does not know the label {wrong}"):
            read([wrong], *names)
    with pytest.raises(DataError, match=r"row 1: .* 3; it knows a, b, c$"):
        read([3], "a", "b", "c")


def test_blanks_and_case_are_minded_on_neither_side_unless_they_tell_names_apart() -> None:
    odd = (" neg", "very good, really", "Neu\t", "a|b", "cafe\u0301")
    assert read([" neg", "NEG ", "neu", "a|b", "VERY GOOD, really", "café"], *odd) == [0, 0, 2, 3, 1, 4]
    assert read(["us", "US", " us "], "us", "US") == [0, 1, 0]
    lesson = lesson_of(rows(["neg", "a|b", "neu", "very good, really"]), "here", model(*odd))
    assert (lesson.labels, lesson.problem, lesson.said) == (list(odd), SINGLE, "")


HOT = [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
WRITTEN: list[tuple[str, Any]] = [
    ("whole", lambda v: v), ("floats", lambda v: [float(x) for x in v]), ("bools", lambda v: [bool(x) for x in v]),
    ("numpy", lambda v: np.array(v, np.float32)), ("tuples", tuple), ("json", json.dumps), ("python", lambda v: str(tuple(v))),
    ("of numpy", lambda v: str(np.array(v))), ("cells", lambda v: "|".join(map(str, v))), ("texts", lambda v: [str(x) for x in v]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITTEN, ids=[w[0] for w in WRITTEN])
def test_lists_of_zeros_and_ones_are_multi_hot(name: str, write: Any) -> None:
    column = [write(v) for v in HOT]
    assert read(column, *FOUR, problem=MULTI) == [{0, 2}, {3}, set()]
    assert read(column, *FOUR, problem=MULTI, task=ImageClassification) == [{0, 2}, {3}, set()]
    own, new = lesson_of(rows(column), "here", model(*FOUR, problem=MULTI)), lesson_of(rows(column), "here")
    assert (own.labels, own.problem, own.said) == (FOUR, MULTI, "")
    assert (new.labels, new.problem) == ([f"LABEL_{i}" for i in range(4)], MULTI)
    if name != "cells":  # a text that a model of single labels would take for a name
        assert read(column[1:2], *FOUR) == [3]  # one of several is one-hot


def test_the_whole_column_says_whether_its_lists_are_vectors() -> None:
    assert read([[0, 1], [1, 0], []], "a", "b", problem=MULTI) == [{1}, {0}, set()]
    assert read([[0, 1], [1], [0]], "a", "b", problem=MULTI) == [{0, 1}, {1}, {0}]
    assert read([["0", "1"], ["1", "0"]], "0", "1", problem=MULTI) == [{0, 1}, {0, 1}]
    assert read([[0, 1], [2, 3]], *FOUR, problem=MULTI) == [{0, 1}, {2, 3}]
    with pytest.raises(DataError, match="3 zeros and ones, and the model knows 4"):
        read([[0, 1, 0]], *FOUR, problem=MULTI)


SEVERAL = [["toxic", "insult"], ["spam"], []]


@pytest.mark.parametrize(
    "write",
    [lambda v: v, tuple, json.dumps, str, "|".join, " | ".join, lambda v: [FOUR.index(x) for x in v],
     lambda v: [Named(FOUR.index(x), FOUR) for x in v], lambda v: "|".join(str(FOUR.index(x)) for x in v)],
)  # fmt: skip
def test_several_labels_however_they_are_written(write: Any) -> None:
    column = [write(v) for v in SEVERAL]
    assert read(column, *FOUR, problem=MULTI) == [{0, 1}, {2}, set()]
    lesson = lesson_of(rows(column), "here", model(*FOUR, problem=MULTI))
    assert (lesson.labels, lesson.problem, len(lesson.examples)) == (FOUR, MULTI, 3)
    new = lesson_of(rows(column), "here")
    assert new.problem == MULTI
    assert len(new.labels) == (4 if isinstance(column[0][0], Named) else 3)


def test_commas_separate_only_names_that_are_known() -> None:
    assert read(["toxic, insult", "spam;ok"], *FOUR, problem=MULTI) == [{0, 1}, {2, 3}]
    lesson = lesson_of(rows(["toxic, insult", "toxic"]), "here")
    assert lesson.problem == SINGLE
    assert "several labels are separated by |" in lesson.said


@pytest.mark.parametrize(
    "labels", [[], ["a"], ["a", "b"], ["a|b", "c"], ["a|b"], [" a", "b "], ["[x]", "y"], ['q"', "a,b"]]
)
def test_what_is_written_into_a_cell_is_read_again(labels: list[str]) -> None:
    names = ["a", "b", "c", "a|b", " a", "b ", "[x]", "y", 'q"', "a,b"]
    assert sorted(listed(cell_of(labels, names), Known(names))) == sorted(labels)
    assert sorted(listed(cell_of(labels))) == sorted(labels)


def test_names_with_the_separator_in_them_stay_whole() -> None:
    assert read(["a|b|c", "c", "x|y"], "a|b", "c", "x", "y", problem=MULTI) == [{0, 1}, {1}, {2, 3}]


def test_named_classes_mean_their_names_and_nameless_heads_their_numbers() -> None:
    names = ("neu", "pos", "neg")
    column = [Named(0, names), Named(2, names)]
    assert read(column, "neg", "neu", "pos") == [1, 0]
    assert read(column, "LABEL_0", "LABEL_1", "LABEL_2") == [0, 2]
    assert lesson_of(rows(column), "here").labels == list(names)
    assert lesson_of(rows(column), "here", model("neg", "neu", "pos")).labels == ["neg", "neu", "pos"]
    with pytest.raises(DataError, match="does not know the label 'neu'"):
        read(column, "a", "b", "c")


def test_an_empty_cell_is_no_label_but_where_there_may_be_several() -> None:
    assert read(["", "ok", None, float("nan")], *FOUR, problem=MULTI) == [set(), {3}, None, None]
    assert read(["", None, "ok"], *FOUR) == [None, None, 3]
    assert all(map(missing, (None, "", "  ", float("nan"), np.float32("nan"), Decimal("nan"))))
    assert not any(map(missing, (0, False, "0", [], 0.0)))


FAULTY: list[tuple[list[Any], Model | None, int, str]] = [
    (["a", "b", None, "", "a"], None, 3, "no label"),
    (["a", "b", {"x": 1}, "a"], None, 3, "wrong kind"),
    (["a", "b", float("inf"), "a"], None, 3, "wrong kind"),
    (["a", "b", ["a", "b"], "b"], None, 3, "wrong kind"),
    ([0.5, 1.5, "abc", 2], None, 3, "not a number"),
    ([0.5, 1.5, float("inf"), 2], None, 3, "not a number"),
    ([["a"], ["b"], "a", ["a", "b"]], None, 3, "wrong kind"),
    (["neg", "pos", "positve", "neg"], model("neg", "pos"), 3, "unknown label"),
    ([["toxic"], ["rude"], ["ok"]], model(*FOUR, problem=MULTI), 2, "unknown label"),
]


@pytest.mark.parametrize(("column", "old", "row", "kind"), FAULTY)
def test_a_label_that_cannot_be_learnt_is_named_or_left_out(column: list[Any], old: Any, row: int, kind: str) -> None:
    with pytest.raises(DataError, match=f"here, row {row}: "):
        lesson_of(rows(column), "here", old)
    skipping = Data("here", {}, lambda: iter(()), on_error="skip")
    lesson = lesson_of(rows(column), "here", old, skipping)
    assert next(iter(skipping.errors)).startswith(kind)
    assert f"row {row}: " in skipping.reported[0]
    assert len(lesson.examples) == len(column) - len(skipping.reported) >= 2


def test_a_head_for_other_labels_is_replaced_with_a_warning_and_a_regression_kept() -> None:
    lesson = lesson_of(rows(["x", "y"]), "here", model("neg", "pos"))
    assert (lesson.labels, "takes its place" in lesson.said) == (["x", "y"], True)
    assert lesson_of(rows([1, 2, 5]), "here", model("LABEL_0", problem=REGRESSION)).problem == REGRESSION
    assert lesson_of(rows([1, 2, 5]), "here").labels == ["1", "2", "5"]


def test_answers_of_multiple_choice_go_by_the_row_s_own_names() -> None:
    arc = {"prompt": "p", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}}
    assert TextChoice(None).prepared(Example(arc, "3")).reference == 2
    letters = {"prompt": "p", "choices": {"text": ["x", "y"], "label": ["A", "B"]}}
    assert TextChoice(None).prepared(Example(letters, "B")).reference == 1
    with pytest.raises(DataError, match="none of its 2 choices"):
        TextChoice(None).prepared(Example(letters, 1))
