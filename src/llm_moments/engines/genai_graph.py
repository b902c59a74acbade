"""A language model's graph as OpenVINO GenAI takes it: made from transformers' module, or from the same graph in float."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_moments.base.errors import EngineError
from llm_moments.engines.export import NAMES
from llm_moments.engines.foreign import quiet

GRAPH = "openvino_model.xml"
ENCODES = "openvino-genai makes texts with decoder-only models; this one has an encoder"


def export(folder: Path, model: Any, settings: Mapping[str, Any], whole: Path | None = None) -> list[str]:
    """Fills `folder` as OpenVINO GenAI takes it: graph, configuration. Gives the names of the graph's inputs.

    whole: where the same in float would be; if it is there, its graph is taken, as tracing a module takes a while."""
    import openvino as ov

    from llm_moments.engines.causal_export import FIELDS
    from llm_moments.engines.openvino_weights import compress, stored_as

    if whole is not None and (whole / NAMES).is_file():
        graph = ov.Core().read_model(str(whole / GRAPH))
        for file in whole.iterdir():
            if not file.name.startswith((Path(GRAPH).stem, NAMES)):
                shutil.copy(file, folder)
    else:
        graph = _exported(folder, model, settings)
    precision = settings.get("precision", "fp32")
    compress(graph, {"bf16": "fp32"}.get(precision, precision), stored_as(model))
    ov.save_model(graph, folder / GRAPH, compress_to_fp16=False)
    return list(FIELDS)


def _exported(folder: Path, model: Any, settings: Mapping[str, Any]) -> Any:
    """The graph in float, and its configuration and tokenizer in the folder."""
    from llm_moments.engines.causal_export import causal_graph
    from llm_moments.engines.sharing import shared

    module = shared(model, settings.get("skip_layers", ()))
    if getattr(module.config, "is_encoder_decoder", False):
        raise EngineError(ENCODES)
    config = json.loads(module.config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    ends = module.generation_config.eos_token_id
    ends = module.config.get_text_config().eos_token_id if ends is None else ends
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({} if ends is None else {"eos_token_id": ends}), "utf-8")
    _write_tokenizer(folder, model.tokenizer)
    return causal_graph(module)


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """GenAI's own form of it, which its guessing pipelines ask for; a tokenizer that it cannot take is left out."""
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer

    try:
        with quiet():
            both = convert_tokenizer(tokenizer, with_detokenizer=True, skip_special_tokens=True)
    except Exception:
        return
    for graph, name in zip(both, ("tokenizer", "detokenizer"), strict=True):
        ov.save_model(graph, folder / f"openvino_{name}.xml")
