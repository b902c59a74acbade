"""The loop: losses and optimisers against their sources, resuming, bad weather, what is learnt and recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import llm_moments as lm
from llm_moments.assembly.load import load
from llm_moments.base.errors import ArtefactError, DataError, EngineError, InputError, OutputExists
from llm_moments.core import Example
from llm_moments.train import checkpoints
from llm_moments.train.data_checks import LossMonitor, TrainingStopped, leaks, warnings
from llm_moments.train.distill import distill
from llm_moments.train.lesson import labels_of
from llm_moments.train.losses import Distillation, balanced, loss_for
from llm_moments.train.optimisers import optimiser, schedule
from llm_moments.train.place import run_folder
from llm_moments.train.students.stages import fewer
from llm_moments.train.train import train
from llm_moments.train.training import Training
from tests.fakes import ARCHITECTURES, OTHERS, label_of, make_model, make_texts, spoil_loss

SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


# ---------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("problem", "name", "more"),
    [
        (SINGLE, None, {}),
        (SINGLE, "cross-entropy", {"label_smoothing": 0.1}),
        (SINGLE, "cross-entropy", {"class_weights": torch.tensor([0.5, 2.0, 1.0])}),
        (SINGLE, "binary-cross-entropy", {}),
        (SINGLE, "mean-squared-error", {}),
        (SEVERAL, None, {}),
        (NUMBER, None, {}),
    ],
)
def test_gradients_of_losses_are_those_of_finite_differences(problem: str, name: str | None, more: Any) -> None:
    torch.manual_seed(0)
    loss = loss_for(problem, name, **more)
    logits = torch.randn(4, 1 if problem == NUMBER else 3, requires_grad=True)
    targets = {
        SINGLE: torch.tensor([0, 2, 1, 1]),
        SEVERAL: torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
        NUMBER: torch.tensor([0.5, -1.0, 2.0, 0.0]),
    }[problem]
    close(lambda x: loss(SimpleNamespace(logits=x), targets, {}), logits)


@pytest.mark.parametrize("problem", [SINGLE, SEVERAL, NUMBER])
def test_distillation_pulls_towards_the_teacher(problem: str) -> None:
    torch.manual_seed(0)
    width = 1 if problem == NUMBER else 3
    told, rows = torch.randn(6, width), torch.tensor([5, 0, 2, 3])
    loss = Distillation(problem, told, temperature=2.0)
    logits = torch.randn(4, width, requires_grad=True)
    close(lambda x: loss(SimpleNamespace(logits=x), rows, {}), logits)
    same = loss(SimpleNamespace(logits=told[rows]), rows, {})
    assert float(same) < float(loss(SimpleNamespace(logits=logits.detach()), rows, {}))


def close(loss: Any, x: Any, step: float = 1e-2) -> None:
    """Central differences in float32: steps large enough not to be lost, the loss smooth enough for them."""
    (given,) = torch.autograd.grad(loss(x), x)
    found = torch.zeros_like(x)
    for at in range(x.numel()):
        moved = torch.zeros(x.numel())
        moved[at] = step
        moved = moved.view_as(x)
        found.view(-1)[at] = (loss(x.detach() + moved) - loss(x.detach() - moved)) / (2 * step)
    assert torch.allclose(given, found, atol=2e-3), (given, found)


def test_balanced_weights_make_every_class_count_alike() -> None:
    weights = balanced([0, 0, 0, 1], 3)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0, 0.0])


@pytest.mark.parametrize(
    ("problem", "name", "more"),
    [
        (SINGLE, "hinge", {}),
        (SEVERAL, "cross-entropy", {}),
        (NUMBER, "binary-cross-entropy", {}),
        (SEVERAL, None, {"label_smoothing": 0.1}),
    ],
)
def test_losses_that_do_not_fit_are_refused(problem: str, name: str | None, more: Any) -> None:
    with pytest.raises(InputError):
        loss_for(problem, name, **more)


# ---------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.05)),
        ("momentum", lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
        ("nesterov", lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
        ("adam", lambda p: torch.optim.Adam(p, 0.05)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.0)),
        ("adafactor", lambda p: torch.optim.Adafactor(p, 0.05)),
        ("RMSprop", lambda p: torch.optim.RMSprop(p, 0.05)),
    ],
)
def test_optimisers_step_as_torch_does(name: str, theirs: Any) -> None:
    torch.manual_seed(0)
    mine, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    other.load_state_dict(mine.state_dict())
    steps = (optimiser(name, mine, 0.05, 0.0, {}), theirs(other.parameters()))
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    for _ in range(5):
        for module, step in zip((mine, other), steps, strict=True):
            step.zero_grad()
            torch.nn.functional.mse_loss(module(x), y).backward()
            step.step()
    assert torch.allclose(mine.weight, other.weight, atol=1e-6)  # ours in one pass over the weights, where it can be
    assert torch.allclose(mine.bias, other.bias, atol=1e-6)


def test_decay_is_for_matrices_only_and_unknown_things_are_named() -> None:
    module = torch.nn.Linear(3, 2)
    groups = optimiser("adamw", module, 0.1, 0.5, {"betas": [0.8, 0.9]}).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.5), (1, 0.0)]
    assert list(groups[0]["betas"]) == [0.8, 0.9]
    for name, options in (("adamq", {}), ("lbfgs", {}), ("sgd", {"betas": 1}), ("optimizer", {})):
        with pytest.raises(InputError):
            optimiser(name, module, 0.1, 0.0, options)


@pytest.mark.parametrize(
    ("name", "peak", "last"),
    [("constant", 10, 1.0), ("linear", 10, 0.011), ("cosine", 10, 0.001), ("one-cycle", 10, 0.001)],
)
def test_schedules_rise_and_fall(name: str, peak: int, last: float) -> None:
    step = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 1.0)
    plan = schedule(name, step, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(plan.get_last_lr()[0])
        step.step()
        plan.step()
    assert rates[peak] == pytest.approx(1.0, abs=0.02)
    assert rates[0] < 0.2
    assert rates[-1] == pytest.approx(last, abs=0.01)


# ---------------------------------------------------------------------------------- resuming


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "tokens and accumulation": {"batch_tokens": 200, "accumulate": 3, "schedule": "cosine"},
    "momentum, one-cycle": {"optimizer": "nesterov", "schedule": "one-cycle", "learning_rate": 0.01},
    "adafactor, frozen": {"optimizer": "adafactor", "freeze": ("embeddings", "layer 0")},
    "judged, stopped early": {"evaluate": True, "early_stopping": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_was_ended_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, name: str) -> None:
    data = labelled(150)
    settings = {"epochs": 2, "batch_size": 16, "checkpoint_every": 3, **VARIANTS[name]}
    if settings.get("evaluate"):
        settings["evaluate"] = labelled(60, seed=9)
    whole = train(tiny_model, data, tmp_path / "whole", **settings)
    for ended in (2, 8):
        out, seen = tmp_path / f"ended{ended}", 0

        def end(loop: Any, ended: int = ended) -> None:
            nonlocal seen
            seen += 1
            if seen == ended:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tiny_model, data, out, on_update=end, **settings)
        assert not out.exists()
        again = train(tiny_model, data, out, **settings)
        assert load(again.folder).model.digest == load(whole.folder).model.digest
        assert [e for e in again.history if "loss" in e] == [e for e in whole.history if "loss" in e]
        assert not run_folder(out).exists()
    assert train(tiny_model, data, out, **settings).history == again.history  # it is done: nothing is done again
    with pytest.raises(OutputExists):
        train(tiny_model, data, out, **{**settings, "seed": 5})


def test_an_evaluation_leaves_the_threads_of_the_training_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    """Sums over two threads differ in their last bits from sums over one."""
    before, seen = torch.get_num_threads(), set()
    try:
        torch.set_num_threads(before + 1)
        train(
            tiny_model, labelled(40), tmp_path / "out", evaluate=labelled(20, seed=9), epochs=2, batch_size=16,
            on_update=lambda loop: seen.add(torch.get_num_threads()),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert seen == {before + 1}


def test_damaged_checkpoints_are_passed_over_and_foreign_ones_refused(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    step = torch.optim.AdamW(module.parameters(), 0.1)
    plan = schedule("linear", step, 10, 0.0)
    for update in (1, 2, 3):
        module(torch.ones(1, 3)).sum().backward()
        step.step()
        checkpoints.save(tmp_path, update, module, step, plan, {"at": update})
    assert [p.name for p in checkpoints.found(tmp_path)] == ["step-00000003", "step-00000002"]
    (tmp_path / "step-00000003" / checkpoints.WEIGHTS).write_bytes(b"half")
    path = checkpoints.latest(tmp_path)
    assert path is not None
    assert path.name == "step-00000002"
    assert checkpoints.restore(path, module, step, plan) == {"at": 2}
    other = torch.nn.Linear(4, 2)
    with pytest.raises(ArtefactError, match="another model"):
        checkpoints.restore(path, other, torch.optim.AdamW(other.parameters(), 0.1), plan)
    (path / checkpoints.STATE).write_text("{")
    with pytest.raises(ArtefactError, match="no checkpoint"):
        checkpoints.latest(tmp_path)


# ---------------------------------------------------------------------------------- what is learnt


def test_it_learns_the_toy_task(trained_model: Path) -> None:
    texts = make_texts(200, seed=5)
    right = [a.label == label_of(t) for a, t in zip(load(trained_model).run(texts), texts, strict=True)]
    assert sum(right) / len(right) > 0.85
    assert load(trained_model).model.trained_length == 48


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *OTHERS])
def test_every_architecture_can_overfit_a_few_rows(arch: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", arch)
    data = labelled(16)
    done = train(
        model, data, tmp_path / "out", epochs=38, batch_size=8, learning_rate=5e-3, precision="fp32",
        schedule="constant", checkpoint_every=1000,
    )  # fmt: skip
    right = [a.label == e.reference for a, e in zip(load(done.folder).run([e.input for e in data]), data, strict=True)]
    assert sum(right) / len(right) > 0.85, done.history[-3:]


def test_the_same_seed_gives_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    one, two = (train(tiny_model, labelled(64), tmp_path / name, epochs=1).folder for name in "ab")
    assert load(one).model.digest == load(two).model.digest


@pytest.mark.parametrize(
    ("references", "problem"),
    [([0.5, 1.25], NUMBER), ([["a", "b"], ["a"]], SEVERAL), ([0, 1], SINGLE)],
)
def test_problem_types(tiny_model: Path, tmp_path: Path, references: list, problem: str) -> None:
    data = [Example(t, references[i % 2]) for i, t in enumerate(make_texts(16))]
    pipe = load(train(tiny_model, data, tmp_path / "m", epochs=1, evaluate=data).folder)
    assert pipe.model.problem_type == problem
    assert "score" in pipe.model.notes["evaluation"]


def test_a_head_that_knows_the_labels_is_kept_with_its_order(trained_model: Path, tmp_path: Path) -> None:
    data = [e for e in labelled(80, seed=6) if e.reference != "neutral"]
    done = train(trained_model, data, tmp_path / "m", epochs=1, learning_rate=1e-6)
    assert load(done.folder).model.labels == load(trained_model).model.labels
    assert any("neutral never occurs" in warning for warning in done.warnings)
    texts = make_texts(60, seed=8)
    before, after = ([a.label for a in load(m).run(texts)] for m in (trained_model, done.folder))
    assert before == after


def test_dropout_can_be_set_and_is_the_models_own_otherwise(tiny_model: Path, tmp_path: Path) -> None:
    seen: dict[Any, set[float]] = {}
    for wanted in (None, 0.0, 0.4):

        def look(loop: Any, wanted: Any = wanted) -> None:
            seen[wanted] = {m.p for m in loop.module.modules() if isinstance(m, torch.nn.Dropout)}

        train(tiny_model, labelled(16), tmp_path / str(wanted), epochs=1, dropout=wanted, on_update=look)
    assert seen[0.0] == {0.0}
    assert seen[0.4] == {0.4}
    assert seen[None] - {0.0, 0.4}


def test_frozen_blocks_stay_and_adapters_are_merged(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    before = load_file(next(tiny_model.glob("*.safetensors")))
    done = train(tiny_model, labelled(32), tmp_path / "f", epochs=1, freeze=("embeddings", "layer 1"))
    after = load_file(next(done.folder.glob("*.safetensors")))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("layer.0." in name for name in moved)
    assert not any("layer.1." in name or "embeddings" in name for name in moved)
    pytest.importorskip("peft")
    done = train(tiny_model, labelled(32), tmp_path / "l", epochs=1, lora=4)
    after = load_file(next(done.folder.glob("*.safetensors")))
    assert set(after) == set(before)
    assert any(not torch.equal(before[name], after[name]) for name in before if "query" in name)


# ---------------------------------------------------------------------------------- distillation


def test_a_student_of_two_layers_answers_as_its_teacher(trained_model: Path, tmp_path: Path) -> None:
    texts = make_texts(400, seed=11)
    done = distill(trained_model, texts, tmp_path / "s", student="layers=2", evaluate=make_texts(200, seed=12), epochs=6,
                   learning_rate=1e-3)  # fmt: skip
    small = load(done.folder)
    assert small.model.config["num_hidden_layers"] == 2
    assert done.evaluation is not None
    assert done.evaluation["score"] > 0.85
    bare = load(trained_model).with_(**{"forward.skip_layers": [1]})
    assert done.history
    assert small.model.labels == bare.model.labels
    names = [step.name for step in done.session.root.children]
    assert "forward" in names


def test_a_student_learns_hidden_states_and_may_be_another_model(trained_model: Path, tmp_path: Path) -> None:
    texts = make_texts(60, seed=11)
    done = distill(trained_model, texts, tmp_path / "h", student="layers=0,2", hidden=1.0, epochs=1)
    assert "teacher" in [step.name for step in done.session.root.find("loss").children]
    other = make_model(tmp_path / "other", "roberta")
    done = distill(trained_model, texts, tmp_path / "o", student=str(other), epochs=1)
    assert load(done.folder).model.labels == load(trained_model).model.labels
    for wrong in ("layers=9", "layers=0,7", "layers=x", "layers=1,1"):
        with pytest.raises(InputError):
            distill(trained_model, texts, tmp_path / "w", student=wrong)
    with pytest.raises(InputError, match="teacher's layers"):
        distill(trained_model, texts, tmp_path / "w", student=str(other), hidden=1.0)


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *OTHERS])
def test_smaller_models_answer_after_saving_as_before_it(arch: str, tmp_path: Path) -> None:
    model = load(make_model(tmp_path / "model", arch))
    try:
        module, described = fewer(model.model, [0, 2])
    except EngineError as error:
        assert arch in ("albert", "modernbert"), error
        return
    module.save_pretrained(tmp_path / "small")
    described.tokenizer.save_pretrained(tmp_path / "small")
    texts = make_texts(8)
    skipped = model.with_(**{"forward.skip_layers": [1]}).outputs(texts)
    assert np.allclose(load(tmp_path / "small").outputs(texts), skipped, atol=1e-4)


# ---------------------------------------------------------------------------------- bad weather and bad input


def test_bad_data_and_settings_are_named(tiny_model: Path, tmp_path: Path) -> None:
    texts = make_texts(8)
    with pytest.raises(DataError, match="one class only"):
        train(tiny_model, [Example(t, "x") for t in texts], tmp_path / "m")
    for none in (None, ""):
        with pytest.raises(DataError, match="row 2: no label"):
            train(tiny_model, [Example(texts[0], "x"), Example(texts[1], none)], tmp_path / "m")
    with pytest.raises(DataError, match="row 2: one label"):
        train(tiny_model, [Example(texts[0], ["x"]), Example(texts[1], "y")], tmp_path / "m")
    good = [Example(t, i % 2) for i, t in enumerate(texts)]
    for wrong in (
        {"learning_rate": float("nan")}, {"epochs": 0}, {"learning_rate": 0}, {"schedule": "up"}, {"optimizer": "x"},
        {"loss": "x"}, {"freeze": ("layer 99",)}, {"early_stopping": 1}, {"epoch": 3}, {"precision": "int8"},
    ):  # fmt: skip
        with pytest.raises(InputError):
            train(tiny_model, good, tmp_path / "m", **wrong)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(OutputExists):
            train(tiny_model, good, tmp_path / "m", overwrite=overwrite)
    assert (tmp_path / "m" / "mine.txt").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_loss(monkeypatch, 6, float("nan"))
    with pytest.raises(TrainingStopped, match=r"loss became nan .* rows .* checkpoint is kept: .*step-00000004"):
        train(tiny_model, labelled(64), tmp_path / "m", batch_size=8, checkpoint_every=2)
    assert not (tmp_path / "m").exists()
    assert checkpoints.latest(run_folder(tmp_path / "m") / "checkpoints")


def test_an_exploding_loss_is_seen_and_a_noisy_one_is_not() -> None:
    watch = LossMonitor()
    assert not any(watch.see(1.0 + 0.5 * (i % 3), 1.0) for i in range(30))
    assert "jumped" in watch.see(90.0, 1.0)
    assert "norm" in watch.see(1.0, float("inf"))
    near = LossMonitor(least=0.05)  # a student that begins as its teacher
    assert not any(near.see(0.001, 1.0) for _ in range(30))
    assert not near.see(0.9, 1.0)
    assert "jumped" in near.see(1.1, 1.0)


def test_leaks_rare_classes_and_small_evaluations_are_said() -> None:
    said = leaks(["A good film.", "bad"], ["a GOOD film", "bad", "fresh"])
    assert len(said) == 2
    assert "exactly (rows 2)" in said[0]
    assert "punctuation (rows 1)" in said[1]
    told = " | ".join(warnings(["a"] * 9, [0] * 8 + [1], ["x", "y", "z"], ["b"] * 50, SINGLE, [0] * 49 + [2]))
    for words in (
        "z never occurs",
        "fewer than 5 examples of y",
        "z occur in the evaluation data only",
        "within 8.3 points",
    ):
        assert words in told
    assert not warnings(["a"] * 20, [0, 1] * 10, ["x", "y"], [], SINGLE)


def test_whole_numbers_read_as_floats_are_the_labels_they_were() -> None:
    assert labels_of([1.0, 2.0, 1.0, 10.0], "here") == (["1", "2", "10"], SINGLE)
    assert labels_of([1.5, 2.0], "here") == (["LABEL_0"], NUMBER)


# ---------------------------------------------------------------------------------- what is recorded


def test_steps_of_training_are_recorded_forward_and_backward(tiny_model: Path, tmp_path: Path) -> None:
    done = train(tiny_model, labelled(96), tmp_path / "m", epochs=2, evaluate=labelled(30, seed=3), checkpoint_every=2)
    session = done.session
    assert session is not None
    names = [step.name for step in session.root.children]
    assert names[0] == "read"
    for name in (
        "tokenize",
        "truncate",
        "batch",
        "forward",
        "loss",
        "backward",
        "clip",
        "update",
        "evaluate",
        "checkpoint",
    ):
        assert name in names, names
    forward, backward = session.root.find("forward"), session.root.find("backward")
    assert forward.calls == backward.calls == 6
    assert {"embeddings", "layer 0", "layer 2", "head"} <= {c.name for c in forward.children}
    assert [c.name for c in backward.children if c.name.startswith("layer")] == ["layer 2", "layer 1", "layer 0"]
    assert forward.find("layer 0").calls == 6  # those of the evaluation are not among them
    for step in (forward, backward):
        assert sum(c.wall_s for c in step.children) == pytest.approx(step.wall_s, rel=0.1)
    again = Training.load(done.folder)
    assert again.history == done.history
    assert again.session == session
    page = done.report()
    assert "How it learnt" in page
    assert "backward" in page


def test_recording_changes_no_weight(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_moments.train import fit

    seen = train(tiny_model, labelled(64), tmp_path / "a", epochs=1)
    monkeypatch.setattr(fit, "watch_layers", lambda trainer, stack: {})
    bare = train(tiny_model, labelled(64), tmp_path / "b", epochs=1)
    assert load(seen.folder).model.digest == load(bare.folder).model.digest
    assert lm.load(bare.folder)("good").label
