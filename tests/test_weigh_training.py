"""`weigh --train`: gradients against a reference by hand, short runs that are kept, prices, the curve, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Example
from llm_moments.train.gradient_stats import BlockGradients, GradientStats, mean_gradients
from llm_moments.train.short_runs import ShortRuns, example_losses
from llm_moments.train.trainer import Trainer
from llm_moments.weigh.learning import TrainingWorth
from llm_moments.weigh.training import freezes, weigh_training
from tests.fakes import label_of, make_model, make_texts
from tests.fakes import logits as outputs_of

QUICK = {"max_length": 24, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.0, "precision": "fp32"}


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed, longest=16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def course(model: Path) -> ShortRuns:
    return ShortRuns(model, labelled(120), labelled(60, 5), QUICK)


# ---------------------------------------------------------------------------------- gradients


def test_gradients_are_what_one_update_does(course: ShortRuns) -> None:
    trainer = course.trainer({"clip": 0.0, "weight_decay": 0.0}, 0, course.rows(0, 16))
    trainer.observers.append(gradients := GradientStats(trainer.module, every=1))
    before = {name: p.detach().clone() for name, p in trainer.module.named_parameters()}
    trainer.module.train()
    trainer.update(next(iter(trainer.groups(0))), 0)
    seen = {b.name: b for b in gradients.seen()}
    layer = [(n, p) for n, p in trainer.module.named_parameters() if ".layer.0." in n]
    squares = sum(float(p.grad.square().sum()) for _, p in layer)
    moved = sum(float((p.detach() - before[n]).square().sum()) for n, p in layer) ** 0.5
    size = sum(float(p.detach().square().sum()) for _, p in layer) ** 0.5
    found = seen["layer 0"]
    assert found.parameters == sum(p.numel() for _, p in layer)
    assert found.norm == pytest.approx(squares**0.5, rel=1e-4)
    assert found.ratio == pytest.approx(moved / size, rel=1e-3)
    assert found.fisher == pytest.approx(16 * squares / found.parameters, rel=1e-4)
    assert sum(b.parameters for b in seen.values()) == sum(p.numel() for p in trainer.module.parameters())


def test_gradients_look_now_and_then_and_change_nothing(course: ShortRuns) -> None:
    ends = []
    for watch in (False, True):
        trainer = course.trainer({}, 0, course.rows(0, 120))
        gradients = GradientStats(trainer.module, every=3)
        if watch:
            trainer.observers.append(gradients)
        trainer.run(lambda done, message: None)
        ends.append(torch.cat([p.detach().reshape(-1) for p in trainer.module.parameters()]))
        if watch:
            assert {b.looks for b in gradients.seen()} == {-(-trainer.position.updates // 3)}
    assert torch.equal(*ends)


def test_a_frozen_block_has_no_gradient_and_means_are_weighed_by_looks(course: ShortRuns) -> None:
    trainer = course.trainer({"freeze": ["layer 0"]}, 0, course.rows(0, 32))
    trainer.observers.append(gradients := GradientStats(trainer.module))
    trainer.run(lambda done, message: None)
    frozen = next(b for b in gradients.seen() if b.name == "layer 0")
    assert (frozen.norm, frozen.ratio, frozen.fisher) == (0, 0, 0)
    runs = [
        [BlockGradients("a", 5, 1.0, 1.0, 1.0, 1)],
        [BlockGradients("a", 5, 4.0, 4.0, 4.0, 2)],
        [BlockGradients("a", 5)],
    ]
    assert mean_gradients(runs) == [BlockGradients("a", 5, 3.0, 3.0, 3.0, 3)]


# ---------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_losses_of_examples_are_torch_s(problem: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 1 if problem == "regression" else 3, dtype=torch.float64)
    functional = torch.nn.functional
    references: Any = [0, 2, 1, 1]
    if problem == "single_label_classification":
        wanted = functional.cross_entropy(logits, torch.tensor(references), reduction="none")
    elif problem == "regression":
        wanted = functional.mse_loss(logits[:, 0], torch.tensor(references, dtype=torch.float64), reduction="none")
    else:
        references = [{0, 2}, set(), {1}, {0}]
        rows = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
        wanted = functional.binary_cross_entropy_with_logits(logits, rows, reduction="none").mean(1)
    assert np.allclose(example_losses(outputs_of(logits.numpy()), references, problem), wanted.numpy())


def test_rows_are_nested_and_the_same_for_every_change(course: ShortRuns) -> None:
    assert course.rows(1, 20) == course.rows(1, 60)[:20]
    assert course.rows(1, 20) != course.rows(2, 20)


def test_a_run_is_kept_and_taken_from_its_file(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    made = ShortRuns(model, labelled(60), labelled(30, 5), QUICK, tmp_path)
    first = made.run({"freeze": ["layer 0"]}, 1, 32, watch=True)
    assert first == made.run({"freeze": ["layer 0"]}, 1, 32, watch=True)
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("it was run again"))
    again = ShortRuns(model, labelled(60), labelled(30, 5), QUICK, tmp_path)
    assert again.run({"freeze": ["layer 0"]}, 1, 32, watch=True) == first
    other = ShortRuns(model, labelled(60, 9), labelled(30, 5), QUICK, tmp_path)
    with pytest.raises(pytest.fail.Exception):
        other.run({"freeze": ["layer 0"]}, 1, 32, watch=True)


# ---------------------------------------------------------------------------------- the whole


@pytest.mark.slow
def test_weigh_training_prices_blocks_changes_and_data(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def weighed() -> TrainingWorth:
        return weigh_training(
            model, labelled(160), evaluate=labelled(60, 5), budget="10m", seeds=2, out=tmp_path / "out",
            extra={"smoothed": {"label_smoothing": 0.1}, "wrong": {"freeze": ["layer 9"]}}, **QUICK,
        )  # fmt: skip

    found = weighed()
    names = [w.name for w in found.worths]
    assert names[:2] == ["freeze embeddings", "freeze layer 0"]
    assert "freeze all up to layer 0" in names
    assert {"augment swap", "augment word-dropout", "augment balance"} < set(names)
    by_name = {w.name: w for w in found.worths}
    assert by_name["wrong"].verdict == "unavailable"
    assert "layer 9" in by_name["wrong"].reason
    for worth in found.worths:
        if worth.name != "wrong":
            assert worth.drop_low <= worth.drop <= worth.drop_high
            assert worth.saving is not None
            assert worth.n == 60
    assert [p.rows for p in found.curve.points] == [20, 40, 80, 160]
    assert all(b.looks and b.fisher and b.fisher > 0 for b in found.blocks)
    assert "Twice the data (320 examples)" in found.curve.words()
    assert found.about["rows"] == 160
    assert found.about["seeds"] == 2
    found.save(tmp_path / "worth.json")
    assert TrainingWorth.load(tmp_path / "worth.json").to_dict() == found.to_dict()
    page = found.report()
    assert "What more data would bring" in page
    assert "layer 0" in page
    assert "<table" in found._repr_html_()
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("it was run again"))
    assert weighed().curve == found.curve


def test_freezing_the_head_of_a_fresh_model_costs_what_a_paired_run_says(course: ShortRuns) -> None:
    """The drop is that of the runs themselves: seed by seed, example by example."""
    from llm_moments.weigh.training import _arrays, _priced

    pairs = [(course.run({}, s, 60), course.run({"freeze": ["head"]}, s, 60)) for s in (0, 1)]
    worth = _priced("freeze head", {"freeze": ["head"]}, pairs, _arrays(pairs), 0.001, 3, [])
    assert worth.drop == pytest.approx(np.mean([a.score - b.score for a, b in pairs]))


def test_of_a_deep_model_only_what_the_screen_finds_is_frozen() -> None:
    blocks = [BlockGradients(f"layer {i}", 10, 1.0, 0.1, float(12 - i), 1) for i in range(12)]
    blocks = [BlockGradients("embeddings", 10, 1.0, 0.1, 1.0, 1), *blocks]
    few, every = freezes(blocks), freezes(blocks, exhaustive=True)
    assert {"freeze layer 11", "freeze layer 10", "freeze layer 9", "freeze layer 8"} < set(few)
    assert len(few) == 1 + 5 + 1
    assert len(every) == 1 + 12 + 1


def test_images_and_linear_models_are_weighed_too(tmp_path: Path) -> None:
    from PIL import Image

    rng, examples = np.random.default_rng(0), []
    for at in range(80):
        pixels = rng.integers(0, 90, (8, 8), np.uint8)
        pixels[:, : 4 if at % 2 else 1] += 150
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
        examples.append(Example(str(tmp_path / f"{at}.png"), "left" if at % 2 else "none"))
    more: dict[str, Any] = {"model_options": {"channels": [4, 4], "hidden": 8}, "learning_rate": 0.01, "batch_size": 16}
    images = weigh_training("cnn", examples, budget="10m", seeds=2, **more)
    names = {w.name: w for w in images.worths}
    assert {"augment flip", "augment crop", "augment mixup"} < set(names)
    assert all(w.verdict != "unavailable" for w in images.worths), [w.reason for w in images.worths]
    words = weigh_training("linear", labelled(160), budget="10m", seeds=2)
    assert not words.blocks
    assert {w.name for w in words.worths} >= {"augment swap", "augment balance"}
    assert len(words.curve.points) == 4


def test_bad_input_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="allows .* runs"):
        weigh_training(model, labelled(100), budget="1s", **QUICK)
    with pytest.raises(InputError, match="seeds are 2 to 50"):
        weigh_training(model, labelled(100), seeds=1)
    with pytest.raises(InputError, match="unexpected keyword argument 'epoch'"):
        weigh_training(model, labelled(100), epoch=2)
    with pytest.raises(DataError, match="no label"):
        weigh_training(model, labelled(100), evaluate=["good film", "bad film"], **QUICK)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(InputError, match="something else"):
        weigh_training(model, labelled(100), out=tmp_path / "other", **QUICK)
    (tmp_path / "bad.json").write_text(json.dumps({"kind": "session"}))
    with pytest.raises(DataError, match="is not a result of tune --weigh"):
        TrainingWorth.load(tmp_path / "bad.json")
