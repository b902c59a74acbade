"""Tiny language models with random weights, for whatever makes texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes import SMALL, byte_level

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
CAUSAL: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
}


def make_causal(folder: Path, arch: str = "llama", *, template: bool = True, seed: int = 0, **sizes: Any) -> Path:
    """A causal language model of a few thousand weights, large enough for its texts to differ."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_level(length=256, special=False)
    if template:
        tokenizer.chat_template = TEMPLATE
    config = AutoConfig.for_model(
        arch, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **({**CAUSAL[arch], "max_position_embeddings": 256} | sizes),
    )  # fmt: skip
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
