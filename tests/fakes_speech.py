"""Tiny Whisper models with random weights, and sounds made of tones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes import make_texts

RATE = 16_000


def speech_tokenizer(languages: tuple[str, ...] = ("en", "de")) -> Any:
    """Byte-level BPE with Whisper's own control tokens in Whisper's order: notimestamps, then the times."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(make_texts(200), trainer)
    control = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages), "<|translate|>",
               "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(f"<|{at * 0.02:.2f}|>", normalized=False) for at in range(1501)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def _whisper(seed: int, size: int, end: int, start: int, **more: Any) -> Any:
    """Two layers each side and a vocabulary of that size; weights large enough for transcripts to differ."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, decoder_start_token_id=start, max_target_positions=64, **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    module = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:
                parameter.normal_(0, 0.25)
    return module


def make_whisper(folder: Path, seed: int = 0, bins: int = 80) -> Path:
    """Two layers each side; weights large enough for transcripts to differ from sound to sound."""
    import torch
    from transformers import GenerationConfig

    tokenizer = speech_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_vocab()}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    module = _whisper(seed, len(tokenizer), end, start, num_mel_bins=bins)
    with torch.no_grad():
        module.model.decoder.embed_tokens.weight[end + 1 :] *= 0.1  # words are likelier than control tokens
    module.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=end, bos_token_id=end, decoder_start_token_id=start, suppress_tokens=[],
        begin_suppress_tokens=[end], no_timestamps_token_id=ids["<|notimestamps|>"], is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in ("en", "de")}, alignment_heads=[[0, 0]],
    )  # fmt: skip
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tone(seconds: float, pitch: float = 440.0, rate: int = RATE, loud: float = 0.3) -> np.ndarray:
    """float32 [n]: a chord whose loudness comes and goes, so that chunks differ."""
    at = np.arange(int(seconds * rate)) / rate
    sound = np.sin(2 * np.pi * pitch * at) + 0.5 * np.sin(2 * np.pi * 1.5 * pitch * at)
    return (loud * sound * (1 + 0.5 * np.sin(2 * np.pi * 0.7 * at)) / 2.25).astype(np.float32)


def silence(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.zeros(int(seconds * rate), np.float32)


def write(file: Path, sound: np.ndarray, rate: int = RATE, **options: Any) -> Path:
    import soundfile

    soundfile.write(file, sound, rate, **options)
    return file


def make_multilingual(folder: Path, seed: int = 0) -> Path:
    """A tiny Whisper with the tokens of the real models of many languages, at their real places (ten languages of 99)."""
    import json

    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    vocabulary = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"filler{at}": at for at in range(len(vocabulary), 50257)}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    languages = [f"<|{code}|>" for code in list(LANGUAGES)[:99]]
    control = ["<|endoftext|>", "<|startoftranscript|>", *languages, "<|translate|>", "<|transcribe|>",
               "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    plain.add_special_tokens([AddedToken(token, special=True) for token in control])
    plain.add_tokens([AddedToken(f"<|{at * 0.02:.2f}|>", normalized=False) for at in range(1501)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    end = 50257
    module = _whisper(seed, 51865, end, end + 1)
    with torch.no_grad():
        words = module.model.decoder.embed_tokens.weight
        words[256:end] *= 0.1  # fillers are no words
        words[50259:50358] *= 3  # languages differ
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in control}
    module.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=end, bos_token_id=end, decoder_start_token_id=end + 1,
        suppress_tokens=[*range(256, end), *range(end + 1, 50364)], begin_suppress_tokens=[end],
        no_timestamps_token_id=ids["<|notimestamps|>"], is_multilingual=True, alignment_heads=[[0, 0], [1, 1]],
        lang_to_id={token: ids[token] for token in languages},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
    )  # fmt: skip
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80}))
    return folder
