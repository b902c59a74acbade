"""What every engine must do with pixels, and every architecture of images with every engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.base import available, engine_class
from llm_moments.engines.torch_eager import load_module
from llm_moments.models.blocks import blocks, layer_count
from llm_moments.record.image_limits import work_of
from tests.image_fakes import ARCHITECTURES, make_arrays, make_image_model

TOLERANCE = {"fp32": 2e-4, "bf16": 0.15, "int8": 0.5, "int8-dynamic": 0.35}  # of the logits' spread
HERE = [e for e in available() if e in ("torch", "openvino", "onnxruntime")]
CASES = [(e, p) for e in HERE for p in engine_class(e).precisions if p in TOLERANCE]


@pytest.fixture(scope="module", params=["cnn", "vit"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    pipe = load(make_image_model(tmp_path_factory.mktemp(request.param) / request.param, request.param))
    pipe.engines.calibration = pipe.with_(**{"batch.size": 1}).arrays(make_arrays(20, seed=9))
    return pipe


def check(told: Outputs, wanted: Outputs, precision: str) -> None:
    found, expected = told["logits"], wanted["logits"]
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE[precision] * max(float(np.ptp(expected)), 1e-3)


@pytest.mark.parametrize(("engine", "precision"), CASES)
def test_agrees_with_torch(base: Pipeline, engine: str, precision: str) -> None:
    arrays = make_arrays(40, seed=3)
    changed = base.with_(**{"forward.engine": engine, "forward.precision": precision})
    check(changed.outputs(arrays), base.outputs(arrays), precision)


@pytest.mark.parametrize("engine", HERE[1:])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_sizes_have_graphs_of_their_own(base: Pipeline, engine: str, precision: str) -> None:
    arrays, small = make_arrays(10, seed=4, size=40), base.with_(**{"resize.size": 24})
    changed = small.with_(**{"forward.engine": engine, "forward.precision": precision})
    check(changed.outputs(arrays), small.outputs(arrays), precision)


@pytest.mark.parametrize("engine", HERE)
def test_one_image_is_as_many(base: Pipeline, engine: str) -> None:
    pipe, arrays = base.with_(**{"forward.engine": engine}), make_arrays(5, seed=5)
    alone = np.concatenate([pipe.outputs([array]) for array in arrays])
    np.testing.assert_allclose(pipe.outputs(arrays), alone, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_architectures(arch: str, tmp_path: Path) -> None:
    """Engines agree with torch, layers are found, and what cannot be left out says so."""
    base, arrays = load(make_image_model(tmp_path / arch, arch)), make_arrays(6, seed=7)
    expected = base.outputs(arrays)
    for engine in HERE[1:]:
        check(base.with_(**{"forward.engine": engine}).outputs(arrays), expected, "fp32")
    module = load_module(base.model)
    names = [block.name for block in blocks(module)]
    assert names[0] == "embeddings"
    assert names[-1] == "head"
    assert 2 <= layer_count(module) == len(names) - 2
    skipped = []
    for layer in range(layer_count(module)):
        try:
            found = base.with_(**{"forward.skip_layers": [layer]}).outputs(arrays)
        except EngineError as error:
            assert "changes the shape" in str(error)
        else:
            skipped.append(found)
    assert skipped


@pytest.mark.parametrize("arch", ["cnn", "resnet"])
def test_operations_are_counted_right(arch: str, tmp_path: Path) -> None:
    pipe = load(make_image_model(tmp_path / arch, arch))
    work = work_of(pipe.model, pipe.engine_settings)
    assert sum(part.flops for name, part in work.items() if name) == work[""].flops > 0
    if arch == "cnn":  # 3x3 convolutions of 3 -> 8 on 32 x 32 and 8 -> 16 on 16 x 16, then 256 -> 32 -> 3
        assert work["layer 0"].flops == 2 * 9 * 3 * 8 * 32 * 32
        assert work["layer 1"].flops == 2 * 9 * 8 * 16 * 16 * 16
        assert work["head"].flops >= 2 * (256 * 32 + 32 * 3)
    double = work_of(pipe.model, {**pipe.engine_settings, "image_size": [64, 64]})
    assert double["layer 0"].flops == 4 * work["layer 0"].flops


def test_one_part_in_bf16(base: Pipeline) -> None:
    arrays = make_arrays(6, seed=8)
    found = base.with_(**{"forward.bf16_layers": ["head"]}).outputs(arrays)
    assert np.abs(found["logits"] - base.outputs(arrays)["logits"]).max() > 0
    check(found, base.outputs(arrays), "bf16")
