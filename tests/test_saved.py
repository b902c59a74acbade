"""Saved results that are damaged, edited or of another version: read or refused in words that name the file, never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from llm_moments.assembly.artefact import sha256, verify
from llm_moments.assembly.load import load
from llm_moments.base import schema
from llm_moments.base.environment import PEAKS, _kept
from llm_moments.base.errors import ArtefactError, DataError, EngineError, InputError, ModelError, MomentsError
from llm_moments.cli.show import _load, _print
from llm_moments.cli.views import write_views
from llm_moments.core import Plan
from llm_moments.improve.study import Study, Trial
from llm_moments.improve.training_certificate import TrainingCertificate, TrainingLook
from llm_moments.record.session import Session
from llm_moments.train.gradient_stats import BlockGradients
from llm_moments.train.training import RUN, Training
from llm_moments.weigh.learning import LearningCurve, Point, TrainingWorth
from tests.fakes import logits
from tests.test_html import CERTIFICATE, SESSION, WORTHS

ABOUT = {"metric": "accuracy", "rows": 100, "of_rows": 200, "epochs": 1, "updates": 13, "n": 50, "seeds": 2}
LEARNING = TrainingWorth(
    (BlockGradients("embeddings", 100, 0.1, 0.01, 0.2, 3), BlockGradients("head", 4)), WORTHS,
    LearningCurve((Point(50, 0.7, 0.6, 0.8, 2), Point(100, 0.8, 0.7, 0.9, 2)), 2.0, 0.02, 0.0, 0.04, "a power law"), ABOUT,
)  # fmt: skip
LOOK = TrainingLook("larger batches", {"batch_size": 32}, True, 0.4, 0.41, 0.0, 0.01, 0.02, 1.5, 1.2, 0.9, 0.9, 4, 100)
FASTER = TrainingCertificate(
    True, "", 0.05, 100, 1, {"batch_size": 32}, {"batch_size": 8}, (LOOK,),
    ({"name": "larger batches", "faster": 1.5, "loss": 0.4, "kept": True},), "accuracy", "data.csv", "model", {"cores": 2}, 9.0,
)  # fmt: skip
HISTORY = [
    {"update": 1, "epoch": 1, "loss": 0.5, "learning_rate": 0.1, "norm": 1.0},
    {"update": 4, "epoch": 1, "score": 0.8},
]
TRAINED = Training(
    Path("out"), SESSION, HISTORY, ("few rows",), {"data": "e.csv", "n": 5, "metric": "accuracy", "score": 0.8},
    {"epochs": 1, "freeze": []}, 3.0,
    {"labelled": 1, "unlabelled": 2, "known_already": 0, "threshold": 0.9, "by_class": {"good": 1}},
)  # fmt: skip
SAVED: dict[str, Any] = {
    "session": SESSION.to_dict(), "worth": WORTHS.to_dict(), "certificate": CERTIFICATE.to_dict(),
    "training-worth": LEARNING.to_dict(), "training-certificate": FASTER.to_dict(), "training": TRAINED.to_dict(),
}  # fmt: skip
SAVED = json.loads(json.dumps(SAVED))
WRONG: tuple[Any, ...] = (None, 5, -1.5, True, "x", [], {}, [[1]], {"a": 1}, "\ud800", float("nan"), 2**70)


def placed(kind: str, data: Any, folder: Path) -> Path:
    """The saved result where `show` finds it."""
    if kind != "training":
        (folder / "saved.json").write_text(json.dumps(data))
        return folder / "saved.json"
    (folder / RUN).write_text(json.dumps({"question": {}, "training": data}))
    return folder


def shown(path: Path, folder: Path, every: bool) -> None:
    found = _load(path)
    with (folder / "out.txt").open("w", errors="replace") as stream:
        _print(found, Console(file=stream, width=200))
    json.dumps(next(iter(found.values())).to_dict(), default=str)
    if every:
        views = {"html": folder / "r.html"} | ({} if "faster" in found else {"tensorboard": folder / "tb"})
        if {"session", "worths", "learning"} & found.keys():
            views |= {"csv": folder / "t.csv", "parquet": folder / "t.parquet"}
        write_views(**views, **found)


def told(path: Path, folder: Path, every: bool = False) -> bool:
    """Whether it could be shown; what could not is an error that names the file."""
    try:
        shown(path, folder, every)
    except MomentsError as error:
        assert str(path) in str(error)
        assert error.exit_code == 2
        return False
    return True


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*at, key))


def changed(data: Any, at: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    made = copy.deepcopy(data)
    inner = made
    for key in at[:-1]:
        inner = inner[key]
    change(inner, at[-1])
    return made


def put(value: Any) -> Callable[[Any, Any], None]:
    return lambda inner, key: inner.__setitem__(key, value)


@pytest.mark.parametrize("kind", SAVED)
def test_what_is_whole_is_shown_in_every_view(kind: str, tmp_path: Path) -> None:
    assert told(placed(kind, SAVED[kind], tmp_path), tmp_path, every=True)
    if kind != "training":
        assert not told(placed(kind, {**SAVED[kind], "format": 2}, tmp_path), tmp_path)
        assert not told(placed(kind, {**SAVED[kind], "kind": ["x"]}, tmp_path), tmp_path)
        assert not told(placed(kind, {**SAVED[kind], "misspelt": 1}, tmp_path), tmp_path)


@pytest.mark.parametrize("kind", SAVED)
def test_any_value_of_another_type_or_missing_is_told(kind: str, tmp_path: Path) -> None:
    refused = 0
    rng = np.random.default_rng(0)
    for number, at in enumerate(places(SAVED[kind])):
        for value in rng.permutation(np.array(WRONG, object))[:2]:
            refused += not told(placed(kind, changed(SAVED[kind], at, put(value)), tmp_path), tmp_path)
        without = changed(SAVED[kind], at, lambda inner, key: inner.__delitem__(key))
        refused += not told(placed(kind, without, tmp_path), tmp_path, every=number % 25 == 0)
    assert refused > 20
    for value in WRONG:
        assert not told(placed(kind, value, tmp_path), tmp_path)


@pytest.mark.parametrize("view", ["tensorboard", "csv", "parquet"])
def test_a_view_that_a_result_does_not_have_is_refused(view: str, tmp_path: Path) -> None:
    with pytest.raises(MomentsError, match="there (is no table|are no scalars)"):
        write_views(**{view: tmp_path / "view"}, **_load(placed("training-certificate", FASTER.to_dict(), tmp_path)))


@pytest.mark.parametrize("kind", SAVED)
def test_values_that_pass_are_shown_in_every_view(kind: str, tmp_path: Path) -> None:
    """Some places only, for pictures take their time."""
    some = list(places(SAVED[kind]))
    rng = np.random.default_rng(len(some))
    for at in rng.choice(len(some), 6):
        value = WRONG[rng.integers(len(WRONG))]
        told(placed(kind, changed(SAVED[kind], some[at], put(value)), tmp_path), tmp_path, every=True)


@pytest.mark.parametrize("kind", SAVED)
def test_a_file_that_is_cut_or_changed_in_any_byte_is_told(kind: str, tmp_path: Path) -> None:
    path = placed(kind, SAVED[kind], tmp_path)
    file = path if path.is_file() else path / RUN
    raw, rng = file.read_bytes(), np.random.default_rng(3)
    for at in rng.choice(len(raw), 20):
        file.write_bytes(raw[:at])
        assert not told(path, tmp_path)
        broken = bytearray(raw)
        broken[at] ^= 1 << rng.integers(8)
        file.write_bytes(broken)
        told(path, tmp_path)


@pytest.mark.parametrize("text", ["", " ", "\x00", "[", "[" * 99_999, "9" * 5000, '{"kind": "session"}', "nonsense"])
def test_what_is_no_result_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    assert not told(tmp_path / "s.json", tmp_path)
    with pytest.raises(DataError, match=r"s\.json is not a saved session"):
        Session.load(tmp_path / "s.json")


def test_an_artefact_shows_what_of_its_study_can_be_read(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = load(tiny_model).save(tmp_path / "a")
    study = Study(folder / "study", {})
    plan = Plan({"truncate": {"max_length": 8}})
    study.add(Trial(plan.to_dict(), plan.key, "cut", n=2, gain=2.0, drop=0.0), logits(np.zeros((2, 2))))
    with (folder / "study" / "trials.jsonl").open("a") as stream:
        stream.write("garbage\n")
    (folder / "certificate.json").write_text(json.dumps(SAVED["certificate"]))
    found = _load(folder)
    assert [t.key for t in found["study"]] == [plan.key]
    assert "line 2 is no trial" in capsys.readouterr().err
    (folder / "certificate.json").write_text("{}")
    with pytest.raises(DataError, match=r"certificate\.json is not a certificate"):
        _load(folder)


@pytest.fixture
def artefact(tmp_path: Path, tiny_model: Path) -> Path:
    return load(tiny_model).save(tmp_path / "artefact")


def test_a_manifest_that_is_wrong_in_any_value_is_told(artefact: Path) -> None:
    whole = json.loads((artefact / "MANIFEST.json").read_text())
    for at in places(whole):
        for value in (*WRONG[:6], "../../etc/passwd", "\x00"):
            (artefact / "MANIFEST.json").write_text(json.dumps(changed(whole, at, put(value))))
            tried(artefact)
        (artefact / "MANIFEST.json").write_text(
            json.dumps(changed(whole, at, lambda inner, key: inner.__delitem__(key)))
        )
        if at[-1] not in ("model", "notes", "task") and len(at) == 1:
            with pytest.raises(ArtefactError, match=r"MANIFEST\.json|artefact"):
                verify(artefact)
    for name in ("\x00", "a" * 5000, "../x", "/etc/passwd", "link/x"):
        (artefact / "MANIFEST.json").write_text(json.dumps({**whole, "files": {**whole["files"], name: "0"}}))
        with pytest.raises(ArtefactError):
            verify(artefact)
    for notes in (5, {"task": [[]]}, {"task": 5}, {"max_length": "x"}, {"translate": 5}):
        (artefact / "MANIFEST.json").write_text(json.dumps({**whole, "notes": notes}))
        with pytest.raises(ArtefactError, match="notes|task|max_length|translate"):
            load(artefact)


def tried(artefact: Path) -> None:
    try:
        verify(artefact)
        load(artefact)
    except MomentsError as error:
        assert error.exit_code == 2


def test_an_artefact_without_its_plan_or_with_a_wrong_one_is_told(artefact: Path) -> None:
    whole = json.loads((artefact / "MANIFEST.json").read_text())
    for text in (b"\xff\xfe", b"a = [", b"x = 5\n"):
        (artefact / "moments.toml").write_bytes(text)
        files = {**whole["files"], "moments.toml": sha256(artefact / "moments.toml")}
        (artefact / "MANIFEST.json").write_text(json.dumps({**whole, "files": files}))
        with pytest.raises(ArtefactError, match=r"moments\.toml is not a plan"):
            load(artefact)
    (artefact / "MANIFEST.json").write_text(json.dumps({**whole, "files": {}}))
    with pytest.raises(ArtefactError, match=r"names no moments\.toml"):
        load(artefact)


@pytest.mark.parametrize("text", ["[]", "5", '{"task": [[]]}', '{"max_length": "8"}', '{"translate": []}', "{"])
def test_the_notes_of_a_trained_model_have_their_types(text: str, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "moments.json").write_text(text)
    with pytest.raises(ModelError, match=r"moments\.json.* (should|cannot be read)"):
        load(tmp_path / "m")


def test_names_beside_a_built_graph_and_kept_peaks(tmp_path: Path) -> None:
    from llm_moments.engines.export import NAMES, build

    (tmp_path / "built" / "g").mkdir(parents=True)
    for text in ("5", "{}", "[5]", "[", ""):
        (tmp_path / "built" / "g" / NAMES).write_text(text)
        with pytest.raises(EngineError, match=r"fields\.json.*Delete the folder"):
            build(tmp_path / "built" / "g", lambda folder: [])
    for peak in ("x", None, [], -1, 0, float("nan"), 2**70):
        (tmp_path / "p.json").write_text(json.dumps({**dict.fromkeys(PEAKS, 5.0), "fp32": peak}))
        assert (_kept(tmp_path / "p.json") is None) == (peak is not None)


def test_numbers_and_texts_that_nothing_can_hold_are_refused() -> None:
    for raw in (b'{"a": 99999999999999999999}', b'"\\ud800"', b"\xff", b"[" * 100_000, b""):
        with pytest.raises(DataError):
            schema.parse(raw)
    assert schema.parse(b'["\\ud83d\\ude00", NaN, 9223372036854775807]')[0] == "\U0001f600"
    assert issubclass(DataError, InputError)


PLACE = {
    "epoch": 1,
    "batches": 2,
    "updates": 3,
    "best": None,
    "best_epoch": 0,
    "history": [],
    "losses": [0.5],
    "start": 0.0,
}


def test_a_checkpoint_that_is_wrong_in_any_value_is_not_gone_on_from(tmp_path: Path) -> None:
    import torch

    from llm_moments.train import checkpoints
    from llm_moments.train.trainer import Place

    module = torch.nn.Linear(3, 2)
    step = torch.optim.AdamW(module.parameters(), 0.1)
    plan = torch.optim.lr_scheduler.LambdaLR(step, lambda at: 1.0)
    for update in (1, 2):
        module(torch.ones(1, 3)).sum().backward()
        step.step()
        path = checkpoints.save(tmp_path, update, module, step, plan, PLACE)
    assert checkpoints.restore(path, module, step, plan, Place) == PLACE
    whole = json.loads((path / "state.json").read_text())
    for at in places(whole):
        for change in (put(5.5), put({"a": "x"}), lambda inner, key: inner.__delitem__(key)):
            (path / "state.json").write_text(json.dumps(changed(whole, at, change)))
            found = checkpoints.latest(tmp_path, Place)
            assert found is not None
            assert found.name == "step-00000001" or at == ("digest",)
    del whole["digest"], whole["position"]["updates"]  # as an older version wrote it, and a value is missing
    (path / "state.json").write_text(json.dumps(whole))
    with pytest.raises(ArtefactError, match=r"state\.json is not the state of a checkpoint.*updates"):
        checkpoints.restore(path, module, step, plan, Place)


def test_damaged_weights_of_the_best_epoch_are_told(tmp_path: Path) -> None:
    from types import SimpleNamespace

    import torch

    from llm_moments.train.trainer import Trainer

    loop: Any = SimpleNamespace(
        folder=tmp_path, module=torch.nn.Linear(2, 2), settings=SimpleNamespace(early_stopping=1)
    )
    Trainer.save_best(loop)
    Trainer.take_best(loop)
    file = tmp_path / "best" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ArtefactError, match="best epoch, is damaged"):
        Trainer.take_best(loop)


@pytest.mark.parametrize("text", ["[]", "{", '{"rows": "x", "judged": 5}', '{"rows": 5}', '{"rows": 0, "judged": 5}'])
def test_what_was_decided_for_runs_is_read_as_it_was_written(text: str, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from llm_moments.train.short_runs import ShortRuns

    course: Any = SimpleNamespace(folder=tmp_path, question={})
    made = ShortRuns.kept(course, "improve", {}, lambda: {"rows": 5, "judged": 6}, ("rows", "judged"))
    assert ShortRuns.kept(course, "improve", {}, dict, ("rows", "judged")) == made
    next(tmp_path.iterdir()).write_text(text)
    with pytest.raises(DataError, match="is not what was decided"):
        ShortRuns.kept(course, "improve", {}, dict, ("rows", "judged"))


def test_a_damaged_run_is_made_again(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from llm_moments.train.short_runs import Run, ShortRuns

    run = Run({}, 0, 8, 1, 1.0, 0.1, (1.0,), (0.5,), (BlockGradients("head", 4),))
    file, said = tmp_path / "run.json", []
    course: Any = SimpleNamespace(part=None, _file=lambda *_: file, _made=lambda *_: run)
    for text in (
        "",
        "[]",
        "{}",
        json.dumps({**run.to_dict(), "losses": "x"}),
        json.dumps({**run.to_dict(), "blocks": [5]}),
    ):
        file.write_text(text)
        assert ShortRuns.run(course, {}, 0, 8, tick=lambda done, message: said.append(message)) == run
        assert Run.from_dict(json.loads(file.read_text())) == run
    assert all("made again" in message for message in said)
    assert len(said) == 5


def test_damaged_translations_are_made_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from llm_moments.train.back_translation import BackTranslation, _checked

    assert _checked({"a": ["b", ""], "c": ["", "same"]}) == {"a": ("b", ""), "c": ("", "same")}
    for wrong in ([], {"a": "b"}, {"a": ["b"]}, {"a": ["", "why"]}, {"a": [1, ""]}):
        with pytest.raises(DataError):
            _checked(wrong)
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "a.json").write_text('{"a": ["b", ""]}')
    (tmp_path / "key" / "b.json").write_text("garbage")
    made = object.__new__(BackTranslation)
    made.known, made.why, made.folder = {}, {}, tmp_path / "key"
    made._kept()
    assert made.known == {"a": "b"}
    assert "translated again" in capsys.readouterr().err
