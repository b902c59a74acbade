"""What every engine must do, in every precision that it has."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, PlanError
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.base import (
    ENGINES,
    PLAIN,
    PRECISIONS,
    Engines,
    available,
    built_key,
    engine_class,
    follows,
    put_on,
)
from llm_moments.engines.export import build
from llm_moments.models.open import open_model
from tests.fakes import ARCHITECTURES, ODD, OTHERS, make_model, make_texts

TOLERANCE = {"fp32": 2e-4, "bf16": 0.15, "int8": 0.5, "int8-dynamic": 0.35, "fp16": 0.05}  # of the logits' spread
HERE = [e for e in available() if e != "torch.compile"]
CASES = [(e, p) for e in HERE for p in engine_class(e).precisions if p != "fp16"]


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Pipeline:
    pipe = load(tiny_model)
    pipe.engines.calibration = pipe.with_(**{"batch.size": 1}).arrays(make_texts(40, seed=9))
    return pipe


def _changed(base: Pipeline, engine: str, precision: str, **more: object) -> Pipeline:
    return base.with_(**{"forward.engine": engine, "forward.precision": precision, **more})


def _check(told: Outputs, wanted: Outputs, precision: str) -> None:
    found, expected = told["logits"], wanted["logits"]
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE[precision] * max(float(np.ptp(expected)), 1e-3)


@pytest.mark.parametrize(("engine", "precision"), CASES)
def test_agrees_with_torch(base: Pipeline, engine: str, precision: str) -> None:
    texts = [*make_texts(30, seed=3), "good", "a " * 200]
    _check(_changed(base, engine, precision).outputs(texts), base.outputs(texts), precision)


@pytest.mark.parametrize("engine", HERE)
def test_one_row_is_as_many(base: Pipeline, engine: str) -> None:
    pipe, texts = _changed(base, engine, "fp32"), make_texts(9, seed=4)
    together = pipe.outputs(texts)
    alone = np.concatenate([pipe.outputs([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("engine", HERE)
def test_streams_and_threads_change_nothing(base: Pipeline, engine: str) -> None:
    texts = make_texts(40, seed=5)
    plain = _changed(base, engine, "fp32", **{"batch.size": 4})
    streams = 2 if "streams" in engine_class(engine).takes else 1
    other = plain.with_(**{"forward.streams": streams, "forward.threads": 1})
    np.testing.assert_allclose(plain.outputs(texts), other.outputs(texts), atol=1e-4)


@pytest.mark.parametrize("engine", HERE)
def test_skipped_layers_are_left_out(base: Pipeline, engine: str) -> None:
    texts = make_texts(8, seed=6)
    expected = base.with_(**{"forward.skip_layers": [1]}).outputs(texts)
    assert np.abs(expected["logits"] - base.outputs(texts)["logits"]).max() > 1e-3
    np.testing.assert_allclose(
        _changed(base, engine, "fp32", **{"forward.skip_layers": [1]}).outputs(texts), expected, atol=1e-4
    )


@pytest.mark.parametrize("name", ["embeddings", "layer 1", "head"])
def test_one_layer_in_bf16(base: Pipeline, name: str) -> None:
    texts = make_texts(8, seed=6)
    found = base.with_(**{"forward.bf16_layers": [name]}).outputs(texts)
    assert np.abs(found["logits"] - base.outputs(texts)["logits"]).max() > 0
    _check(found, base.outputs(texts), "bf16")


@pytest.mark.parametrize("engine", [e for e in HERE if "int8" in engine_class(e).precisions])
def test_int8_without_calibration_says_what_to_do(tiny_model: Path, engine: str, tmp_path: Path) -> None:
    engines = Engines(open_model(tiny_model), cache=tmp_path)
    with pytest.raises(EngineError, match="calibration"):
        engines.get({"engine": engine, "precision": "int8"})


@pytest.mark.skipif("openvino" not in HERE, reason="needs openvino")
def test_kept_layers_stay_in_float(base: Pipeline) -> None:
    def quantised(pipe: Pipeline) -> int:
        pipe.outputs(["good"])
        graph = base.engines.store(pipe.plan.settings("forward")) / "openvino_model.xml"
        return graph.read_text(encoding="utf-8").count('type="FakeQuantize"')

    whole = quantised(_changed(base, "openvino", "int8"))
    less = quantised(_changed(base, "openvino", "int8", **{"forward.keep_float": ["layer 0"]}))
    assert 0 < less < whole


def test_unknown_and_impossible_settings_are_named(base: Pipeline) -> None:
    with pytest.raises(PlanError, match="forward.engine"):
        base.with_(**{"forward.engine": "tensorflow"})
    with pytest.raises(EngineError, match="has no precision"):
        _changed(base, "onnxruntime", "bf16").outputs(["good"])
    with pytest.raises(EngineError, match="layers 0 to 2"):
        base.with_(**{"forward.skip_layers": [7]}).outputs(["good"])


# Of PLAIN those of engines that classify; what generating engines take has no place in such a plan.
ASKED: dict[str, object] = {
    "threads": 1,
    "streams": 2,
    "skip_layers": [1],
    "keep_float": ["layer 0"],
    "bf16_layers": ["layer 0"],
}


def test_every_setting_is_asked_of_some_engine() -> None:
    assert set(PLAIN) == {*ASKED, "kv_precision", "prefix_reuse", "draft"}


@pytest.mark.parametrize("setting", sorted(ASKED))
@pytest.mark.parametrize(("engine", "precision"), CASES)
def test_a_setting_is_followed_or_refused(base: Pipeline, engine: str, precision: str, setting: str) -> None:
    pipe = _changed(base, engine, precision, **{f"forward.{setting}": ASKED[setting]})
    if follows(engine_class(engine), setting, precision):
        assert pipe.outputs(["good"])["logits"].shape == (1, 3)
    else:
        with pytest.raises(EngineError, match=rf"{engine} in {precision} cannot follow forward.{setting}"):
            pipe.outputs(["good"])
    back = pipe.with_(**put_on(engine, precision))
    assert back.outputs(["good"])["logits"].shape == (1, 3)


@pytest.mark.parametrize("engine", [e for e in HERE if "keep_float" in engine_class(e).takes])
def test_a_layer_that_is_not_there_cannot_be_kept_in_float(base: Pipeline, engine: str, tmp_path: Path) -> None:
    kept = {"forward.keep_float": ["layer 9"]}
    with pytest.raises(EngineError, match=r"layer 9.*it has embeddings, layer 0, layer 1, layer 2, head"):
        _changed(base, engine, "int8-dynamic", **kept).outputs(["good"])
    shared = load(make_model(tmp_path / "albert", "albert"))
    with pytest.raises(EngineError, match="many times"):
        _changed(shared, engine, "int8-dynamic", **{"forward.keep_float": ["layer 0"]}).outputs(["good"])


@pytest.mark.parametrize("engine", [e for e in HERE if "keep_float" in engine_class(e).takes])
def test_a_graph_that_is_found_is_asked_what_it_kept_in_float(tiny_model: Path, engine: str, tmp_path: Path) -> None:
    engines = Engines(open_model(tiny_model), cache=tmp_path)
    settings = {"engine": engine, "precision": "int8-dynamic", "keep_float": ["layer 0"]}
    engines.get(settings)
    engines.close()
    engines.get(settings)
    engines.close()
    (engines.store(settings) / "kept.json").unlink()
    engines.get(settings)  # it is not as it was written: built again
    assert json.loads((engines.store(settings) / "kept.json").read_text()) == ["layer 0"]
    came = tmp_path / "built" / "g"  # in an artefact, which is known by its manifest
    came.mkdir(parents=True)
    (came / "fields.json").write_text("[]")
    with pytest.raises(EngineError, match=r"layer 0 stayed in float.*Delete that folder"):
        build(came, lambda folder: [], ["layer 0"])


@pytest.mark.parametrize("name", ["layer 1", "head"])
@pytest.mark.skipif("onnxruntime" not in HERE, reason="needs onnxruntime")
def test_onnx_keeps_layers_in_float_too(base: Pipeline, name: str) -> None:
    import onnx

    def quantised(pipe: Pipeline) -> int:
        pipe.outputs(["good"])
        graph = onnx.load(str(base.engines.store(pipe.plan.settings("forward")) / "model.onnx")).graph
        return sum(node.op_type == "MatMulInteger" for node in graph.node)

    whole = quantised(_changed(base, "onnxruntime", "int8-dynamic"))
    assert 0 < quantised(_changed(base, "onnxruntime", "int8-dynamic", **{"forward.keep_float": [name]})) < whole


@pytest.mark.parametrize("engine", [e for e in HERE if engine_class(e).cpu_only])
def test_a_device_that_an_engine_does_not_use_is_refused(tiny_model: Path, engine: str) -> None:
    with pytest.raises(EngineError, match="CPU only"):
        load(tiny_model, device="cuda", plan={"forward.engine": engine}).outputs(["good"])


AGREES = ""
GRAPHS = ("onnxruntime", "openvino")
COMPILED = (
    "bert",
)  # compiling takes half a minute each; every one of ARCHITECTURES and OTHERS agreed when tried by hand
ALL = {**ARCHITECTURES, **OTHERS, **ODD}
# Of each architecture and engine: that it agrees with torch in fp32, or the reason that it must give.
EXPECTED = (
    {(arch, engine): AGREES for arch in ALL for engine in GRAPHS}
    | {
        ("longformer", "onnxruntime"): "the exported graph answers otherwise than the model",
        ("longformer", "openvino"): "the exported graph fails on rows of another shape",
        ("funnel", "onnxruntime"): "the exported graph fails on rows of another shape",
        ("funnel", "openvino"): "the exported graph fails on rows of another shape",
    }
    | {(arch, "torch.compile"): AGREES for arch in COMPILED}
)


def test_the_table_of_architectures_is_whole() -> None:
    assert {engine for _, engine in EXPECTED} == set(ENGINES) - {"torch"}
    assert all((arch, engine) in EXPECTED for arch in ALL for engine in GRAPHS)


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    return functools.cache(lambda arch: load(make_model(tmp_path_factory.mktemp("kinds") / arch, arch)))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "engine"), sorted(k for k in EXPECTED if k[1] in available()))
def test_architectures(of_kind: Callable[[str], Pipeline], arch: str, engine: str) -> None:
    """Each engine agrees with torch, or refuses the model for the reason that is known: nothing else will do."""
    base, texts = of_kind(arch), make_texts(6, seed=7)
    pipe, reason = _changed(base, engine, "fp32"), EXPECTED[arch, engine]
    if reason == AGREES:
        _check(pipe.outputs(texts), base.outputs(texts), "fp32")
        return
    with pytest.raises(EngineError, match=reason):
        pipe.outputs(texts)


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_a_graph_that_answers_otherwise_is_refused(tiny_model: Path, wrong: float, tmp_path: Path) -> None:
    from llm_moments.engines.export import traced
    from llm_moments.engines.export_check import prove

    model = open_model(tiny_model)
    module, example, names = traced(model, {})

    def run(fields: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        with torch.no_grad():
            return module(*(torch.from_numpy(fields[n]) for n in names)).numpy()

    prove(module, example, model, run, "here", tmp_path)
    with pytest.raises(EngineError, match="here: the exported graph answers otherwise"):
        prove(module, example, model, lambda fields: run(fields) + wrong, "here", tmp_path)


def test_built_key_depends_on_what_is_built_only() -> None:
    a = built_key({"engine": "openvino", "precision": "fp32", "threads": 1})
    assert a == built_key({"engine": "openvino", "precision": "bf16", "streams": 2})
    assert a != built_key({"engine": "openvino", "precision": "fp32", "skip_layers": [1]})
    assert built_key({"engine": "openvino", "precision": "int8", "calibration": "x"}) != built_key(
        {"engine": "openvino", "precision": "int8"}
    )


def test_every_engine_is_described() -> None:
    for name in ENGINES:
        cls = engine_class(name)
        assert cls.name == name
        assert cls.extra
        assert set(cls.precisions) <= set(PRECISIONS)
