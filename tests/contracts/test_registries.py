"""Every entry of every registry is held against its contract: who adds one adds a sample here, or this fails."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError, PlanError
from llm_moments.base.registry import resolve
from llm_moments.base.views import VIEWS
from llm_moments.core import Outputs, Pipeline, Plan, Ragged, Task, outputs_file
from llm_moments.core.outputs import concat
from llm_moments.engines.base import ENGINES, Engines, engine_class
from llm_moments.engines.contract import Forward
from llm_moments.engines.generator import GENERATORS, Generator
from llm_moments.evaluate.evaluation import as_example
from llm_moments.tasks.base import OF_MODELS, TASKS
from llm_moments.train.feed import Feed, Rows
from llm_moments.train.losses import Distillation, Loss
from llm_moments.train.prepare import prepared
from llm_moments.train.problems import PROBLEMS
from llm_moments.train.problems.classification import Classification
from llm_moments.train.problems.contract import Asked, Problem
from llm_moments.train.problems.imitation import Imitation, Taught
from llm_moments.train.problems.texts import Texts
from llm_moments.train.settings import Settings
from llm_moments.train.students import STUDENTS, student_for
from llm_moments.train.students.contract import Student
from llm_moments.train.trainer import Trainer
from tests import fakes_pages, fakes_seq, fakes_speech
from tests.fakes import make_linear, make_model, make_texts
from tests.fakes_chat import make_chat
from tests.fakes_text import make_encoder
from tests.image_fakes import make_arrays, make_image_model

SHORT = {"decode.max_new_tokens": 4}


def sounds(folder: Path) -> list[str]:
    return [
        str(fakes_speech.write(folder / f"{n}.wav", fakes_speech.tone(0.4 + n / 5, 300 + 90 * n))) for n in range(5)
    ]


# By task: the folder of a model, five inputs, and changes that make it quick.
SAMPLES: dict[str, Callable[[Path], tuple[Path, list[Any], dict[str, Any]]]] = {
    "text-classification": lambda room: (make_model(room / "m"), make_texts(5), {}),
    "feature-extraction": lambda room: (make_encoder(room / "m"), make_texts(5), {}),
    "linear-text": lambda room: (make_linear(room / "m"), make_texts(5), {}),
    "image-classification": lambda room: (make_image_model(room / "m", "vit"), list(make_arrays(5)), {}),
    "chat": lambda room: (make_chat(room / "m"), ["hi", "who", "the movie", "good", "a film"], SHORT),
    "text-generation": lambda room: (make_chat(room / "m"), ["hi", "who", "the movie", "good", "a film"], SHORT),
    "multiple-choice": lambda room: (
        make_chat(room / "m"), [{"prompt": "the", "choices": ["good", "bad", "movie"][: 2 + n % 2]} for n in range(5)], {},
    ),
    "translation": lambda room: (fakes_seq.make_marian(room / "m"), ["red dog", "dog", "cat", "a red cat", "red"], SHORT),
    "text-detection": lambda room: (fakes_pages.model("det"), [str(fakes_pages.drawn(room, f"{n}", ["a word"] * n, (160, 120), 18)) for n in range(5)], {"page.side": 128}),
    "text-recognition": lambda room: (fakes_pages.model("rec"), [str(fakes_pages.drawn(room, f"{n}", [f"word {n}"], (160, 64), 18)) for n in range(5)], {}),
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


def test_its_inputs_are_taken_apart_and_put_together(sample: Any) -> None:
    pipe, inputs, outputs = sample
    task, value = pipe.task, pipe.task.normalise(inputs[0])
    for kind in task.part_kinds:
        parts = task.divided(value, kind)
        assert parts.kind == kind or kind in ("pieces", "turns")  # of a short text: what it has of them
        assert len(parts) >= 1
        whole, none = (parts.keep([on] * len(parts)) for on in (True, False))
        assert repr(task.normalise(whole)) == repr(whole)
        answer = task.explained(pipe, value)
        found = task.support(pipe, [whole, none], answer)
        assert found.same is None or found.same.tolist()[0] is True
        assert found.support.dtype == np.float64
        alone = task.support(pipe, [value], answer)
        np.testing.assert_allclose(found.support[0], alone.support[0], atol=1e-4)
        if found.tokens is not None:
            np.testing.assert_allclose(found.tokens.sum(axis=1), found.support, rtol=1e-5)
        assert task.unseen(pipe, value) == []
    if not task.part_kinds:
        with pytest.raises(InputError, match="taken apart"):
            task.divided(value, "words")


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


def asked(room: Path, model: Any, rows: list[Any], **more: Any) -> Asked:
    settings = Settings(epochs=1, batch_size=4, max_length=32)
    return Asked(model, room / "out", [as_example(row) for row in rows], "rows", settings, **more)


# By problem: what a call of `train` asked for, or of `distill`.
LEARNT: dict[str, Callable[[Path], Any]] = {
    "classification": lambda room: Classification(asked(room, make_model(room / "m"), [{"text": t, "label": "ab"[n % 2]} for n, t in enumerate(make_texts(9))])),
    "texts": lambda room: Texts(asked(room, make_chat(room / "m"), [{"prompt": "the movie", "label": "good film"}] * 5, task="text-generation")),
    "imitation": lambda room: Imitation(Taught(load(make_model(room / "m")), [as_example(t) for t in make_texts(9)], "layers=1", {"epochs": 1, "batch_size": 4})),
}  # fmt: skip


@pytest.mark.parametrize("name", [*PROBLEMS, "imitation"])
def test_every_problem_is_what_a_trainer_takes(name: str, tmp_path: Path) -> None:
    problem: Problem = LEARNT[name](tmp_path)
    assert isinstance(problem, Problem)
    assert json.loads(json.dumps(dict(problem.question))) == problem.question
    assert problem.question == LEARNT[name](tmp_path / "again").question or name == "imitation"
    job = problem.job(lambda done, said: None, lambda *_: None)
    assert isinstance(job.loss, Loss)
    assert isinstance(job.feed, Feed)
    trainer = Trainer(prepared(job.module, job.settings), job.pipe, job.feed, job.settings, job.loss)
    before = trainer.position.updates
    trainer.run(lambda done, said: None)
    assert trainer.position.updates - before == trainer.total > 0


STUDENT: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "kept": ("layers=1 heads=half", lambda room: make_model(room / "m")),
    "width": ("width=half", lambda room: make_image_model(room / "m", "cnn")),
    "cnn": ("cnn", lambda room: make_image_model(room / "m", "vit")),
    "folder": ("", lambda room: make_model(room / "m")),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_answers_what_its_teacher_is_asked(name: str, tmp_path: Path) -> None:
    word, make = STUDENT[name]
    base = load(make(tmp_path))
    student = student_for(base, word or str(make_model(tmp_path / "other", seed=5)))
    assert isinstance(student, Student)
    assert type(student) is resolve(STUDENTS[name], "train.students")
    settings: dict[str, Any] = {}
    student.usual(settings)
    wanted = Settings(**settings)
    student.check(wanted, 0.0)
    inputs = list(make_arrays(5)) if student.images else make_texts(5)
    values = [base.task.normalise(value) for value in inputs]
    begun = student.begin(values, base.outputs(values), wanted, lambda done, said: None)
    pipe = Pipeline(base.task.of(begun.model), student.plan(begun.model, wanted), engines=Engines(begun.model))
    rows = Rows(values, None)
    trainer = Trainer(begun.module, pipe, rows, wanted, Distillation(base.model.problem_type, np.zeros((5, 2))))
    assert trainer.outputs(values)["logits"].shape == base.outputs(values)["logits"].shape
