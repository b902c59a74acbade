"""Tiny language models with random weights, for whatever makes texts; and an encoder of sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fakes import SMALL, byte_level, word_piece

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


def make_encoder(
    folder: Path,
    *,
    pooling: Any = ("mean_tokens",),
    normalised: bool = True,
    dense: int = 0,
    most: int = 0,
    **settings: Any,
) -> Path:
    """A BERT without a head in sentence-transformers' layout. pooling: words of its modes; dense: numbers that a linear layer
    makes of a vector; settings: more files' contents, by name (sentence_bert_config, config_sentence_transformers)."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    tokenizer = word_piece()
    torch.manual_seed(3)
    module = BertModel(BertConfig(vocab_size=len(tokenizer), **SMALL), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Dense", "2_Dense")] if dense else ())]
    kinds += [("Normalize", "3_Normalize")] if normalised else []
    told = [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (kind, path) in enumerate(kinds)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(told))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{one}": True for one in pooling}))
    if dense:
        (folder / "2_Dense").mkdir()
        width = SMALL["hidden_size"] * len(pooling)
        layer = {"in_features": width, "out_features": dense, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
        (folder / "2_Dense" / "config.json").write_text(json.dumps(layer))
        weights = {"linear.weight": torch.randn(dense, width) / 8, "linear.bias": torch.randn(dense) / 8}
        save_file(weights, folder / "2_Dense" / "model.safetensors")
    if most:
        settings = {"sentence_bert_config": {"max_seq_length": most}, **settings}
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
