"""A row that the model itself fails on is answered alone where that works; else it is named, or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, RowsFailed
from llm_moments.cli.run import answered
from llm_moments.cli.samples import Samples
from llm_moments.core import Pipeline
from llm_moments.data.readers import read
from tests.fakes import FakeEngine, FakeEngines


class Fails(FakeEngine):
    """Fails on batches in which rows differ in length, and on any with the word `awful`."""

    def __init__(self, token: int):
        super().__init__()
        self.token = token

    def forward(self, fields: dict[str, np.ndarray], recorder: Any = None) -> dict[str, np.ndarray]:
        if (fields["input_ids"] == self.token).any() or not fields["attention_mask"].all():
            raise EngineError("fake failed: a token it does not take")
        return super().forward(fields)


@pytest.fixture
def pipe(tiny_model: Path) -> Pipeline:
    own = load(tiny_model)
    token = own.model.tokenizer.convert_tokens_to_ids("awful")
    own.model.__dict__["_padding"] = "right"
    own.model.__dict__["labels"] = ["a", "b"]
    return Pipeline(own.task, own.plan, engines=FakeEngines(Fails(token)))


def test_a_batch_that_fails_is_answered_row_by_row(pipe: Pipeline) -> None:
    texts = ["good", "good film", "a bad plot", "good"]
    expected = np.concatenate([pipe.outputs([text]) for text in texts])
    np.testing.assert_array_equal(pipe.outputs(texts), expected)


@pytest.mark.parametrize("plan", [{}, {"batch.reuse": True, "batch.order": "length"}])
def test_rows_that_fail_are_told_by_their_places(plan: dict[str, Any], pipe: Pipeline) -> None:
    with pytest.raises(RowsFailed) as told:
        list(pipe.with_(**plan).run(["good", "awful", "a bad plot", "awful", "good", "awful"], window=4))
    assert sorted(told.value.rows) == [1, 3]


def test_a_model_that_answers_nothing_is_not_the_rows_fault(pipe: Pipeline) -> None:
    with pytest.raises(EngineError) as told:
        pipe.outputs(["awful", "awful film"])
    assert not isinstance(told.value, RowsFailed)


def test_the_file_and_the_row_are_named_or_the_row_is_left_out(pipe: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("text\ngood\nawful\nfilm\n")
    source = read(file)
    seen: list[Any] = []
    with pytest.raises(EngineError, match=r"d\.csv, row .*it does not take"):
        seen.extend(answered(Samples(pipe, 1), list(source), source))
    assert [example.input for example, _ in seen] == ["good"]
    source = read(file, on_error="skip")
    found = [example.input for example, _ in answered(Samples(pipe, 1), list(source), source)]
    assert found == ["good", "film"]
    assert sum(source.errors.values()) == 1
