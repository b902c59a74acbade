"""Every entry of every registry is held against its contract: who adds one adds a sample here, or this fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import PlanError
from llm_moments.base.registry import resolve
from llm_moments.base.views import VIEWS
from llm_moments.core import Outputs, Plan, Ragged, Task, outputs_file
from llm_moments.core.outputs import concat
from llm_moments.engines.base import ENGINES, engine_class
from llm_moments.engines.contract import Forward
from llm_moments.engines.generator import GENERATORS, Generator
from llm_moments.tasks.base import OF_MODELS, TASKS
from tests import fakes_seq, fakes_speech
from tests.fakes import make_linear, make_model, make_texts
from tests.fakes_chat import make_chat
from tests.image_fakes import make_arrays, make_image_model

SHORT = {"decode.max_new_tokens": 4}


def sounds(folder: Path) -> list[str]:
    return [
        str(fakes_speech.write(folder / f"{n}.wav", fakes_speech.tone(0.4 + n / 5, 300 + 90 * n))) for n in range(5)
    ]


# By task: the folder of a model, five inputs, and changes that make it quick.
SAMPLES: dict[str, Callable[[Path], tuple[Path, list[Any], dict[str, Any]]]] = {
    "text-classification": lambda room: (make_model(room / "m"), make_texts(5), {}),
    "linear-text": lambda room: (make_linear(room / "m"), make_texts(5), {}),
    "image-classification": lambda room: (make_image_model(room / "m", "vit"), list(make_arrays(5)), {}),
    "chat": lambda room: (make_chat(room / "m"), ["hi", "who", "the movie", "good", "a film"], SHORT),
    "text-generation": lambda room: (make_chat(room / "m"), ["hi", "who", "the movie", "good", "a film"], SHORT),
    "multiple-choice": lambda room: (
        make_chat(room / "m"), [{"prompt": "the", "choices": ["good", "bad", "movie"][: 2 + n % 2]} for n in range(5)], {},
    ),
    "translation": lambda room: (fakes_seq.make_marian(room / "m"), ["red dog", "dog", "cat", "a red cat", "red"], SHORT),
    "automatic-speech-recognition": lambda room: (fakes_speech.make_whisper(room / "m"), sounds(room), SHORT),
}  # fmt: skip


@pytest.fixture(scope="module", params=[*TASKS, *OF_MODELS])
def sample(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any], Outputs]:
    room = tmp_path_factory.mktemp("sample")
    folder, inputs, quick = SAMPLES[request.param](room)
    pipe = load(folder, task=None if request.param in OF_MODELS else request.param, plan=quick)
    return pipe, inputs, pipe.outputs(inputs)


def test_every_task_is_bound_and_whole(sample: Any) -> None:
    pipe, inputs, _ = sample
    task: Task = pipe.task
    assert isinstance(task, Task)
    assert task.model is pipe.model
    assert task.of(None).model is None
    for name, method in inspect.getmembers(type(task), inspect.isfunction):
        if not name.startswith("_") and name != "of":
            assert "model" not in inspect.signature(method).parameters, name
    values = [task.normalise(value) for value in inputs]
    assert [repr(task.normalise(value)) for value in values] == [repr(value) for value in values]


def test_its_outputs_are_columns_that_a_file_keeps(sample: Any) -> None:
    pipe, inputs, outputs = sample
    assert isinstance(outputs, Outputs)
    assert len(outputs) == len(inputs) == len(pipe.task.answers(outputs))
    again = outputs_file.parse(*outputs_file.write(outputs))
    assert list(again.columns) == list(outputs.columns)
    assert pipe.task.argmax_equal(again, outputs).all()
    for column in outputs.columns.values():
        assert (column.values if isinstance(column, Ragged) else column).dtype.kind in "biufU"


def test_its_answers_are_judged_row_by_row(sample: Any) -> None:
    pipe, _, outputs = sample
    task, n = pipe.task, len(outputs)
    assert task.argmax_equal(outputs, outputs).tolist() == [True] * n
    assert task.close(outputs, outputs, 0.0).tolist() == [True] * n
    np.testing.assert_allclose(task.divergence(outputs, outputs), np.zeros(n), atol=1e-12)
    own = task.agreement(outputs, outputs)
    assert own.shape == (n,)
    assert own.dtype == np.float64
    np.testing.assert_allclose(task.agreement(outputs[[3, 1]], outputs[[3, 1]]).shape, (2,))
    mixed = concat([outputs[3:], outputs[:3]])
    assert task.argmax_equal(mixed[[2, 3, 4, 0, 1]], outputs).all()
    assert task.argmax_equal(outputs.put([0], outputs[[1]])[[0]], outputs[[1]]).all()
    low, high = task.bounds() or (-np.inf, np.inf)
    assert ((own >= low) & (own <= high)).all()
    try:
        references = task.as_references(outputs)
    except PlanError:
        return
    np.testing.assert_allclose(task.scores(outputs, references), own)


def test_its_stock_plan_and_every_change_are_possible(sample: Any) -> None:
    pipe, inputs, _ = sample
    task = pipe.task
    stock = Plan(task.stock()).check(task.knobs())
    values = [task.normalise(value) for value in inputs]
    offered = [*task.changes(pipe.plan), *task.alternatives(pipe.plan), *task.inputs(pipe.settled(), values)]
    for change in offered:
        assert change.name
        assert change.step
        pipe.plan.with_(**change.choices).check(task.knobs())
    for steps in (stock.with_(**task.sorts), pipe.plan):
        steps.check(task.knobs())
    for step, knobs in task.knobs().items():
        for knob in knobs:
            assert all(knob.valid(value) for value in knob.values), (step, knob.name)
            assert knob.means or not knob.values, (step, knob.name)
    if task.strategy == "ladder":
        assert task.ladder.of(stock) in (task.by_hand(stock), *task.rungs(pipe, values))


def test_there_is_a_sample_for_every_task() -> None:
    assert set(SAMPLES) == {*TASKS, *OF_MODELS}


@pytest.mark.parametrize("name", [*ENGINES, *GENERATORS])
def test_every_engine_says_what_it_is(name: str) -> None:
    cls = engine_class(name)
    assert cls.name == name
    assert issubclass(cls, Generator if name in GENERATORS else Forward)
    for attribute, kind in {
        "extra": str,
        "package": str,
        "precisions": tuple,
        "takes": tuple,
        "cpu_only": bool,
    }.items():
        assert isinstance(inspect.getattr_static(cls, attribute), kind), attribute
    if issubclass(cls, Generator) and name != "ctranslate2":  # whose two kinds say it
        assert isinstance(cls.decodes, tuple)
        assert isinstance(cls.formats, tuple)


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_can_be_drawn(name: str) -> None:
    assert callable(resolve(VIEWS[name], "render"))
