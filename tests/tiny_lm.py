"""Tiny random causal language models, and the plainest decode loop there is, to hold engines against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.engines.base import Engines
from llm_moments.models.open import open_model
from tests.fakes import byte_level

SIZES = {
    "vocab_size": 400, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
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
    "llama-wide": ("LlamaConfig", {**SIZES, "hidden_size": 256, "intermediate_size": 256}),  # K-quants: blocks of 256
    "llama-tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", SIZES),
    "gpt2": ("GPT2Config", GPT2),
}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # further architectures, for what is to hold for all
    "gemma": ("GemmaConfig", {**SIZES, "head_dim": 32}),
    "gemma3": ("Gemma3TextConfig", {**SIZES, "head_dim": 32, "sliding_window": 8, "num_hidden_layers": 2}),
    "phi": ("PhiConfig", SIZES),
    "opt": ("OPTConfig", {**{k: v for k, v in SIZES.items() if k not in ("intermediate_size", "num_key_value_heads")}, "ffn_dim": 192, "word_embed_proj_dim": 128}),
    "bloom": ("BloomConfig", {"vocab_size": 400, "hidden_size": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0}),
    "mamba": ("MambaConfig", {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2}),
}  # fmt: skip


def tiny_lm(folder: Path, kind: str = "llama", *, seed: int = 0, end: int = 2, sharp: float = 8) -> Path:
    """A Hugging Face folder with random weights, sharp enough that greedy answers do not hang on rounding."""
    import torch
    import transformers

    name, sizes = {**KINDS, **OTHERS}[kind]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**sizes, "eos_token_id": end}))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.mul_(sharp)
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


def same_but_for_ties(folder: Path, prompt: Sequence[int], found: list[int], expected: list[int]) -> bool:
    """Whether answers agree up to a place where the two tokens are as good as equally likely: rounding decides there."""
    at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if at is None:
        return len(found) == len(expected)
    told = engine(folder, "transformers").logprobs([*prompt, *expected[: at + 1]], len(prompt) + at)[0]
    return bool(abs(told[found[at]] - told[expected[at]]) < 0.02)


def engine(ref: Path, name: str, **settings: Any) -> Any:
    return Engines(open_model(ref)).get({"engine": name, "precision": "fp32", **settings})


def some_prompts(count: int, seed: int = 0, longest: int = 40, vocabulary: int = 400) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, vocabulary, int(rng.integers(1, longest))).tolist() for _ in range(count)]


def tiny_gguf(folder: Path, file: Path) -> Path:
    """A tiny Llama folder as a .gguf file in float32: rows of queries and keys in llama.cpp's order."""
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoConfig, AutoTokenizer

    config, weights = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = [str(t) for t in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    pieces += [f"[{at}]" for at in range(len(pieces), config.vocab_size)]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if at in special else 1 for at in range(len(pieces))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in weights.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantised(file: Path, made: Path, kind: str) -> Path:
    """The same .gguf file by llama.cpp's own quantiser. kind: such as Q4_K_M."""
    import ctypes

    import llama_cpp

    from llm_moments.engines.llama_context import _listen

    _listen()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), 1
    if llama_cpp.llama_model_quantize(str(file).encode(), str(made).encode(), ctypes.byref(options)):
        raise ValueError(f"llama.cpp cannot make {kind} of {file}")
    return made
