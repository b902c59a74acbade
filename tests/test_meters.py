"""Memory, energy, limits and the recorder's own cost: small figures checked against sums made by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_moments.base import environment
from llm_moments.models.open import open_model
from llm_moments.record import limits, meters, overhead
from llm_moments.record.limits import Load, Sizes, limited, sizes
from llm_moments.record.session import StepCost
from tests.fakes import make_model


def rapl(root: Path, **joules: float) -> Path:
    for name, value in joules.items():
        folder = root / name.replace("_", ":").replace("rapl:", "intel-rapl:")
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "energy_uj").write_text(f"{int(value * 1e6)}\n")
        (folder / "max_energy_range_uj").write_text("100000000\n")
    return root


def test_energy_is_the_sum_of_the_packages(tmp_path: Path) -> None:
    meter = meters.Energy(root=rapl(tmp_path, rapl_0=10, rapl_1=5))
    rapl(tmp_path, rapl_0=12.5, rapl_1=6)
    found = meter.spent()
    assert (found.value, found.unit, found.kind) == (pytest.approx(3.5), "J", "measured")
    assert "whole machine" in found.note


def test_a_counter_that_wraps_round(tmp_path: Path) -> None:
    meter = meters.Energy(root=rapl(tmp_path, rapl_0=99))
    assert meters.Energy(root=rapl(tmp_path, rapl_0=2)).before
    assert meter.spent().value == pytest.approx(3)
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").unlink()
    assert meter.spent().value is None


def test_what_cannot_be_read_is_none_and_never_nothing(tmp_path: Path) -> None:
    for root in (tmp_path / "nothing", rapl(tmp_path / "some", rapl_0=1)):
        meter = meters.Energy(root=root)
        for file in root.rglob("energy_uj"):
            file.write_text("not a number")
        found = meter.spent()
        assert (found.value, found.kind) == (None, "unavailable")
        assert "no readable energy counter" in found.note


def test_cards_are_asked_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {0: 1000, 1: 50}
    fake = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetTotalEnergyConsumption=lambda card: used[card],
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert meters.Energy("cpu", tmp_path).spent().value is None
    meter = meters.Energy("cuda", tmp_path)
    used.update({0: 3500, 1: 550})
    found = meter.spent()
    assert found.value == pytest.approx(3.0)  # millijoules
    assert "GPU 0, GPU 1" in found.note

    def broken() -> None:
        raise OSError("no driver")

    monkeypatch.setattr(fake, "nvmlInit", broken)
    assert meters.Energy("cuda", tmp_path).spent().value is None


def test_peak_memory_grows_with_what_is_held() -> None:
    before = meters.peak_memory().value or 0.0
    held = np.ones(int(before) // 8 + 20_000_000)
    assert (meters.peak_memory().value or 0.0) >= before + 8 * 15_000_000
    assert held[0] == 1


# ------------------------------------------------------------------------------------------ limits


def by_hand(hidden: int, inner: int) -> int:
    return 4 * hidden * hidden + 2 * hidden * inner


@pytest.mark.parametrize("arch", ["bert", "distilbert", "roberta", "albert", "gpt2", "llama"])
def test_sizes_are_read_from_the_weights(arch: str, tmp_path: Path) -> None:
    model = open_model(make_model(tmp_path / arch, arch))
    found = sizes(model)
    assert found is not None
    assert sorted(found.weights) == [0, 1, 2]
    expected = {"llama": 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64, "gpt2": by_hand(32, 128)}.get(arch, by_hand(32, 64))
    assert set(found.weights.values()) == {expected}
    assert found.hidden == 32
    assert sorted((sizes(model, [1]) or found).weights) == [0, 2]


def test_sizes_come_from_the_configuration_where_there_are_no_weights(tmp_path: Path) -> None:
    model: Any = SimpleNamespace(path=tmp_path, config={"hidden_size": 8, "num_hidden_layers": 2})
    assert sizes(model) == Sizes({0: by_hand(8, 32), 1: by_hand(8, 32)}, 8.0)
    model.config = {"model_type": "strange"}
    assert sizes(model) is None
    (tmp_path / "half.safetensors").write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{")
    model.config = {"hidden_size": 8, "n_layer": 1}
    assert sizes(model) is not None


def test_operations_and_bytes_by_hand() -> None:
    known, load = Sizes({0: 100.0}, 4.0), Load(tokens=10, squares=50, batches=2)
    assert known.flops(0, load) == 2 * 100 * 10 + 4 * 4 * 50
    assert known.bytes(0, load, 2.0) == 2 * (100 * 2 + 2 * 4 * 10)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Callable[..., StepCost]:
    """A forward step of a second, half of it in layer 0, on a machine of made-up peaks."""
    peaks = {"fp32": 1e-3, "bf16": 2e-3, "copy_gb": 1.0}  # a million operations a second
    monkeypatch.setattr(environment, "peaks", lambda: peaks)
    step = StepCost("forward", 1, 1.0, children=(StepCost("layer 0", 1, 0.5), StepCost("head", 1, 0.1)))

    def run(load: Load, **settings: Any) -> StepCost:
        return limited(step, open_model(tiny_model), settings, load)

    return run


def test_the_distance_from_the_limit(told: Callable[..., StepCost]) -> None:
    load, weights = Load(10, 100, 1), by_hand(32, 64)
    layer = 2 * weights * 10 + 4 * 32 * 100
    found = told(load)
    assert found.limit is not None
    assert found.limit.value == pytest.approx(3 * layer / 1e6)
    assert found.limit.kind == "modelled"
    first, head = found.children
    assert first.limit is not None
    assert first.limit.value == pytest.approx(layer / 1e6 / 0.5)
    assert head.limit is None
    half = told(load, precision="bf16").limit
    assert half is not None
    assert half.value == pytest.approx(3 * layer / 2e6)
    skipped = told(load, skip_layers=[1, 2]).limit
    assert skipped is not None
    assert skipped.value == pytest.approx(layer / 1e6)


def test_a_limit_that_is_not_known_is_none(told: Callable[..., StepCost], monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(10, 100, 1)
    for settings, why in (({"precision": "int8"}, "no peak"), ({"bf16_layers": ["layer 0"]}, "different precisions")):
        found = told(load, **settings).limit
        assert found is not None
        assert found.value is None
        assert why in found.note
    monkeypatch.setattr(limits, "sizes", lambda *_: None)
    found = told(load).limit
    assert found is not None
    assert found.note == limits.NONE_KNOWN


# ---------------------------------------------------------------------------------------- overhead


@pytest.mark.parametrize("n", [6, 9, 20, 101])
def test_the_interval_of_a_median_holds_it(n: int) -> None:
    rng, held = np.random.default_rng(n), 0
    for _ in range(400):
        low, high, sure = overhead.median_interval(rng.exponential(size=n).tolist())
        held += low <= np.log(2) <= high
    assert sure >= 0.95
    assert held / 400 >= 0.93


def test_the_median_of_pairs_is_not_moved_by_an_outlier() -> None:
    order: list[str] = []
    times = {"plain": iter([1.0] * 50), "watched": iter([1.02, 1.02, 99.0, *[1.02] * 47])}

    def one(name: str) -> Callable[[], float]:
        def work() -> float:
            order.append(name)
            return next(times[name])

        return work

    found = overhead.measured(one("plain"), one("watched"), seconds=0.0)
    assert found.value == pytest.approx(0.02)
    assert order[:8] == ["plain", "watched"] + ["plain", "watched", "watched", "plain", "plain", "watched"]
    assert "5 pairs" in found.note


def test_rows_of_a_pass() -> None:
    assert overhead.rows_for(0.1, 50) == 1
    assert overhead.rows_for(100.0, 50) == 20
    assert overhead.rows_for(1e6, 50) == 50
    assert overhead.rows_for(1e6, 5000) == 256


def test_the_recorders_own_work_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "step_seconds", lambda: 1e-6)
    monkeypatch.setattr(overhead, "probe_seconds", lambda: 10e-6)
    layers = tuple(
        StepCost(f"layer {i}", 5, 0.1, children=(StepCost("attention", 5), StepCost("mlp", 5))) for i in (0, 1)
    )
    root = StepCost("run", 1, 1.0, children=(StepCost("tokenize", 4), StepCost("forward", 5, 0.5, children=layers)))
    found = overhead.counted(root, probes=True)
    steps = 1 + 4 + 5 + 10  # mlp is what attention leaves: nothing is hooked there, yet it is counted as a step
    assert found.value == pytest.approx(steps * 1e-6 + 20 * 10e-6)
    assert found.kind == "modelled"
    assert overhead.counted(root, probes=False).value == pytest.approx(40e-6)


def test_a_step_and_a_probe_take_microseconds() -> None:
    assert 0 < overhead.step_seconds(200) < 1e-3
    assert 0 <= overhead.probe_seconds(200) < 1e-3
