"""What is done on a GPU, with fakes: none was ever at hand. Time passes on a fake device only when told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError
from llm_moments.core import Example
from llm_moments.engines.torch_eager import TorchEager, best_device
from llm_moments.record import meters, probes
from llm_moments.record.probes import CudaProbe, layer_costs, probed
from llm_moments.record.record import observe
from llm_moments.record.recorder import Recorder
from tests.fakes import FakeClock, make_texts


class Device:
    """A queue of work: events are stamped with its own clock, and whoever synchronises is counted."""

    def __init__(self) -> None:
        self.now_ms, self.waits = 0.0, 0

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        device = self

        class Event:
            at: float | None = None

            def record(self) -> None:
                self.at = device.now_ms

            def synchronize(self) -> None:
                device.waits += 1

            def elapsed_time(self, other: Any) -> float:
                assert device.waits, "an event was read before the device had come to it"
                return float(other.at - (self.at or 0.0))

        return Event()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    import torch

    fake = Device()
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    return fake


def test_events_are_timed_by_the_device_and_read_without_stalling(device: Device) -> None:
    host = FakeClock()
    probe = CudaProbe(["layer 0"], object(), lambda: 2, host)
    for ms in (3.0, 5.0, 2.0):
        probe.before()
        device.now_ms += ms  # the device works while the host goes on at once
        probe.after()
    assert device.waits == 0
    assert probe.cost(2, "layer 0") == (3, pytest.approx(0.010))
    assert device.waits == 1
    assert probe.events == []
    assert probe.cost(2, "layer 0") == (3, pytest.approx(0.010))


def test_many_visits_are_summed_up_in_bounded_memory(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ROOM", 8)
    probe = CudaProbe(["layer 0", "layer 1", "layer 2"], object(), lambda: 0, FakeClock())
    for turn in range(21):  # one module that takes three turns in a pass, as ALBERT's
        probe.before()
        device.now_ms += turn % 3 + 1
        probe.after()
        assert len(probe.events) <= 8
    costs = [probe.cost(0, f"layer {i}") for i in range(3)]
    assert costs == [(7, pytest.approx(0.007 * (i + 1))) for i in range(3)]


def test_hooks_on_cuda_use_events(device: Device) -> None:
    import torch

    from tests.test_layers import bare, logits

    module = bare("bert")
    with probed(module, 1, "cuda") as found:
        assert all(isinstance(probe, CudaProbe) for probe in found)
        layer = next(p for p in found if p.names == ["layer 1"])

        def work(*_: Any) -> None:
            device.now_ms += 7

        handle = layer.module.attention.register_forward_hook(work)
        logits(module)
        handle.remove()
        costs = {step.name: step for step in layer_costs(found, 0.010)}
    assert costs["layer 1"].wall_s == pytest.approx(0.007)
    assert costs["layer 0"].wall_s == 0
    assert costs["other"].wall_s == pytest.approx(0.003)
    assert not [m for m in module.modules() if m._forward_hooks]
    assert isinstance(module, torch.nn.Module)


class Tensor:
    """Goes to a device and comes back."""

    def __init__(self, array: np.ndarray, moves: list[tuple[str, bool]], where: str = "cpu"):
        self.array, self.moves, self.where = array, moves, where

    def to(self, device: str, non_blocking: bool = False) -> Tensor:
        self.moves.append((device, non_blocking))
        return Tensor(self.array, self.moves, device)

    def float(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self.array, self.moves)

    def numpy(self) -> np.ndarray:
        assert self.where == "cpu"
        return self.array


class FakeTorch:
    float32 = "float32"

    def __init__(self) -> None:
        self.moves: list[tuple[str, bool]] = []

    @contextmanager
    def inference_mode(self) -> Iterator[None]:
        yield

    def from_numpy(self, array: np.ndarray) -> Tensor:
        return Tensor(array, self.moves)


def _on(device: str) -> tuple[TorchEager, FakeTorch]:
    class Module:
        def parameters(self) -> list[Any]:
            return []

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            assert input_ids.where == attention_mask.where == device
            return SimpleNamespace(logits=Tensor(np.ones((2, 3), np.float32), input_ids.moves, device))

        __call__ = forward

    engine, torch = TorchEager(Module(), {}, device), FakeTorch()
    engine._torch = torch
    return engine, torch


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_transfers_are_a_step_of_the_recording(name: str) -> None:
    engine, torch = _on(name)
    fields = {"input_ids": np.ones((2, 5), np.int64), "attention_mask": np.ones((2, 5), np.int64)}
    recorder = Recorder()
    with recorder.step("forward"):
        found = engine.forward(fields, recorder)
    assert found["logits"].shape == (2, 3)
    assert torch.moves == [(name, True)] * 2
    forward = recorder.tree().find("forward")
    assert [(step.name, step.calls) for step in forward.children] == [("transfer", 1)]
    assert forward.children[0].wall_s <= forward.wall_s


def test_transfers_are_no_part_of_the_rest() -> None:
    """What the layers do not account for does not count the transfer twice."""
    probe = probes.Probe(["layer 0"], object(), lambda: 0, clock := FakeClock())
    probe.before()
    clock.advance(4_000_000)
    probe.after()
    other = layer_costs([probe], 0.010, known_s=0.005)[-1]
    assert (other.name, other.wall_s) == ("other", pytest.approx(0.001))


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted", "found"),
    [
        (True, False, "auto", "cuda"),
        (False, True, "auto", "mps"),
        (False, False, "auto", "cpu"),
        (True, True, "auto", "cuda"),
        (True, True, "cpu", "cpu"),
        (True, True, "mps", "mps"),
        (False, False, "cuda", None),
        (True, False, "mps", None),
    ],
)
def test_devices(cuda: bool, mps: bool, wanted: str, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if found:
        assert best_device(wanted) == found
        return
    with pytest.raises(InputError, match=rf"no '{wanted}' device here, only {'cuda, ' if cuda else ''}cpu"):
        best_device(wanted)


def test_a_device_that_is_not_here_is_told_before_anything_is_answered(tiny_model: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(InputError, match="no 'cuda' device here"):
        load(tiny_model, device="cuda")("good")


def test_memory_of_tensors_is_read_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123)
    assert meters.tensor_memory("cuda").value == 123.0
    for name in ("cpu", "mps"):
        assert meters.tensor_memory(name).value is None


def test_layers_on_mps_are_not_timed_and_that_is_said(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(tiny_model)
    engine = pipe.engines.get(pipe.plan.settings("forward"))
    monkeypatch.setattr(engine, "device", "mps")
    monkeypatch.setattr(type(engine), "forward", lambda self, fields, recorder=None: {
        "logits": np.zeros((len(fields["input_ids"]), 3), np.float32)
    })  # fmt: skip
    session = observe(pipe, [Example(t).input for t in make_texts(5)])
    assert session.root.find("forward").children == ()
    assert "layers are not timed on mps" in session.notes[0]


def test_doctor_says_what_was_never_tried() -> None:
    from llm_moments.assembly.doctor import NEVER_TRIED

    for word in ("cuda", "mps", "fakes only", "never on real hardware"):
        assert word in NEVER_TRIED
