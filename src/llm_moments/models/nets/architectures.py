"""Which networks a model folder may hold, and how each is opened. torch is imported when one is."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from llm_moments.base.errors import ModelError
from llm_moments.models.nets.pruned import HEADS, with_fewer_heads

CNN = "moments-cnn"
TIMM = {"efficientnet_lite0", "tf_efficientnet_lite0"}  # architectures in timm's format that are known here


def is_image_model(config: dict[str, Any]) -> bool:
    """Whether config.json is that of an image classifier, or of a vision encoder that may become one."""
    if "pretrained_cfg" in config or config.get("model_type") == CNN:
        return True
    named = [str(a) for a in config.get("architectures") or []]
    if any("ImageClassification" in a for a in named):
        return True
    return "num_channels" in config and "vocab_size" not in config and "text_config" not in config


def auto_class(config: dict[str, Any]) -> Any:
    """What has the `from_pretrained` for this model folder."""
    auto = _auto_class(config)
    return with_fewer_heads(auto, config) if HEADS in config else auto


def _auto_class(config: dict[str, Any]) -> Any:
    if not is_image_model(config):
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification
    if config.get("model_type") == CNN:
        from llm_moments.models.nets.cnn import MomentsCnnForImageClassification

        return MomentsCnnForImageClassification
    if "pretrained_cfg" in config:
        name = str(config.get("architecture"))
        if name not in TIMM:
            raise ModelError(f"unknown architecture {name!r} in timm's format; known are {', '.join(sorted(TIMM))}")
        from llm_moments.models.nets.efficientnet_lite import EfficientNetLiteForImageClassification

        return EfficientNetLiteForImageClassification
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification


def fitted(module: Any, model: Any) -> Any:
    """The module, told what it needs to know. Of images: `input_shape`, and to interpolate its positions for
    images of another size where it has positions (ViT and its kin). Of tokens: which one is padding, where only the
    tokenizer knows it; then `pad_is_given`, since a row alone is read without it."""
    if is_image_model(model.config):
        from llm_moments.models.preprocessing import preprocessing

        wanted = preprocessing(model)
        module.input_shape = (wanted.channels, wanted.height, wanted.width)
        if "interpolate_pos_encoding" in inspect.signature(module.forward).parameters:
            module.forward = partial(module.forward, interpolate_pos_encoding=True)
    elif hasattr(module.config, "get_text_config"):
        _given_padding(module, model)
    return module


def _given_padding(module: Any, model: Any) -> None:
    config = module.config.get_text_config()
    known = getattr(config, "pad_token_id", None)
    if isinstance(known, int) and known >= 0:
        return
    try:
        pad = model.encoder.pad_id
    except ModelError:  # weights alone, of a student: rows come as the original's tokenizer has made them
        return
    if pad is not None:
        config.pad_token_id, module.__dict__["pad_is_given"] = pad, True


def taken(module: Any) -> frozenset[str] | None:
    """The inputs that a module's `forward` names; None where it takes any."""
    found = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters
    every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values())
    plain = "input_ids" in found and "attention_mask" not in found  # a mask among the others is dropped on the way
    return None if every and not plain else frozenset(found)
