"""The torch module of a model that makes texts, loaded, and without some of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_moments.engines.dequantised import dequantised
from llm_moments.engines.foreign import quiet
from llm_moments.models.blocks import layer_list, skip
from llm_moments.models.generation_settings import HOW, PLANNED, UNKNOWN_HERE
from llm_moments.models.loading import loaded

AUTO = (
    ("WhisperForConditionalGeneration", "AutoModelForSpeechSeq2Seq"),
    ("MarianMTModel", "AutoModelForSeq2SeqLM"),
    ("ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
    ("", "AutoModelForCausalLM"),
)


def load_generating(model: Any) -> Any:
    """The `torch.nn.Module` of a generating model in eval mode, float32 (GGUF weights are dequantised)."""
    import transformers

    architectures = [str(a) for a in model.config.get("architectures") or [""]]
    auto = next(cls for end, cls in AUTO if any(end in name for name in architectures))
    cls = getattr(transformers, auto)
    with quiet():
        if model.format == "gguf":
            module = dequantised(model, cls)
        else:
            module = loaded(
                cls, model.path, model.name, dtype="float32", use_safetensors=True,
                trust_remote_code=model.trust_remote_code,
            )  # fmt: skip
    module.eval()
    _left_to_the_plan(module.generation_config)
    return module


def _left_to_the_plan(config: Any) -> None:
    """What the plan says, or nobody here follows, is taken back; the folder's other rules stay where `generate` looks."""
    for name, value in {**{k: v for k, (v, _) in PLANNED.items()}, **UNKNOWN_HERE, **HOW}.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)


def without_layers(module: Any, indices: Sequence[int]) -> Any:
    """The same module, able to generate, without these layers: what reaches one is passed on as it is."""
    if indices:
        module = skip(module, list(indices))
        _drop_kinds(module)
        _renumber(module)
    return module


def _drop_kinds(module: Any) -> None:
    """What stands in for the layers that are gone goes, too, where the configuration counts them: by it a cache is
    made, and models look up the kind of a layer by its place in the list."""
    import torch

    config = module.config
    path, layers = layer_list(module)
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "num_hidden_layers", None) != len(layers):
        return
    kept = [at for at, layer in enumerate(layers) if not hasattr(layer, "stands_for_a_layer")]
    module.set_submodule(path, torch.nn.ModuleList([layers[at] for at in kept]))
    config.num_hidden_layers = len(kept)
    if isinstance(vars(config).get("layer_types"), list):
        config.layer_types = [config.layer_types[at] for at in kept]


def _renumber(module: Any) -> None:
    """The cache counts layers by number: those that are left must count on without a gap."""
    inside = module.get_decoder() if getattr(module.config, "is_encoder_decoder", False) else module
    parts = [part for part in inside.modules() if isinstance(getattr(part, "layer_idx", None), int)]
    # A layer of a decoder that has an encoder has two of one number: its own attention and that to the encoder.
    numbers = {old: new for new, old in enumerate(sorted({part.layer_idx for part in parts}))}
    for part in parts:
        part.layer_idx = numbers[part.layer_idx]
    config = module.config
    if numbers and isinstance(vars(config).get("layer_types"), list):
        config.layer_types = config.layer_types[: len(numbers)]
