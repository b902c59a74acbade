"""Artefacts, plans, studies, checkpoints and recordings of the version before the house was rebuilt still work.

tests/made_before/make.py says how they were made, with the commit 91e6c5e.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import llm_moments as lm
from llm_moments.core import Example
from tests.cli.command import moments
from tests.fakes import label_of, make_texts
from tests.made_before.make import STORE, noise

TEXTS = make_texts(120, seed=3)
ROWS = [Example(text, label_of(text)) for text in TEXTS]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    with zipfile.ZipFile(STORE) as store:
        told: dict[str, Any] = json.loads(store.read("found.json"))
        return told


@pytest.fixture
def room(tmp_path: Path, found: dict[str, Any]) -> Path:
    """What that version had left, with its weights drawn again."""
    with zipfile.ZipFile(STORE) as store:
        store.extractall(tmp_path)
    for name, shapes in found["shapes"].items():
        noise(tmp_path / name, shapes)
    return tmp_path


def test_its_artefacts_answer_as_they_did(room: Path, found: dict[str, Any]) -> None:
    for name, expected in (("artefact", "answers"), ("improved", "improved")):
        pipe = lm.load(room / name)
        np.testing.assert_allclose(np.asarray(pipe.outputs(TEXTS[:20])), found[expected], atol=1e-5)
    told = json.loads((room / "improved" / "certificate.json").read_text())
    assert moments("show", room / "improved").stdout.count(f"{told['n_certify']}")


def test_its_plans_are_read(room: Path) -> None:
    plan = lm.Plan.from_toml((room / "artefact" / "moments.toml").read_text())
    assert plan.get_choice("cascade.cheap") == {"truncate.max_length": 6}
    assert lm.load(room / "model", plan=plan).plan == lm.load(room / "artefact").plan


def test_its_recordings_and_worths_are_shown(room: Path) -> None:
    session = lm.Session.load(room / "session.json")
    assert session.root.find("forward").calls
    assert "forward" in moments("show", room / "session.json").stdout
    assert "skip layer 0" in moments("show", room / "worths.json").stdout


@pytest.mark.slow
def test_its_study_goes_on(room: Path) -> None:
    told = map(json.loads, (room / "improved" / "study" / "trials.jsonl").open())
    tried = {trial["key"] for trial in told if not trial["key"].startswith("certify")}
    looks = json.loads((room / "improved" / "study" / "notes.json").read_text())["looks"]
    done = lm.improve(room / "model", ROWS, max_drop=0.3, budget="12s", out=room / "improved")
    assert tried <= {trial.key for trial in done.study}
    assert done.certificate.looks >= len(looks)


def test_its_checkpoint_goes_on_to_the_weights_that_it_went_to(room: Path, found: dict[str, Any]) -> None:
    made = list[int]()
    done = lm.train(
        room / "model", ROWS[:64], room / "trained", epochs=2, batch_size=16, checkpoint_every=2, precision="fp32",
        on_update=lambda loop: made.append(loop.position.updates),
    )  # fmt: skip
    assert made == [5, 6, 7, 8]
    for name, tensor in load_file(done.folder / "model.safetensors").items():
        assert tensor.astype(float).sum() == pytest.approx(found["trained"][name], abs=1e-4), name


def test_its_public_names_are_there() -> None:
    names = "Answer Certificate Example Improvement MomentsError Pipeline Plan Session Worth"
    verbs = "compare doctor improve load record train weigh"
    assert {*names.split(), *verbs.split()} <= set(lm.__all__)
    assert all(getattr(lm, name) is not None for name in lm.__all__)
