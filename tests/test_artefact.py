from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llm_moments.assembly.artefact import MANIFEST
from llm_moments.assembly.load import load
from llm_moments.base.errors import ArtefactError, InputError, ModelError, OutputExists, PlanError
from llm_moments.core import Plan
from llm_moments.models.open import open_model
from llm_moments.train.distill import distill
from tests.fakes import make_texts

CHANGES = [
    {},
    {"truncate.max_length": 16, "batch.order": "length", "forward.precision": "bf16"},
    {"forward.engine": "openvino", "truncate.side": "tail"},
    {"forward.engine": "onnxruntime", "forward.precision": "int8-dynamic"},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("slim", [False, True])
def test_saved_and_loaded_answers_the_same(
    tiny_model: Path, tmp_path: Path, changes: dict, slim: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_moments.assembly.artefact import save

    pipe, texts = load(tiny_model, plan=changes), make_texts(12)
    expected = pipe.outputs(texts)
    save(pipe, tmp_path / "saved", slim=slim)
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "elsewhere"))
    again = load(tmp_path / "saved")
    assert again.plan == pipe.plan
    np.testing.assert_allclose(again.outputs(texts), expected, atol=1e-5)
    assert not (tmp_path / "elsewhere").exists()
    assert (
        slim is False or "forward.engine" not in changes or not list((tmp_path / "saved/model").glob("*.safetensors"))
    )


def test_a_cascade_is_saved_with_both_stages(tiny_model: Path, tmp_path: Path) -> None:
    plan = Plan(
        {
            "truncate": {"max_length": 32},
            "forward": {"engine": "openvino"},
            "cascade": {"threshold": 0.2, "cheap": {"truncate.max_length": 8, "forward.engine": "onnxruntime"}},
        }
    )
    pipe, texts = load(tiny_model, plan=plan), make_texts(12)
    pipe.save(tmp_path / "saved")
    assert len(list((tmp_path / "saved/model/built").iterdir())) == 2
    np.testing.assert_allclose(load(tmp_path / "saved").outputs(texts), pipe.outputs(texts), atol=1e-5)


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path) -> Path:
    return load(tiny_model).save(tmp_path / "saved")


def test_what_is_not_whole_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).unlink()
    with pytest.raises(ArtefactError, match="interrupted"):
        load(saved)
    (saved / MANIFEST).write_text(json.dumps({**manifest, "files": {**manifest["files"], "../outside": "x"}}))
    with pytest.raises(ArtefactError, match="outside"):
        load(saved)
    (saved / MANIFEST).write_text(json.dumps(manifest))
    (saved / "moments.toml").write_text("[truncate]\nmax_length = 8\n")
    with pytest.raises(ArtefactError, match=r"moments.toml.*changed"):
        load(saved)
    (saved / "model/config.json").unlink()
    with pytest.raises(ArtefactError):
        load(saved)


def test_nothing_is_overwritten_unasked(saved: Path, tiny_model: Path) -> None:
    with pytest.raises(OutputExists, match="--overwrite"):
        load(tiny_model).save(saved)
    load(tiny_model).save(saved, overwrite=True)


