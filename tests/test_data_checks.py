"""Bad weather in training: what stops a run, what is kept, what is refused, and kills."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, InputError, WriteError
from llm_moments.core import Example
from llm_moments.train import checkpoints
from llm_moments.train.data_checks import TrainingStopped
from llm_moments.train.losses import Distillation, balanced, loss_for
from llm_moments.train.place import run_folder
from llm_moments.train.train import train
from tests.fakes import label_of, make_model, make_texts, spoil_loss

SINGLE = "single_label_classification"


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


def saved(out: Path) -> list[str]:
    return [path.name for path in checkpoints.found(run_folder(out) / "checkpoints")]


# ---------------------------------------------------------------------------------- kills


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_and_change_nothing() -> None:
    """A short form of benchmarks/kills.py, which says what is counted."""
    script = Path(__file__).parent.parent / "benchmarks" / "kills.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "3", "--seed", "3", "--dry"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_a_kill_left_half_written_is_dropped(tiny_model: Path, tmp_path: Path) -> None:
    half = run_folder(tmp_path / "m") / "checkpoints" / ".step-00000002.abc"
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")

    def look(loop: Any) -> None:
        assert loop.position.updates < 4 or not half.exists()

    train(tiny_model, labelled(64), tmp_path / "m", epochs=2, batch_size=16, checkpoint_every=2, on_update=look)


def test_two_processes_do_not_train_into_one_place(tiny_model: Path, tmp_path: Path) -> None:
    def again(loop: Any) -> None:
        with pytest.raises(InputError, match="another process is training into"):
            train(tiny_model, labelled(32), tmp_path / "m", epochs=1)

    train(tiny_model, labelled(32), tmp_path / "m", epochs=1, on_update=again)


# ---------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("kind", ["an error of the system", "safetensors' own"])
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import safetensors.torch

    class SafetensorError(Exception):
        pass

    settings = {"epochs": 2, "batch_size": 16, "checkpoint_every": 2}
    whole = train(tiny_model, labelled(96), tmp_path / "whole", **settings)
    usual, calls = safetensors.torch.save_model, []

    def full(module: Any, path: str) -> None:
        calls.append(path)
        if len(calls) >= 3:
            Path(path).write_bytes(b"half")
            if kind == "safetensors' own":
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            raise OSError(errno.ENOSPC, "No space left on device", path)
        usual(module, path)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_model", full)
        with pytest.raises(
            WriteError, match=r"disk is full.*last checkpoint is kept: .*step-00000004; the same command"
        ):
            train(tiny_model, labelled(96), tmp_path / "m", **settings)
    assert saved(tmp_path / "m") == ["step-00000004", "step-00000002"]
    assert not list(run_folder(tmp_path / "m").glob("checkpoints/.step*"))
    again = train(tiny_model, labelled(96), tmp_path / "m", **settings)  # once there is room
    assert load(again.folder).model.digest == load(whole.folder).model.digest


def test_a_disk_that_is_full_at_the_end_loses_no_update(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(self: Any, *args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        with pytest.raises(WriteError, match="disk is full"):
            train(tiny_model, labelled(48), tmp_path / "m", epochs=1)
    assert saved(tmp_path / "m") == ["step-00000002"]
    assert not (tmp_path / "m").exists()
    seen: list[int] = []
    train(tiny_model, labelled(48), tmp_path / "m", epochs=1, on_update=lambda loop: seen.append(1))
    assert not seen  # nothing was left to learn


# ---------------------------------------------------------------------------------- losses that go wrong


def test_a_loss_that_explodes_stops_the_run_at_its_batch(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_loss(monkeypatch, 14, 1000.0)
    with pytest.raises(TrainingStopped, match=r"jumped to .* update 14, at the batch of rows .*step-00000012"):
        train(tiny_model, labelled(160), tmp_path / "m", batch_size=8, checkpoint_every=3)


def test_weights_that_are_not_numbers_are_seen_at_once(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")

    def spoil(loop: Any) -> None:
        with torch.no_grad():
            next(loop.module.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingStopped, match=r"loss became nan.*update 2"):
        train(model, labelled(64), tmp_path / "m", on_update=spoil)


@pytest.mark.parametrize("rate", ["0", "nan", "-1", "inf"])
def test_impossible_learning_rates_end_with_2(
    tiny_model: Path, tmp_path: Path, rate: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_moments.cli.main import main

    data = tmp_path / "d.csv"
    data.write_text("text,label\n" + "".join(f"{e.input},{e.reference}\n" for e in labelled(20)))
    words = ["train", str(tiny_model), "--data", str(data), "--out", str(tmp_path / "m"), "--learning-rate", rate]
    monkeypatch.setattr(sys, "argv", ["moments", *words])
    with pytest.raises(SystemExit) as told:
        main()
    assert told.value.code == 2
    assert "a learning rate is above 0" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- heads and labels


def test_labels_that_a_head_knows_in_part_are_named(tiny_model: Path, tmp_path: Path) -> None:
    data = [*labelled(30), Example("odd", "positve"), Example("more", "pos")]
    with pytest.raises(DataError, match=r"row 31: .* does not know positve; it knows neg, neutral, pos.*--new-head"):
        train(tiny_model, data, tmp_path / "m", epochs=1)
    done = train(tiny_model, data, tmp_path / "m", epochs=1, new_head=True)
    assert set(load(done.folder).model.labels) == {"neg", "neutral", "pos", "positve"}


def test_a_head_for_other_labels_is_replaced_and_that_is_said(tiny_model: Path, tmp_path: Path) -> None:
    data = [Example(e.input, f"about {e.reference}") for e in labelled(60)]
    done = train(tiny_model, data, tmp_path / "m", epochs=1)
    assert "is for other labels (neg, neutral, pos)" in done.warnings[0]
    with pytest.raises(DataError, match="does not know the label '(neg|pos|neutral)'"):  # of the evaluation data
        train(tiny_model, data, tmp_path / "n", evaluate=labelled(20), epochs=1)


# ---------------------------------------------------------------------------------- a GPU, as far as a fake shows it


def test_everything_goes_to_the_device_and_what_comes_back_is_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here: a device that is asked for is noted, and the tensor stays."""
    asked: set[str] = set()
    usual = torch.Tensor.to

    def to(self: Any, *args: Any, **more: Any) -> Any:
        if args and str(args[0]) == "cuda":
            asked.add(str(self.dtype))
            return self
        return usual(self, *args, **more)

    settings = {"epochs": 1, "batch_size": 16, "precision": "fp32", "class_weights": "balanced", "attention": "math"}
    plain = train(tiny_model, labelled(48), tmp_path / "cpu", device="cpu", **settings)
    monkeypatch.setattr("llm_moments.engines.torch_eager.best_device", lambda wanted: wanted)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **more: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: None)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    faked = train(tiny_model, labelled(48), tmp_path / "gpu", device="cuda", **settings)
    assert "torch.int64" in asked  # inputs and targets
    assert faked.session is not None
    assert "transfer" in [step.name for step in faked.session.root.children]
    assert load(faked.folder).model.digest == load(plain.folder).model.digest


