"""A model that is one ONNX file and nothing else: what it is for is told by its outputs and what its makers wrote into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_moments.base.errors import EngineMissing, ModelError
from llm_moments.models.model import Model

LARGEST = 2 << 30  # bytes: what the format itself takes without other files
MAKERS = "paddle"  # what the graphs of PaddleOCR's detectors are called by: a map of the page comes out of others, too
CHARACTERS = "character"  # the metadata of PaddleOCR's recognisers: one a line


def onnx_file(file: Path, source: str, folder: Path) -> Model:
    """The model of an .onnx file. folder: where it lies alone. ModelError for one that is damaged, keeps weights in other
    files, or is for nothing that is known here."""
    try:
        import onnx
    except ImportError as error:
        raise EngineMissing("onnx", "onnx") from error
    if file.stat().st_size > LARGEST:
        raise ModelError(f"{file} is larger than {LARGEST:,} bytes, which no ONNX file is")
    try:
        graph = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's own, which have no common base
        raise ModelError(f"{file} is no whole ONNX file: {type(error).__name__}. Copy it again.") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer):
        raise ModelError(f"{file} keeps weights in other files, which are not opened; save it as one file")
    told = {entry.key: entry.value for entry in graph.metadata_props}
    return Model(folder, _config(file, graph.graph, told), source=source, format="onnx")


def _config(file: Path, graph: Any, told: dict[str, str]) -> dict[str, Any]:
    """What the rest of the house reads of a config.json."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [one.name for one in graph.input if one.name not in weights]
    ranks = [len(one.type.tensor_type.shape.dim) for one in graph.output]
    config = {"inputs": inputs, "name": file.stem}
    if len(inputs) == 1 and ranks == [4] and MAKERS in graph.name.lower():
        return {**config, "architectures": ["OnnxTextDetection"]}
    if len(inputs) == 1 and ranks == [3] and told.get(CHARACTERS):
        return {**config, "architectures": ["OnnxTextRecognition"], "characters": told[CHARACTERS].splitlines()}
    raise ModelError(
        f"{file}: what this ONNX file is for is not known here (outputs {', '.join(one.name for one in graph.output)}). Known are "
        "PaddleOCR's detectors of text lines and its recognisers, which bring their characters along"
    )
