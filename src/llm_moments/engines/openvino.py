"""OpenVINO on the CPU: fp32, bf16, int8 with calibration (NNCF), int8 weights with dynamic activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.contract import Arrays, Forward
from llm_moments.engines.export import build, calibrated_on, free_axes, own_graph, to_onnx, traced
from llm_moments.engines.export_check import prove
from llm_moments.engines.foreign import failing_as, quiet
from llm_moments.engines.padding import noted
from llm_moments.models.blocks import float_parts, matching

GRAPH = "openvino_model.xml"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVino(Forward):
    name: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    package: ClassVar[str] = "openvino,torch,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8", "int8-dynamic")
    takes: ClassVar[tuple[str, ...]] = ("threads", "streams", "skip_layers", "keep_float")
    cpu_only: ClassVar[bool] = True
    builds: ClassVar[bool] = True

    def __init__(self, compiled: Any, names: list[str], streams: int, padding: str | None = None):
        self.compiled, self.names, self.streams, self.padded = compiled, names, streams, padding
        self.request = compiled.create_infer_request()

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> OpenVino:
        import openvino as ov

        precision = settings.get("precision", "fp32")
        core = ov.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision in ("bf16", "fp16") and precision.upper() not in able:
            raise EngineError(f"this CPU has no {precision} (OpenVINO finds {', '.join(able)})")
        with failing_as("OpenVINO cannot take this model"):
            names = build(
                store, lambda folder: _make(folder, model, settings, calibration), settings.get("keep_float", ())
            )
            hint = _HINTS.get(precision, "bf16" if "BF16" in able else "f32")
            options: dict[str, Any] = {
                "INFERENCE_PRECISION_HINT": hint,
                "PERFORMANCE_HINT": "THROUGHPUT" if int(settings.get("streams", 1)) > 1 else "LATENCY",
                "NUM_STREAMS": str(settings.get("streams", 1)),
                "ENABLE_HYPER_THREADING": False,
            }
            if settings.get("threads"):
                options["INFERENCE_NUM_THREADS"] = int(settings["threads"])
            if precision == "int8-dynamic":
                options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(2**31)
            compiled = core.compile_model(str(store / GRAPH), "CPU", options)
        return cls(compiled, names, int(settings.get("streams", 1)), noted(store))

    def forward(self, fields: Arrays, recorder: Recorder = NULL) -> Arrays:
        with failing_as("OpenVINO failed"):
            result = self.request.infer([fields[name] for name in self.names], share_inputs=True)
        return {"logits": np.array(result[0], np.float32)}

    def forward_all(self, batches: Iterable[Arrays], recorder: Recorder = NULL) -> Iterator[Arrays]:
        batches = list(batches)
        if self.streams == 1 or len(batches) < 2:
            yield from (self.forward(fields, recorder) for fields in batches)
            return
        from openvino import AsyncInferQueue

        results: list[Any] = [None] * len(batches)

        def keep(request: Any, at: int) -> None:
            results[at] = np.array(request.get_output_tensor(0).data, np.float32)

        # The largest first, so that the last to end are small and no stream waits long for another.
        queue = AsyncInferQueue(self.compiled, self.streams)
        queue.set_callback(keep)
        with failing_as("OpenVINO failed"):
            for at, fields in sorted(enumerate(batches), key=lambda pair: -pair[1][self.names[0]].size):
                queue.start_async([fields[name] for name in self.names], at, share_inputs=True)
            queue.wait_all()
        yield from ({"logits": result} for result in results)

    def padding(self, encoder: Any) -> str | None:
        return self.padded

    def close(self) -> None:
        self.request = self.compiled = None


def _make(folder: Path, model: Any, settings: Mapping[str, Any], calibration: Any) -> list[str]:
    import openvino as ov

    precision = settings.get("precision", "fp32")
    ignored: Any = None
    if model.graph is not None:
        names, rows = own_graph(model, settings), calibration
        graph = ov.Core().read_model(str(model.graph))
    else:
        module, example, names = traced(model, settings)
        graph = _graph(module, example, names, folder)
        plain = OpenVino(ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), names, 1)
        prove(module, example, model, lambda fields: plain.forward(fields)["logits"], "OpenVINO", folder)
        rows = calibrated_on(calibration, example)
        if precision in ("int8", "int8-dynamic"):
            ignored = _ignored(graph, module, settings)
    if precision == "int8":
        graph = _calibrated(graph, names, rows, ignored, model)
    elif precision == "int8-dynamic":
        import nncf

        with quiet():
            graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=ignored)
    ov.save_model(graph, folder / GRAPH, compress_to_fp16=False)
    for left in folder.glob("*.onnx*"):
        left.unlink()
    return names


def _graph(module: Any, example: dict[str, Any], names: list[str], folder: Path) -> Any:
    """Straight from torch; through ONNX where OpenVINO cannot trace the module."""
    import openvino as ov

    try:
        with quiet():
            graph = ov.convert_model(module, example_input=tuple(example[n] for n in names))
    except Exception:
        to_onnx(module, example, names, folder / "graph.onnx")
        graph = ov.convert_model(folder / "graph.onnx")
    free = {n: [-1 if at in free_axes(n) else size for at, size in enumerate(example[n].shape)] for n in names}
    graph.reshape({i: ov.PartialShape(free[n]) for i, n in enumerate(names)})
    for node, name in zip(graph.inputs, names, strict=True):
        node.get_tensor().set_names({name})
    return graph


def _calibrated(graph: Any, names: list[str], calibration: Any, ignored: Any, model: Any) -> Any:
    import nncf

    rows = [tuple(fields[name] for name in names) for fields in calibration or ()]
    if not rows:
        raise EngineError("int8 needs calibration examples: let `improve` choose it, or use int8-dynamic")
    kind = (
        nncf.ModelType.TRANSFORMER if model.config.get("num_attention_heads") or "pixel_values" not in names else None
    )
    with quiet():
        return nncf.quantize(
            graph, nncf.Dataset(rows), model_type=kind, subset_size=len(rows),
            fast_bias_correction=True, ignored_scope=ignored,
        )  # fmt: skip


def _ignored(graph: Any, module: Any, settings: Mapping[str, Any]) -> Any:
    """The operations of the layers that stay in float: a traced graph keeps the modules' paths."""
    import nncf

    names = matching(float_parts(module, settings), [op.get_friendly_name() for op in graph.get_ops()])
    return nncf.IgnoredScope(names=names, validate=False) if names else None
