from __future__ import annotations

import pytest

from llm_moments.base.errors import InputError
from llm_moments.record.profiles import layer_of
from llm_moments.record.recorder import Recorder
from tests.fakes import FakeClock


def test_the_tree_adds_up_on_a_fake_clock() -> None:
    clock, cpu = FakeClock(), FakeClock()
    recorder = Recorder(clock, cpu)
    for _ in range(2):
        with recorder.step("outer", items=3):
            clock.advance(5)
            with recorder.step("inner"):
                clock.advance(7)
                cpu.advance(2)
                recorder.count(tokens=4)
    tree = recorder.tree()
    outer = tree.find("outer")
    assert (outer.calls, outer.counts["items"], outer.wall_s) == (2, 6, pytest.approx(24e-9))
    assert outer.find("inner").counts == {"tokens": 8}
    assert outer.find("inner").cpu_s == pytest.approx(4e-9)
    with pytest.raises(InputError, match="no step"):
        tree.find("nothing")


def test_a_step_that_fails_is_closed_all_the_same() -> None:
    recorder = Recorder()
    with pytest.raises(ValueError), recorder.step("a"), recorder.step("b"):
        raise ValueError
    with recorder.step("c"):
        pass
    assert [s.name for s in recorder.tree().children] == ["a", "c"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("__module.bert.encoder.layer.3.attention/aten::linear", "layer 3"),
        ("/inner/distilbert/transformer/layer.1/ffn/MatMul_kernel_time", "layer 1"),
        ("__module.model.layers.11.mlp", "layer 11"),
        ("__module.bert.embeddings.word", "embeddings"),
        ("__module.classifier/aten::linear", "head"),
        ("Multiply_123", None),
    ],
)
def test_names_of_operations_are_mapped_to_layers(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer
