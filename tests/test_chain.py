"""Models one after the other, held against each of them asked by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import InputError, ModelError, PlanError
from llm_moments.core import Example, Plan
from tests import fakes_speech
from tests.cli.command import moments
from tests.fakes import make_model

PLAN = {"asr.decode.max_new_tokens": 6}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("chain")
    fakes_speech.make_whisper(room / "ears")
    make_model(room / "mind", labels=["on", "off", "stop"])
    (room / "chain.toml").write_text(
        '[[stage]]\nname = "asr"\nmodel = "ears"\n\n[[stage]]\nname = "intent"\nmodel = "mind"\n'
        'plan = { "truncate.max_length" = 16 }\n'
    )
    for at in range(30):
        fakes_speech.write(room / f"{at}.wav", fakes_speech.tone(0.3 + at / 60, 250 + 30 * at))
    return room


@pytest.fixture(scope="module")
def sounds(room: Path) -> list[str]:
    return [str(room / f"{at}.wav") for at in range(30)]


@pytest.fixture(scope="module")
def pipe(room: Path) -> Any:
    return lm.load(room / "chain.toml", plan=PLAN)


def test_it_says_what_the_models_say_one_after_the_other(pipe: Any, room: Path, sounds: list[str]) -> None:
    ears = lm.load(room / "ears", plan={"decode.max_new_tokens": 6})
    mind = lm.load(room / "mind", plan={"truncate.max_length": 16})
    heard = [answer.text for answer in ears.run(sounds[:6])]
    expected = mind.outputs(heard)
    np.testing.assert_allclose(pipe.outputs(sounds[:6]), expected, atol=1e-5)
    assert [answer.label for answer in pipe.run(sounds[:6])] == [answer.label for answer in mind.run(heard)]
    together = lm.chain({"asr": ears, "intent": mind})
    np.testing.assert_allclose(together.outputs(sounds[:6]), expected, atol=1e-5)
    assert together.plan == pipe.plan


def test_sections_of_its_plan_are_named_by_stage(pipe: Any) -> None:
    assert pipe.plan.section("intent").get_choice("truncate.max_length") == 16
    assert pipe.plan.get_choice("asr.decode.max_new_tokens") == 6
    assert Plan.from_toml(pipe.plan.to_toml()) == pipe.plan
    with pytest.raises(PlanError, match=r"unknown step 'asr.truncate'"):
        pipe.with_(**{"asr.truncate.max_length": 3})
    with pytest.raises(PlanError, match=r"impossible value -1 for intent.truncate"):
        pipe.with_(**{"intent.truncate.max_length": -1})


def test_it_is_recorded_saved_and_opened_as_one(pipe: Any, sounds: list[str], tmp_path: Path) -> None:
    tree = lm.record(pipe, sounds[:4]).root
    stages = {child.name: {step.name for _, step in child.walk()} for child in tree.children}
    assert {"features", "decode"} <= stages["asr"]
    assert {"tokenize", "forward"} <= stages["intent"]
    pipe.save(tmp_path / "artefact")
    again = lm.load(tmp_path / "artefact")
    assert (again.plan, again.task.name) == (pipe.plan, "chain")
    np.testing.assert_allclose(again.outputs(sounds[:4]), pipe.outputs(sounds[:4]), atol=1e-5)
    (tmp_path / "artefact" / "model" / "intent" / "moments.toml").write_text("")
    with pytest.raises(lm.MomentsError, match="changed or damaged"):
        lm.load(tmp_path / "artefact")


def test_its_stages_choices_are_weighed_and_searched(pipe: Any, sounds: list[str], tmp_path: Path) -> None:
    examples = [Example(sound, ("on", "off")[n % 2], n) for n, sound in enumerate(sounds)]
    worths = lm.weigh(pipe, examples[:8], budget="10s")
    steps = {worth.step.partition(".")[0] for worth in worths}
    assert {"asr", "intent"} <= steps
    done = lm.improve(pipe, examples, max_drop=0.4, budget="14s", out=tmp_path / "out")
    assert done.certificate.n_certify > 10
    found = lm.load(tmp_path / "out")
    assert found.task.name == "chain"
    assert len(list(found.run(sounds[:3]))) == 3


def test_it_is_run_from_the_command_line(room: Path, sounds: list[str], tmp_path: Path) -> None:
    told = moments("run", room / "chain.toml", *sounds[:2], "--set", "asr.decode.max_new_tokens=6").stdout
    assert len(told.splitlines()) == 2
    assert {line.split("\t")[0] for line in told.splitlines()} <= {"on", "off", "stop"}


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(room: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        lm.load(room / "gone.toml")


def test_an_artefact_opens_no_model_from_elsewhere(pipe: Any, room: Path, tmp_path: Path) -> None:
    pipe.save(tmp_path / "a")
    file = tmp_path / "a" / "model" / "chain.toml"
    file.write_text(file.read_text().replace('model = "intent"', f'model = "{room / "mind"}"'))
    manifest = tmp_path / "a" / "MANIFEST.json"
    told = json.loads(manifest.read_text())
    told["files"]["model/chain.toml"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(told))
    with pytest.raises(ModelError, match="outside its artefact"):
        lm.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no chain"), ("stage = 3", "no chain"), ("[[stage]]\nname = 'a'\nmodel = 'mind'\n", "2 to 8 stages"),
        ("[[stage]]\nname = 'a'\nmodel = 'mind'\n[[stage]]\nname = 'a'\nmodel = 'mind'\n", "two stages"),
        ("[[stage]]\nname = 'a b'\nmodel = 'mind'\n[[stage]]\nname = 'a'\nmodel = 'mind'\n", "named by a word"),
        ("[[stage]]\nname = 'a'\nmodel = './gone'\n[[stage]]\nname = 'b'\nmodel = 'mind'\n", "no such folder"),
        ("[[stage]", "no chain"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_chain_is_refused(room: Path, text: str, said: str) -> None:
    (room / "wrong.toml").write_text(text)
    with pytest.raises((ModelError, InputError), match=said):
        lm.load(room / "wrong.toml")
