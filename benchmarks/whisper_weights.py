"""A CTranslate2 Whisper folder written again as a Hugging Face one: the same weights for transformers, to compare with."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def variables(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a model.bin of version 6, by name; aliases among them."""
    data, at = file.read_bytes(), 0

    def take(form: str) -> Any:
        nonlocal at
        value = struct.unpack_from(form, data, at)[0]
        at += struct.calcsize(form)
        return value

    def word() -> str:
        nonlocal at
        length = take("<H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    take("<I"), word(), take("<I")
    found: dict[str, np.ndarray] = {}
    for _ in range(take("<I")):
        name, rank = word(), take("<B")
        shape = [take("<I") for _ in range(rank)]
        kind, size = take("<B"), take("<I")
        found[name] = np.frombuffer(data, TYPES[kind], size // TYPES[kind]().itemsize, at).reshape(shape)
        at += size
    for _ in range(take("<I")):
        name, of = word(), word()
        found[name] = found[of]
    return found


def attention(found: dict[str, np.ndarray], prefix: str, ours: str, cross: bool) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for kind in ("weight", "bias"):
        whole = [found[f"{prefix}/linear_{i}/{kind}"] for i in range(3 if cross else 2)]
        parts = [whole[0], *np.split(whole[1], 2)] if cross else np.split(whole[0], 3)
        for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            if not (name == "k_proj" and kind == "bias"):  # Whisper's keys have none
                made[f"{ours}.{name}.{kind}"] = part
        made[f"{ours}.out_proj.{kind}"] = whole[-1]
    return made | norm(found, f"{prefix}/layer_norm", f"{ours}_layer_norm")


def norm(found: dict[str, np.ndarray], prefix: str, ours: str) -> dict[str, np.ndarray]:
    return {f"{ours}.weight": found[f"{prefix}/gamma"], f"{ours}.bias": found[f"{prefix}/beta"]}


def state(found: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    made = {
        "model.encoder.embed_positions.weight": found["encoder/position_encodings/encodings"],
        "model.decoder.embed_positions.weight": found["decoder/position_encodings/encodings"],
        "model.decoder.embed_tokens.weight": found["decoder/embeddings/weight"],
        **norm(found, "encoder/layer_norm", "model.encoder.layer_norm"),
        **norm(found, "decoder/layer_norm", "model.decoder.layer_norm"),
    }
    for i in (1, 2):
        for kind in ("weight", "bias"):
            made[f"model.encoder.conv{i}.{kind}"] = found[f"encoder/conv{i}/{kind}"]
    for side in ("encoder", "decoder"):
        for i in range(layers):
            theirs, ours = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            made |= attention(found, f"{theirs}/self_attention", f"{ours}.self_attn", False)
            if side == "decoder":
                made |= attention(found, f"{theirs}/attention", f"{ours}.encoder_attn", True)
            for j in (0, 1):
                for kind in ("weight", "bias"):
                    made[f"{ours}.fc{j + 1}.{kind}"] = found[f"{theirs}/ffn/linear_{j}/{kind}"]
            made |= norm(found, f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    return made


def write(source: Path, out: Path) -> Path:
    """The Hugging Face folder; made once."""
    if (out / "model.safetensors").exists():
        return out
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    found = variables(source / "model.bin")
    told = json.loads((source / "config.json").read_text())
    width = found["decoder/embeddings/weight"].shape
    layers = sum(name.startswith("decoder/layer_") and name.endswith("/ffn/linear_0/weight") for name in found)
    first = 50257 if width[0] < 51865 else 50258
    config = WhisperConfig(
        vocab_size=width[0], d_model=width[1], encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=width[1] // 64, decoder_attention_heads=width[1] // 64, encoder_ffn_dim=4 * width[1],
        decoder_ffn_dim=4 * width[1], num_mel_bins=found["encoder/conv1/weight"].shape[1], pad_token_id=first - 1,
        bos_token_id=first - 1, eos_token_id=first - 1, decoder_start_token_id=first,
    )  # fmt: skip
    module = WhisperForConditionalGeneration(config)
    arrays = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in state(found, layers).items()}
    left = module.load_state_dict(arrays, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"proj_out.weight"}:
        raise SystemExit(f"{source}: weights do not fit: {left}")
    module.tie_weights()
    module.generation_config = GenerationConfig(
        suppress_tokens=told["suppress_ids"], begin_suppress_tokens=told["suppress_ids_begin"], eos_token_id=first - 1,
        pad_token_id=first - 1, bos_token_id=first - 1, decoder_start_token_id=first, max_length=448,
        no_timestamps_token_id=first + 105, is_multilingual=first == 50258,
    )  # fmt: skip
    module.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)
    shutil.copy(source / "tokenizer.json", out)
    return out
