"""Tiny random causal language models, and the plainest decode loop there is, to hold engines against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.engines.base import Engines
from llm_moments.model import open_model
from tests.fakes import byte_level

SIZES = {
    "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
GPT2 = {
    "vocab_size": 400,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SIZES),
    "llama-tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", SIZES),
    "gpt2": ("GPT2Config", GPT2),
}


def tiny_lm(folder: Path, kind: str = "llama", seed: int = 0, ends: bool = True) -> Path:
    """A Hugging Face folder with random weights, sharp enough that greedy answers do not hang on rounding.

    ends: whether the end token is as likely as others; else it never comes.
    """
    import torch
    import transformers

    name, sizes = KINDS[kind]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.mul_(8)
        if not ends:
            model.config.eos_token_id = model.generation_config.eos_token_id = 399
    model.save_pretrained(folder)
    byte_level(256, special=False).save_pretrained(folder)
    return folder


def naive(folder: Path, ids: list[int], new: int, end: int = 2) -> list[int]:
    """Greedy answer without any cache: the whole text is read again for each token."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = list(ids)
    with torch.no_grad():
        for _ in range(new):
            found = int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
            if found == end:
                break
            tokens.append(found)
    return tokens[len(ids) :]


def engine(ref: Path, name: str, **settings: Any) -> Any:
    return Engines(open_model(ref)).get({"engine": name, "precision": "fp32", **settings})


def some_prompts(count: int, seed: int = 0, longest: int = 40, vocabulary: int = 400) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, vocabulary, int(rng.integers(1, longest))).tolist() for _ in range(count)]