def test_unsafe_models_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickle"):
        open_model(pickled)
    coded = tmp_path / "coded"
    shutil.copytree(tiny_model, coded)
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.py"}}))
    with pytest.raises(ModelError, match="auto_map"):
        open_model(coded)
    with pytest.raises(ModelError, match="no such folder"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config.json"):
        open_model(tmp_path)


def test_plans_are_checked(tiny_model: Path) -> None:
    for changes, message in (
        ({"truncate.max_lenght": 8}, "did you mean 'max_length'"),
        ({"trunkate.side": "head"}, "unknown step 'trunkate'"),
        ({"truncate.max_length": 100_000}, "at most 64"),
        ({"truncate.side": "middle"}, "head, tail or head"),
        ({"batch.size": 0}, "impossible value 0"),
    ):
        with pytest.raises(PlanError, match=message):
            load(tiny_model, plan=changes)
    plan = Plan({"truncate": {"max_length": 8}, "cascade": {"threshold": 1.5, "cheap": {"truncate.max_length": 4}}})
    assert Plan.from_toml(plan.to_toml()) == plan
    with pytest.raises(PlanError, match="TOML"):
        Plan.from_toml("[[")


CHEAP = {"truncate.max_length": 8}


@pytest.mark.parametrize(
    ("cascade", "message"),
    [
        ({"threshold": 1.0}, "needs cheap"),
        ({"cheap": CHEAP}, "needs threshold"),
        ({"threshold": 1.0, "cheap": {}}, "needs cheap"),
        ({"threshold": 1.0, "cheap": 5}, "impossible value 5"),
        ({"threshold": "x", "cheap": CHEAP}, "impossible value 'x'"),
        ({"threshold": float("nan"), "cheap": CHEAP}, "impossible value nan"),
        ({"threshold": True, "cheap": CHEAP}, "impossible value True"),
        ({"threshold": 1.0, "cheap": CHEAP, "dear": {}}, "unknown knob cascade.dear"),
        ({"threshold": 1.0, "cheap": {"truncate": {"max_length": 8}}}, "quoted names"),
        ({"threshold": 1.0, "cheap": {"truncate.max_lenght": 8}}, "did you mean 'max_length'"),
        ({"threshold": 1.0, "cheap": {"trunkate.side": "head"}}, "unknown step 'trunkate'"),
        ({"threshold": 1.0, "cheap": {"cascade.cheap": CHEAP}}, "needs threshold"),
        ({"threshold": 1.0, "cheap": {"cascade.threshold": 3.0}}, "needs cheap"),
    ],
)
def test_a_cascade_that_cannot_be_run_is_a_plan_error(tiny_model: Path, cascade: dict, message: str) -> None:
    stock = load(tiny_model)
    with pytest.raises(PlanError, match=message):
        stock.with_(Plan({**stock.plan.to_dict(), "cascade": cascade}))
    with pytest.raises(PlanError, match="one table a step"):
        Plan.from_toml("cascade = 5")


def test_steps_are_replaced_and_left_out_by_name(tiny_model: Path) -> None:
    pipe = load(tiny_model)
    assert [s.name for s in pipe.steps] == ["precut", "tokenize", "truncate", "batch", "forward"]
    swapped = pipe.replace("truncate", pipe.with_(**{"truncate.max_length": 8}).steps[2])
    text = " ".join(["good"] * 30)
    np.testing.assert_allclose(
        swapped.outputs([text]), pipe.with_(**{"truncate.max_length": 8}).outputs([text]), atol=1e-6
    )
    with pytest.raises(InputError, match="did you mean 'truncate'"):
        pipe.without("truncat")


def test_other_hardware_is_told(tiny_model: Path, tmp_path: Path) -> None:
    from llm_moments.assembly.artefact import save

    saved = save(
        load(tiny_model), tmp_path / "a", certificate={"environment": {"cpu": "another", "cores": 99, "flags": []}}
    )
    with pytest.warns(UserWarning, match="other hardware.*another there"):
        load(saved)


CHILD = """
import sys, llm_moments as lm
while True:
    lm.load(sys.argv[1]).save(sys.argv[2], overwrite=True)
    print("saved", flush=True)
"""


@pytest.mark.slow
def test_killed_while_saving_leaves_a_whole_artefact(tiny_model: Path, tmp_path: Path) -> None:
    target, rng = tmp_path / "artefact", random.Random(1)
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tiny_model), str(target)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert load(target)("good").label


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_other_weights_travel_with_the_artefact(trained_model: Path, tmp_path: Path, engine: str) -> None:
    small = tmp_path / "small"
    distill(trained_model, make_texts(40), small, student="layers=1", epochs=1)
    pipe = load(trained_model)
    pipe.engines.variants["healed"] = open_model(small)
    cheap = {"forward.weights": "healed", "forward.engine": engine}
    plans = {
        "alone": pipe.with_(**cheap),
        "first": pipe.with_(**{"cascade.threshold": 1.0, "cascade.cheap": cheap}),
    }
    texts = make_texts(30, seed=5)
    for name, one in plans.items():
        before = one.outputs(texts)
        saved = load(one.save(tmp_path / name))
        assert (tmp_path / name / "model" / "weights" / "healed" / "config.json").exists()
        assert np.allclose(saved.outputs(texts), before, atol=1e-4)
        again = load(saved.save(tmp_path / f"{name}-again"))  # from an artefact to an artefact
        assert np.allclose(again.outputs(texts), before, atol=1e-4)
    alone = plans["alone"].outputs(texts)
    assert not np.allclose(alone, pipe.outputs(texts), atol=1e-2)
    assert np.allclose(alone, load(small).outputs(texts), atol=1e-4)
    with pytest.raises(ModelError, match="came without the weights 'other'"):
        pipe.with_(**{"forward.weights": "other"}).outputs(texts)
    with pytest.raises(PlanError, match="impossible value"):
        pipe.with_(**{"forward.weights": "../small"})
