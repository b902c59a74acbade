"""Named columns of n rows, held against plain lists of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_moments.core import Outputs, Ragged
from llm_moments.core.outputs import concat, filled, texts

ROWS = st.lists(st.tuples(st.floats(-5, 5, width=32), st.text(max_size=6), st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=12)  # fmt: skip


def made(rows: list[Any]) -> Outputs:
    numbers = np.array([[row[0], -row[0]] for row in rows], np.float32).reshape(-1, 2)
    return Outputs({"logits": numbers, "text": np.array([r[1].rstrip("\0") for r in rows], np.str_), "ids": Ragged.of([r[2] for r in rows], np.int64)})  # fmt: skip


def plain(outputs: Outputs) -> list[Any]:
    ids = outputs["ids"]
    return [
        (float(outputs["logits"][at, 0]), str(outputs["text"][at]), ids.row(at).tolist()) for at in range(len(outputs))
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(ROWS, ROWS, st.data())
def test_rows_are_taken_put_and_joined_as_those_of_lists_are(one: Any, other: Any, data: st.DataObject) -> None:
    ours, theirs = made(one), made(other)
    rows, more = plain(ours), plain(theirs)
    assert plain(concat([ours, theirs, ours])) == [*rows, *more, *rows]
    at = data.draw(st.lists(st.integers(0, len(one) - 1), max_size=8))
    assert plain(ours.take(np.array(at, np.int64))) == [rows[i] for i in at]
    assert plain(ours[1:]) == rows[1:]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(one), max_size=len(one))))
    assert plain(ours[mask]) == [row for row, taken in zip(rows, mask, strict=True) if taken]
    places = sorted(data.draw(st.sets(st.integers(0, len(one) - 1), max_size=len(other))))
    expected = list(rows)
    for place, row in zip(places, more, strict=False):
        expected[place] = row
    assert plain(ours.put(np.array(places, np.int64), theirs[: len(places)])) == expected
    assert plain(ours) == rows  # nothing is changed in place


def test_where_takes_the_others_rows() -> None:
    one, other = texts(["a", "b", "c"]), texts(["longer", "B", "C"])
    assert one.where(np.array([True, False, True]), other)["text"].tolist() == ["longer", "b", "C"]


def test_numpy_sees_the_first_column() -> None:
    assert np.asarray(made([(1.0, "x", [])])).tolist() == [[1.0, -1.0]]
    with pytest.raises(TypeError, match="ragged"):
        np.asarray(Outputs({"ids": Ragged.of([[1], []], np.int64)}))


def test_objects_and_columns_of_unlike_length_are_refused() -> None:
    with pytest.raises(TypeError, match="'a' holds neither"):
        Outputs({"a": np.array([{}, {}], object)})
    with pytest.raises(ValueError, match="one length"):
        Outputs({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(TypeError):
        iter(texts(["a"]))  # type: ignore[call-overload]


def test_boxes_of_a_row_are_filled_up() -> None:
    boxes = Ragged.of([np.ones((2, 4)), []], np.float32, (4,))
    assert boxes.filled(-1).shape == (2, 2, 4)
    assert boxes.filled(-1)[1].max() == -1
    assert boxes.take([1, 0]).row(1).tolist() == [[1.0] * 4] * 2


def test_batches_make_a_whole() -> None:
    parts = [(np.array([2, 0]), {"logits": np.array([[2.0], [0.0]]), "more": np.array([2, 0])}), (np.array([1]), {"logits": np.array([[1.0]]), "more": np.array([1])})]  # fmt: skip
    found = filled(parts, 3)
    assert found is not None
    assert (found["logits"][:, 0].tolist(), found["more"].tolist()) == ([0, 1, 2], [0, 1, 2])
    assert filled([], 3) is None
