"""A tiny language model with a chat template, random weights and a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes import byte_level

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def make_chat(folder: Path, seed: int = 0, *, templated: bool = True, positions: int = 128, **sizes: Any) -> Path:
    """A Llama of two layers; other seeds make other weights with the same tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level(positions, special=False)
    if templated:
        tokenizer.chat_template = TEMPLATE
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": positions, **sizes,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    torch.manual_seed(seed)
    module = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
