"""A module made ready for its training: blocks frozen, adapters put in, activations recomputed, on its device."""

from __future__ import annotations

from typing import Any

from llm_moments.base.errors import EngineMissing, InputError
from llm_moments.train.settings import Settings


def placed(module: Any, device: str) -> None:
    """On the device and, of images, channels last: convolutions take half the time on a CPU."""
    import torch

    module.to(device)
    if getattr(module, "input_shape", None):
        module.to(memory_format=torch.channels_last)


def prepared(module: Any, wanted: Settings) -> Any:
    """The module with some blocks frozen, adapters put in or activations recomputed, as the settings say."""
    if wanted.freeze:
        from llm_moments.models.blocks import blocks

        known = {block.name: block for block in blocks(module)}
        if missing := [name for name in wanted.freeze if name not in known]:
            raise InputError(f"no block {missing} to freeze in this model; it has {', '.join(known)}")
        for name in wanted.freeze:
            for part in (known[name].module, *known[name].also):
                part.requires_grad_(False)
        if not any(p.requires_grad for p in module.parameters()):
            raise InputError("every block is frozen; there is nothing left to train")
    if wanted.dropout is not None:
        for part in module.modules():
            for name, value in list(vars(part).items()):
                if isinstance(value, float) and (name.endswith("dropout") or "dropout_p" in name or name == "p"):
                    setattr(part, name, wanted.dropout)
                elif name == "layerdrop" and not wanted.dropout:  # whole layers left out at random, as in M2M100
                    setattr(part, name, 0.0)
    if wanted.gradient_checkpointing:
        try:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as error:
            raise InputError(f"this model cannot recompute its activations: {error}") from error
    if wanted.lora:
        return _adapted(module, wanted.lora, wanted.seed)
    return module


def _adapted(module: Any, rank: int, seed: int) -> Any:
    import torch

    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise EngineMissing("peft", "train") from error
    kind = TaskType.SEQ_CLS
    if getattr(module, "can_generate", bool)():
        kind = TaskType.SEQ_2_SEQ_LM if module.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    torch.manual_seed(seed)  # half of an adapter is drawn
    return get_peft_model(module, config)
