"""`tune`, and its older words `weigh --train` and `improve --train`, as a stranger runs them."""

from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from llm_moments.train.settings import Settings
from tests.cli.command import moments
from tests.fakes import label_of, make_model, make_texts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    make_model(folder / "model")
    for name, count, seed in (("train", 64, 0), ("eval", 60, 5)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([t, label_of(t)] for t in make_texts(count, seed=seed, longest=12))
    return folder


QUICK = ("--set", "max_length=16", "--set", "train.learning_rate=0.003")


def test_weigh_train_writes_every_view_and_show_shows_it(place: Path) -> None:
    out = place / "worth"
    views = ("--html", out / "w.html", "--tensorboard", out / "tb", "--csv", out / "w.csv")
    data = ("--weigh", "--data", place / "train.csv", "--eval", place / "eval.csv", "--budget", "20m", "--seeds", 2)
    found = json.loads(moments("tune", place / "model", *data, *QUICK, "--out", out, *views, "--json").stdout)
    assert found["kind"] == "training-worth"
    assert found["curve"]["words"].startswith("Twice the data (128 examples)")
    assert "What more data would bring" in (out / "w.html").read_text()
    assert list((out / "tb").iterdir())
    assert "freeze head" in (out / "w.csv").read_text()
    shown = moments("show", out / "worth.json").stdout
    assert "learning curve" in shown
    assert "augment swap" in shown


def test_improve_train_gives_a_plan_or_exit_3(place: Path) -> None:
    out = place / "faster"
    data = ("--data", place / "train.csv", "--eval", place / "eval.csv", "--budget", "20m")
    words = ("tune", place / "model", *data, *QUICK, "--out", out, "--max-rise", "0.00001")
    said = moments(*words, code=3).stdout
    assert "Not certified" in said
    plan = tomllib.loads((out / "train.toml").read_text())["train"]
    assert plan["batch-size"] == 8  # the usual plan, as it was
    trained = moments(
        "train",
        place / "model",
        "--data",
        place / "train.csv",
        "--config",
        out / "train.toml",
        "--out",
        place / "m",
        "--json",
    )
    assert json.loads(trained.stdout)["settings"]["order"] == "random"
    assert "Not certified" in moments("show", out / "certificate.json").stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("weigh", "--eval", "x.csv"), "--eval goes with --train only"),
        (("weigh", "--train", "--plan", "p.toml"), "--plan says nothing beside --train"),
        (("weigh", "--train", "--set", "truncate.max_length=8"), "train.epochs=2"),
        (("weigh", "--train", "--seeds", "1"), "seeds are 2 to 50"),
        (("improve", "--train"), "give examples with --eval"),
        (("improve", "--train"), "moments improve --train is `moments tune` now"),
        (("tune", "--seeds", "3"), "--seeds goes with --weigh only"),
        (("tune", "--weigh", "--max-rise", "0.1"), "--max-rise says nothing beside --weigh"),
        (("tune", "--weigh", "--set", "nonsense=3"), "nonsense"),
        (("improve", "--train", "--heal"), "--heal says nothing beside --train"),
        (("improve", "--max-rise", "0.1"), "--max-rise goes with --train only"),
        (("improve", "--train", "--eval", "EVAL", "--budget", "1s"), "too short"),
    ],
)
def test_what_cannot_be_is_named(place: Path, tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    verb, *rest = (str(place / "eval.csv") if w == "EVAL" else w for w in words)
    out = ("--out", tmp_path / "o") if verb in ("improve", "tune") else ()
    said = moments(verb, place / "model", "--data", place / "train.csv", *rest, *out, code=2).stderr
    assert named in said


def test_back_translation_by_two_models(place: Path) -> None:
    from tests.fakes_seq import make_marian

    models = [make_marian(place / name, seed) for seed, name in enumerate(("there", "back"))]
    words = ("train", place / "model", "--data", place / "train.csv", "--epochs", 1, "--max-length", 16)
    wanted = ("--augment", "back-translation=0.5", "--out", place / "reworded")
    both = ("--translate-there", models[0], "--translate-back", models[1])
    assert "takes two models" in moments(*words, *wanted, *both[:2], code=2).stderr
    assert "say nothing without --augment" in moments(*words, *both, "--out", place / "reworded", code=2).stderr
    found = json.loads(moments(*words, *wanted, *both, "--json").stdout)
    steps = {child["name"]: child for child in found["session"]["root"]["children"]}
    counts = next(c for c in steps["augment"]["children"] if c["name"] == "back-translation")["counts"]
    assert sum(counts[n] for n in ("reworded", "same", "empty", "too_long")) == counts["items"] > 0


def test_a_student_of_a_classifier_of_images(place: Path) -> None:
    from PIL import Image

    from tests.image_fakes import make_image_model, make_pictures

    teacher = make_image_model(place / "vit", "vit")
    for at, example in enumerate(make_pictures(24)):
        (place / "pictures" / example.reference).mkdir(parents=True, exist_ok=True)
        Image.fromarray(example.input).save(place / "pictures" / example.reference / f"{at}.png")
    words = ("distill", teacher, "--data", place / "pictures", "--epochs", 1)
    for student, more in (("layers=1", ()), ("cnn", ("--model-option", "channels=[4,8]", "--image-size", 24))):
        out = place / f"student-{student}"
        found = json.loads(moments(*words, "--student", student, *more, "--out", out, "--json").stdout)
        assert found["settings"]["image_size"] == (24 if student == "cnn" else 32)
        assert found["settings"]["learning_rate"] == (1e-3 if student == "cnn" else 3e-4)
    assert "no tokens" in moments(*words, "--max-length", 16, "--out", place / "s", code=2).stderr


def test_every_setting_of_a_training_can_be_said(place: Path, tmp_path: Path) -> None:
    help_ = moments("train", "--help").stdout
    for name in (field.name for field in fields(Settings)):
        shown = {"model_options": "model-option", "choices": "step.knob"}.get(name, name)
        assert shown in help_ or f"--{shown.replace('_', '-')}" in help_ or name == "choices", name
    data = ("--data", place / "train.csv", "--epochs", "1", "--max-length", "16")
    said = ("--set", "warm_up=0.3", "--set", "batch-tokens=200", "--set", 'optimizer_options={"betas": [0.8, 0.9]}')
    moments("train", place / "model", *data, *said, "--out", tmp_path / "set")
    again = (
        "--warm-up",
        "0.3",
        "--batch-tokens",
        "200",
        "--optimizer-option",
        "betas=[0.8,0.9]",
    )  # older words, hidden
    moments("train", place / "model", *data, *again, "--out", tmp_path / "said")
    told = [
        json.loads((tmp_path / name / "training.json").read_text())["training"]["settings"] for name in ("set", "said")
    ]
    assert told[0] == told[1]
    for word, named in (
        ("warm_up=many", "warm-up is a number"),
        ("batch_size=1.5", "whole number"),
        ("loud=1", "'loud'"),
    ):
        assert named in moments("train", place / "model", *data, "--set", word, "--out", tmp_path / "no", code=2).stderr
    assert not (tmp_path / "no").exists()


def test_a_stream_is_learnt_from_on_the_command_line(place: Path, tmp_path: Path) -> None:
    words = ("train", place / "model", "--data", place / "train.csv", "--stream", "--max-length", "16")
    assert "--updates" in moments(*words, "--out", tmp_path / "m", code=2).stderr
    moments(*words, "--updates", "3", "--out", tmp_path / "m")
    assert json.loads((tmp_path / "m" / "training.json").read_text())["training"]["history"][-1]["update"] == 3
