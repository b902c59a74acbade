"""What a graph engine says of its own operations, mapped back to layers where their names allow it."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_moments.engines.base import Arrays

_LAYER = re.compile(r"(?:^|[./_])(?:layers?|h|block|blocks)[./_](\d+)(?:[./_]|$)")
_EMBEDDINGS = re.compile(r"embed", re.IGNORECASE)
_HEAD = re.compile(r"classifier|score|pooler|(?:^|[./_])head|logits", re.IGNORECASE)


def layer_of(name: str) -> str | None:
    """`layer 3` for `__module.bert.encoder.layer.3.attention/…`, embeddings, head, or None."""
    found = _LAYER.search(name)
    if found:
        return f"layer {int(found.group(1))}"
    if _EMBEDDINGS.search(name):
        return "embeddings"
    return "head" if _HEAD.search(name) else None


def shares(
    engine: Any, model: Any, settings: Mapping[str, Any], store: Path, batches: list[Arrays]
) -> dict[str, float]:
    """Share of the engine's own time that each layer took, on some batches; {} where it cannot tell.

    The profile is a pass of its own: profiling slows an engine down.
    """
    times = {"openvino": _openvino, "onnxruntime": _onnxruntime}.get(engine.name, lambda *a: Counter())(
        engine, settings, store, batches
    )
    total = sum(times.values())
    known = {layer_of(name) for name in times}
    if not total or not any(name and name.startswith("layer") for name in known):
        return {}
    result: Counter[str] = Counter()
    for name, spent in times.items():
        result[layer_of(name) or "other"] += spent / total
    order = {"embeddings": -1, "head": 10**6, "other": 10**7}
    return dict(
        sorted(result.items(), key=lambda x: order.get(x[0], int(x[0].split()[-1]) if x[0][-1].isdigit() else 0))
    )


def _openvino(engine: Any, settings: Mapping[str, Any], store: Path, batches: list[Arrays]) -> Counter[str]:
    import openvino as ov

    from llm_moments.engines.openvino import _HINTS, GRAPH

    core = ov.Core()
    hint = _HINTS.get(settings.get("precision", "fp32"), "bf16")
    if hint.upper() not in [*core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), "F32"]:
        hint = "f32"
    compiled = core.compile_model(str(store / GRAPH), "CPU", {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": hint})
    request, times = compiled.create_infer_request(), Counter[str]()
    for fields in batches:
        request.infer([fields[name] for name in engine.names])
        for info in request.get_profiling_info():
            times[info.node_name] += info.real_time.total_seconds()
    return times


def _onnxruntime(engine: Any, settings: Mapping[str, Any], store: Path, batches: list[Arrays]) -> Counter[str]:
    import onnxruntime as ort

    from llm_moments.engines.onnx_runtime import GRAPH

    times: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling, options.log_severity_level = True, 3
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(store / GRAPH), options, providers=["CPUExecutionProvider"])
        for fields in batches:
            session.run(["logits"], {name: fields[name] for name in engine.names})
        for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times[event["name"]] += event["dur"] / 1e6
    return times
