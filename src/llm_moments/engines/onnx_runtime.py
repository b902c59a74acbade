"""ONNX Runtime: fp32, int8 with dynamic activations, int8 with calibration."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.contract import Arrays, Forward
from llm_moments.engines.export import build, calibrated_on, own_graph, to_onnx, traced
from llm_moments.engines.export_check import prove
from llm_moments.engines.foreign import failing_as, quiet
from llm_moments.engines.padding import noted
from llm_moments.models.blocks import Patterns, float_parts, matching

GRAPH = "model.onnx"
QUANTISED = ["MatMul", "Gemm"]  # the others lose accuracy for little time


class OnnxRuntime(Forward):
    name: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "onnx"
    package: ClassVar[str] = "onnxruntime,onnx,torch,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8", "int8-dynamic")
    takes: ClassVar[tuple[str, ...]] = ("threads", "skip_layers", "keep_float")
    cpu_only: ClassVar[bool] = True
    parallel: ClassVar[bool] = True
    builds: ClassVar[bool] = True

    def __init__(self, session: Any, names: list[str], padding: str | None = None):
        self.first = session.get_outputs()[0].name
        taken = {node.name for node in session.get_inputs()}  # an export leaves out what the model does not read
        self.session, self.names = session, [name for name in names if name in taken]
        self.padded = padding

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> OnnxRuntime:
        import onnxruntime as ort

        with failing_as("ONNX Runtime cannot take this model"):
            names = build(
                store, lambda folder: _make(folder, model, settings, calibration), settings.get("keep_float", ())
            )
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = int(settings.get("threads", 0))
            session = ort.InferenceSession(str(store / GRAPH), options, providers=["CPUExecutionProvider"])
        return cls(session, names, noted(store))

    def forward(self, fields: Arrays, recorder: Recorder = NULL) -> Arrays:
        with failing_as("ONNX Runtime failed"):
            result = self.session.run([self.first], {name: fields[name] for name in self.names})
        return {"logits": np.asarray(result[0], np.float32)}

    def padding(self, encoder: Any) -> str | None:
        return self.padded

    def close(self) -> None:
        self.session = None


def _make(folder: Path, model: Any, settings: Mapping[str, Any], calibration: Any) -> list[str]:
    precision = settings.get("precision", "fp32")
    plain = folder / (GRAPH if precision == "fp32" else "plain.onnx")
    parts: Patterns = {}
    if model.graph is not None:
        names, rows = own_graph(model, settings), calibration
        shutil.copyfile(model.graph, plain)
    else:
        module, example, names = traced(model, settings)
        to_onnx(module, example, names, plain)
        _prove(module, example, model, plain)
        rows, parts = calibrated_on(calibration, example), float_parts(module, settings)
    if precision == "fp32":
        return names
    with quiet():
        _quantise(plain, folder / GRAPH, names, settings, rows, parts)
    for left in folder.glob("plain*"):
        left.unlink()
    return names


def _prove(module: Any, example: dict[str, Any], model: Any, file: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # a failure is the reason that is given, not a line on the screen
    session = OnnxRuntime(ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]), list(example))
    prove(module, example, model, lambda fields: session.forward(fields)["logits"], "ONNX", file.parent)


def _quantise(
    plain: Path, target: Path, names: list[str], settings: Mapping[str, Any], calibration: Any, parts: Patterns
) -> None:  # fmt: skip
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = plain.with_name("plain-prepared.onnx")
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    kept = matching(parts, _node_names(prepared))
    left = [*kept, *(f"{name}_MatMul" for name in kept)]  # a Gemm is made a MatMul of that name first
    common = {"op_types_to_quantize": QUANTISED, "nodes_to_exclude": left, "per_channel": True}
    if settings["precision"] == "int8-dynamic":
        quantize_dynamic(str(prepared), str(target), weight_type=QuantType.QInt8, **common)
        return
    rows = [{name: fields[name] for name in names} for fields in calibration or ()]
    if not rows:
        raise EngineError("int8 needs calibration examples: let `improve` choose it, or use int8-dynamic")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(rows)

        def get_next(self) -> Any:
            return next(self.rest, None)

    if "pixel_values" in names:
        common["op_types_to_quantize"] = [*QUANTISED, "Conv"]
    quantize_static(str(prepared), str(target), Reader(), weight_type=QuantType.QInt8, **common)


def _node_names(graph: Path) -> list[str]:
    import onnx

    return [node.name for node in onnx.load(str(graph), load_external_data=False).graph.node]
