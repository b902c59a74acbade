"""The engine that answers where nobody chose one: the fastest that is here and is known to keep transformers' answers.

By rule, not by timing: on a CPU OpenVINO GenAI in float32, whose graph was held against transformers when it was made
(causal_proof.py). 4.6 tokens/s became 43 for a model of 135 M parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil

from llm_moments.base.errors import EngineError
from llm_moments.base.notes import note
from llm_moments.engines.base import Engines, engine_class, why_not
from llm_moments.engines.causal_proof import unproven
from llm_moments.engines.dequantised import fits
from llm_moments.engines.generator import Decoding, settle
from llm_moments.engines.torch_eager import best_device
from llm_moments.models.generation_settings import unfollowed
from llm_moments.models.loading import float_bytes

BASELINE = {"engine": "transformers", "precision": "fp32"}
QUICK = "openvino-genai"
TIMES = 3  # what an export takes of memory, in float weights: the module, the graph, the engine's own copy


def quickest(engines: Engines, forward: Mapping[str, Any], decode: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a plan that put it on the quick engine; none where that cannot be, and a note says why. The engine is
    open then. forward, decode: sections of a plan whose engine nobody has chosen."""
    model = engines.model
    if any(forward.get(name) != value for name, value in BASELINE.items()):
        return {}
    cls: Any = engine_class(QUICK)
    if best_device(engines.device) != "cpu" or model.format not in cls.formats:
        return {}
    settings = {**forward, "engine": QUICK}
    why = why_not(QUICK) or _refused(model, Decoding.of(decode)) or _opened(engines, settings)
    if why:
        note(f"{model.name}: transformers answers, not the faster {QUICK}: {why}")
        return {}
    return {"forward.engine": QUICK}


def _refused(model: Any, decoding: Decoding) -> str:
    """What of this plan, this model or this machine it is not for; '' for nothing."""
    cls: Any = engine_class(QUICK)
    try:
        settle(decoding, cls)
    except EngineError as error:
        return str(error)
    if decoding.temperature > 0:
        return f"it would draw other tokens; --set forward.engine={QUICK} lets it"
    if left_out := unfollowed(model, cls, decoding):
        return f"it does not follow the folder's {left_out}"
    size = float_bytes(model)
    if TIMES * size > psutil.virtual_memory().available or not fits(model):
        return f"there is too little room for {TIMES} times its {size / 1e9:,.1f} GB of float weights"
    return ""


def _opened(engines: Engines, settings: Mapping[str, Any]) -> str:
    try:
        with engines.lease(settings):
            return unproven(engines.store(settings))
    except EngineError as error:
        return str(error)
