"""The worth of a training on images, a faster one, and healing within a search: as for texts."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError
from llm_moments.core import Example
from llm_moments.evaluate.evaluation import split
from llm_moments.improve.heal import Healer, extent
from llm_moments.improve.heal_images import image_students, shares
from llm_moments.improve.search import Search
from llm_moments.improve.strategies import ladder as stages
from llm_moments.improve.study import Study
from llm_moments.improve.training import improve_training
from llm_moments.improve.training_space import BASELINE, moves
from llm_moments.models.open import open_model
from llm_moments.train.augment import priced_images
from llm_moments.train.short_runs import ShortRuns
from llm_moments.weigh.training import weigh_training
from tests.image_fakes import encoded, make_image_model, make_pictures

SMALL: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 16, "precision": "fp32"}
CNN: dict[str, Any] = {"model_options": {"channels": [4, 8], "hidden": 16, "grid": 4}}


def files(count: int, seed: int = 0) -> list[Example]:
    return [Example(encoded(e.input), e.reference) for e in make_pictures(count, seed=seed)]


# ---------------------------------------------------------------------------------- weigh --train


@pytest.mark.parametrize("arch", ["cnn", "vit", "resnet"])
def test_each_augmentation_block_and_amount_of_images_has_its_price(arch: str, tmp_path: Path) -> None:
    start = "cnn" if arch == "cnn" else make_image_model(tmp_path / arch, arch, size=16)
    more = CNN if arch == "cnn" else {}
    found = weigh_training(start, files(96), evaluate=make_pictures(60, seed=5), budget="20m", seeds=2, **SMALL, **more)
    priced = {w.name: w for w in found.worths}
    assert {f"augment {n}" for n in ("flip", "crop", "colour", "mixup", "cutmix", "balance")} < set(priced)
    assert "freeze layer 0" in priced
    assert "freeze head" in priced
    for worth in found.worths:
        assert worth.verdict != "unavailable", (worth.name, worth.reason)
        assert worth.drop_low <= worth.drop <= worth.drop_high
        assert worth.saving is not None
    assert all(b.looks and b.fisher and b.fisher > 0 for b in found.blocks)
    assert [p.rows for p in found.curve.points] == [12, 24, 48, 96]
    assert found.curve.gain is not None
    assert found.curve.low <= found.curve.gain <= found.curve.high


def test_two_layers_are_not_frozen_twice(tmp_path: Path) -> None:
    from llm_moments.train.gradient_stats import BlockGradients
    from llm_moments.weigh.training import freezes

    cnn = [BlockGradients(name, 10, 1.0, 0.1, 1.0, 1) for name in ("layer 0", "layer 1", "head")]
    assert list(freezes(cnn)) == ["freeze layer 0", "freeze layer 1", "freeze head"]


def test_a_crop_grows_with_the_image() -> None:
    assert priced_images(32)["crop"] == {"augment": {"crop": 4}}
    assert priced_images(224)["crop"] == {"augment": {"crop": 28}}
    assert priced_images(4)["crop"] == {"augment": {"crop": 1}}


def test_a_short_run_lays_images_out_as_a_training_does(tmp_path: Path) -> None:
    course = ShortRuns(
        make_image_model(tmp_path / "r", "resnet", size=16), make_pictures(20), make_pictures(20, seed=1), SMALL
    )
    weights = [
        p
        for p in course.trainer({}, 0, range(8)).module.parameters()
        if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1
    ]
    assert weights
    assert all(not p.is_contiguous() for p in weights)


def test_one_image_is_never_a_batch_where_batches_are_normalised(tmp_path: Path) -> None:
    start = make_image_model(tmp_path / "r", "resnet", size=8)
    few = make_pictures(9, size=8)
    done = lm.train(start, few, tmp_path / "m", epochs=2, **{**SMALL, "batch_size": 4})
    assert done.session is not None
    assert done.session.root.find("update").calls == 4
    assert done.session.root.find("forward").counts["items"] == 16
    with pytest.raises(InputError, match="--batch-size 2"):
        lm.train(start, few, tmp_path / "n", epochs=1, **{**SMALL, "batch_size": 1})


# ---------------------------------------------------------------------------------- improve --train


def test_moves_of_images_are_their_sizes_and_not_their_lengths() -> None:
    groups = list(moves({**BASELINE, "image_size": 32}, [], bf16=False, embeddings=False, sizes=[16, 24]))
    names = [move.name for group in groups for move in group]
    assert {"images of 16 pixels", "images of 24 pixels"} < set(names)
    assert not [n for n in names if "length" in n or "tokens" in n or "attention" in n]
    groups = list(moves({**BASELINE, "image_size": 16}, [], bf16=False, embeddings=False, sizes=[16, 24]))
    assert not [move for group in groups for move in group if "pixels" in move.name]


def test_a_faster_training_on_images_is_a_plan_that_train_takes(tmp_path: Path) -> None:
    start = make_image_model(tmp_path / "cnn", "cnn", size=32)
    data, judged = make_pictures(64, size=32), make_pictures(60, seed=5, size=32)
    out = tmp_path / "faster"
    done = improve_training(start, data, evaluate=judged, out=out, budget="20m", max_rise=0.9, learning_rate=1e-3)
    names = {entry["name"] for entry in done.tried}
    assert "images of 16 pixels" in names
    assert not {"rows of like length together", "attention as plain matrix products"} & names
    plan = tomllib.loads((out / "train.toml").read_text())["train"]
    assert plan["image-size"] in (16, 24, 32)
    trained = lm.train(start, data, tmp_path / "m", **{k.replace("-", "_"): v for k, v in plan.items()})
    assert load(trained.folder).plan["resize"]["size"] == plan["image-size"]


# ---------------------------------------------------------------------------------- improve --heal


def test_which_students_a_search_teaches(tmp_path: Path) -> None:
    def words(arch: str, **more: Any) -> dict[str, str]:
        return image_students(open_model(make_image_model(tmp_path / f"{arch}{len(more)}", arch, **more)))

    assert words("vit") == {"least": "layers=1"}  # a third and half of three layers are one, too
    assert words("vit", num_hidden_layers=6) == {"least": "layers=1", "third": "layers=2", "half": "layers=3"}
    assert words("convnext", depths=[2, 4]) == {"least": "layers=2", "half": "layers=3"}
    assert words("cnn") == {"quarter-width": "width=quarter", "half-width": "width=half"}
    assert words("mobilenet_v2") == {"cnn": "cnn"}
    assert list(shares(open_model(tmp_path / "cnn0"))) == ["quarter-width", "half-width"]


@pytest.mark.parametrize("arch", ["cnn", "convnext"])
def test_the_stage_teaches_smaller_classifiers_of_images(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_moments.train.problems import imitation

    start = "cnn" if arch == "cnn" else make_image_model(tmp_path / arch, arch, size=16)
    settings = {**SMALL, **(CNN if arch == "cnn" else {}), "epochs": 3}
    pipe = load(lm.train(start, make_pictures(120), tmp_path / "m", **settings).folder)
    study = Study(None, {})
    search = Search(
        pipe, split(pipe, make_pictures(200, seed=3))["search"], study, max_drop=0.3, n_certify=400, objective="throughput",
        deadline=time.monotonic() + 1000, tick=lambda done, said: None,
    )  # fmt: skip
    study.note("stock_cost", {"stock": 1e-3, "sorted": 1e-3})
    search.answer_as_stock()
    monkeypatch.setattr(stages, "variants", lambda search, *_: [("torch", "fp32")])
    monkeypatch.setattr(imitation, "MOST_EPOCHS", 1)
    search.try_plan(search.plan_of("torch", "fp32", 16), "lossy")
    search.heal = Healer(pipe, study, [pipe.task.normalise(e.input) for e in files(60, seed=9)], tmp_path, search.tick)
    stages.heal(search)
    healed = {t.plan["forward"]["weights"]: t for t in study.trials.values() if t.stage == "healed"}
    assert healed, study.notes.get("heal")
    name, trial = next(iter(healed.items()))
    assert name == ("healed-quarter-width" if arch == "cnn" else "healed-least")
    assert trial.status == "ok"
    assert Healer(pipe, Study(None, {}), [], tmp_path, search.tick)._known(name.removeprefix("healed-"))


def test_a_student_is_taught_at_an_extent(tmp_path: Path, tiny_model: Path) -> None:
    assert extent(load(make_image_model(tmp_path / "m", "cnn")), 24) == {"image_size": 24}
    assert extent(load(tiny_model), 24) == {"max_length": 24}


@pytest.mark.slow
def test_improve_heals_images_and_certifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stages, "variants", lambda search, *_: [("onnxruntime", "fp32")]
    )  # graphs of others take longer to build
    pictures = make_pictures(400, size=32)
    big = {"model_options": {"channels": [32, 64, 64], "hidden": 256}}
    start = lm.train("cnn", pictures, tmp_path / "m", epochs=4, learning_rate=2e-3, batch_size=16, **big).folder
    done = lm.improve(
        start, make_pictures(1500, seed=7, size=32), budget="60s", max_drop=0.05, heal=True, out=tmp_path / "better"
    )
    assert isinstance(done.healing, dict), done.healing
    assert done.certified, done.certificate.reason
    artefact, test = load(tmp_path / "better"), make_pictures(100, seed=8, size=32)
    assert sum(a.label == e.reference for a, e in zip(artefact.run(test), test, strict=True)) > 85
