"""What a graph engine says of its own operations, mapped back to layers where their names allow it."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_moments.engines.base import Arrays
from llm_moments.record.probes import place

Operation = tuple[str, float]  # its name, or its layer, and seconds
Run = Sequence[Operation]
# What the profiled OpenVINO model must have like the one that was timed.
SAME = (
    "INFERENCE_PRECISION_HINT",
    "INFERENCE_NUM_THREADS",
    "ENABLE_HYPER_THREADING",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
)

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


def shares(engine: Any, settings: Mapping[str, Any], store: Path, batches: Sequence[Arrays]) -> dict[str, float]:
    """Share of the engine's own time that each layer took, on some batches; {} where it cannot tell.

    The profile is a pass of its own, since profiling slows an engine down.
    """
    profile = {"openvino": _openvino, "onnxruntime": _onnxruntime}.get(engine.name)
    if profile is None:
        return {}
    return by_layer([op for run in profile(engine, settings, store, batches) for op in placed(run)])


def placed(run: Sequence[Operation]) -> list[Operation]:
    """Operations of one run, in their order, by layer: a fused one that has lost its name belongs to
    the layer that surrounds it."""
    layers = [layer_of(name) for name, _ in run]
    known = [(at, layer) for at, layer in enumerate(layers) if layer]
    for (start, before), (end, after) in itertools.pairwise(known):
        if before == after:
            layers[start:end] = [before] * (end - start)
    return [(layer or "other", spent) for layer, (_, spent) in zip(layers, run, strict=True)]


def by_layer(operations: Sequence[Operation]) -> dict[str, float]:
    """Shares in the order of the forward pass; {} if no layer is among the names."""
    result: Counter[str] = Counter()
    for name, spent in operations:
        result[name] += spent  # type: ignore[assignment]
    total = sum(result.values())
    if total <= 0 or not any(name.startswith("layer") for name in result):
        return {}
    return {name: result[name] / total for name in sorted(result, key=place)}


def _openvino(engine: Any, settings: Mapping[str, Any], store: Path, batches: Sequence[Arrays]) -> Iterator[Run]:
    import openvino as ov

    from llm_moments.engines.openvino import GRAPH

    options = {name: engine.compiled.get_property(name) for name in SAME}
    compiled = ov.Core().compile_model(str(store / GRAPH), "CPU", {**options, "PERF_COUNT": True})
    request = compiled.create_infer_request()
    for fields in batches:
        for _ in range(2):  # the first run of a shape prepares it
            request.infer([fields[name] for name in engine.names])
        yield [(i.node_name, i.real_time.total_seconds()) for i in request.get_profiling_info()]


def _onnxruntime(engine: Any, settings: Mapping[str, Any], store: Path, batches: Sequence[Arrays]) -> Iterator[Run]:
    import onnxruntime as ort

    from llm_moments.engines.onnx_runtime import GRAPH

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling, options.log_severity_level = True, 3
        options.intra_op_num_threads = int(settings.get("threads", 0))
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(store / GRAPH), options, providers=["CPUExecutionProvider"])
        for fields in [*batches[:1], *batches]:
            session.run(None, {name: fields[name] for name in engine.names})
        runs: list[list[Operation]] = []
        for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
            if event.get("cat") == "Session" and event["name"] == "model_run":
                runs.append([])  # written after its operations
            elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                if not runs:
                    runs.append([])
                runs[-1].append((event["name"], event["dur"] / 1e6))
    yield from [run for run in runs if run][1:]  # the first one warmed up