class _Event:
    def __init__(self, **more: Any) -> None:
        self.at = 0.0

    def record(self, *args: Any) -> None:
        import time

        self.at = time.perf_counter()

    def elapsed_time(self, other: Any) -> float:
        return 1e3 * (other.at - self.at)

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def test_class_weights_go_where_the_logits_are() -> None:
    loss = loss_for(SINGLE, class_weights=balanced([0, 0, 1], 2))
    with pytest.raises(RuntimeError, match="meta"):  # a value cannot be read there, but the weights have come along
        float(
            loss(
                SimpleNamespace(logits=torch.zeros(2, 2, device="meta")),
                torch.zeros(2, dtype=torch.int64, device="meta"),
                {},
            )
        )


# ---------------------------------------------------------------------------------- gradients that were not tried yet


def test_gradients_of_hidden_states_and_soft_targets_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    told = [torch.randn(2, 3, 4) for _ in range(3)]
    loss = Distillation(SINGLE, torch.zeros(2, 3), teacher=object(), hidden=1.0, stands_for=[0, 1])
    x = torch.randn(2, 2, 3, 4, requires_grad=True)
    differ(lambda v: loss.apart([told[0], v[0], v[1]], told, {"attention_mask": mask}), x)
    soft = torch.softmax(torch.randn(4, 3), 1)
    logits = torch.randn(4, 3, requires_grad=True)
    for name, more in (("cross-entropy", {"label_smoothing": 0.1}), ("cross-entropy", {"class_weights": torch.tensor([0.5, 2.0, 1.0])}),
                       ("binary-cross-entropy", {}), ("mean-squared-error", {})):  # fmt: skip
        one = loss_for(SINGLE, name, **more)
        differ(lambda v, one=one: one(SimpleNamespace(logits=v), soft, {}), logits)


def differ(loss: Any, x: Any, step: float = 1e-2) -> None:
    (given,) = torch.autograd.grad(loss(x), x)
    found = torch.zeros_like(x)
    for at in range(x.numel()):
        moved = torch.zeros(x.numel())
        moved[at] = step
        moved = moved.view_as(x)
        found.view(-1)[at] = (loss(x.detach() + moved) - loss(x.detach() - moved)) / (2 * step)
    assert torch.allclose(given, found, atol=2e-3), (given, found)
