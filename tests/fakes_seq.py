"""Tiny random models that translate, with tokenizers trained on the spot; and pairs of a toy language."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "red",
    "blue",
    "house",
    "dog",
    "runs",
    "over",
    "seven",
    "hills",
    "and",
    "cats",
    "sleep",
    "in",
    "old",
    "boats",
    "near",
    "rivers",
]
TARGET = {word: word[::-1] + "o" for word in WORDS}


def toy_pairs(count: int, seed: int = 0, longest: int = 8) -> list[tuple[str, str]]:
    """Each word has one translation, and the words come in the opposite order."""
    rng = random.Random(seed)
    rows = [rng.choices(WORDS, k=rng.randint(1, longest)) for _ in range(count)]
    return [(" ".join(row), " ".join(TARGET[w] for w in reversed(row))) for row in rows]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([("source", "target"), *pairs])
    return path


def _shaken(module: Any, seed: int, size: float = 0.2) -> Any:
    """Weights that are large enough for the answers to differ; the padding row of an embedding stays zeros."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, size)
        for part in module.modules():
            if isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
                part.weight[part.padding_idx] = 0
    return module.eval()


def make_marian(folder: Path, seed: int = 0) -> Path:
    from llm_moments.train.fresh_marian import fresh_marian

    module, tokenizer = fresh_marian(
        toy_pairs(100), {"vocabulary": 340, "width": 32, "feed_forward": 48, "positions": 48, "encoder_layers": 2, "decoder_layers": 2}, seed
    )  # fmt: skip
    _shaken(module, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_t5(folder: Path, seed: int = 0, **config: Any) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    from llm_moments.train.fresh_marian import tokenizer_of

    tokenizer = tokenizer_of((t for pair in toy_pairs(100) for t in pair), 340, 48)
    made = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id, n_positions=48,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, **config,
    )  # fmt: skip
    _shaken(T5ForConditionalGeneration(made), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentencepieces(folder: Path, name: str, texts: list[str], size: int = 90) -> Path:
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.txt"
    file.write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(file), model_prefix=str(folder / name), vocab_size=size, minloglevel=2, hard_vocab_limit=False
    )
    return folder / f"{name}.model"


def _pieces(file: Path) -> list[str]:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def make_hub_marian(folder: Path, codes: tuple[str, ...] = (), seed: int = 0) -> Path:
    """As the hub's Marian models are: source.spm, target.spm, vocab.json; codes: of several target languages."""
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    pairs = toy_pairs(200)
    files = [
        sentencepieces(folder / "raw", side, [p[at] for p in pairs]) for at, side in enumerate(("source", "target"))
    ]
    pieces = dict.fromkeys(p for file in files for p in _pieces(file) if p not in ("<s>", "</s>", "<unk>"))
    words = ["</s>", "<unk>", *(f">>{code}<<" for code in codes), *pieces, "<pad>"]
    (folder / "raw" / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    tokenizer = MarianTokenizer(*map(str, files), str(folder / "raw" / "vocab.json"), model_max_length=48)
    config = MarianConfig(
        vocab_size=len(words), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=48,
        pad_token_id=len(words) - 1, eos_token_id=0, decoder_start_token_id=len(words) - 1, forced_eos_token_id=0,
        scale_embedding=True,
    )  # fmt: skip
    module = _shaken(MarianMTModel(config), seed)
    module.generation_config.num_beams, module.generation_config.max_length = 4, 40
    module.generation_config.bad_words_ids = [[len(words) - 1]]
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_m2m100(folder: Path, seed: int = 0) -> Path:
    from transformers import M2M100Tokenizer

    file = sentencepieces(folder / "raw", "both", [t for pair in toy_pairs(200) for t in pair])
    words = ["<s>", "<pad>", "</s>", "<unk>", *(p for p in _pieces(file) if p not in ("<s>", "</s>", "<unk>"))]
    (folder / "raw" / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    tokenizer = M2M100Tokenizer(str(folder / "raw" / "vocab.json"), str(file), model_max_length=48)
    size = max(tokenizer.lang_code_to_id.values()) + 1 + tokenizer.num_madeup_words
    return _m2m100(folder, tokenizer, size, seed)


def _m2m100(folder: Path, tokenizer: Any, size: int, seed: int) -> Path:
    """size: of the vocabulary."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    config = M2M100Config(
        vocab_size=size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=48,
        pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    _shaken(M2M100ForConditionalGeneration(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_nllb(folder: Path, seed: int = 0) -> Path:
    """M2M100's architecture with NLLB's tokenizer: its codes are special tokens, the source's comes first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import NllbTokenizer

    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    plain.train_from_iterator(
        (t for pair in toy_pairs(100) for t in pair),
        trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False),
    )
    told = json.loads(plain.to_str())["model"]
    tokenizer = NllbTokenizer(told["vocab"], [tuple(pair) for pair in told["merges"]], model_max_length=48)
    return _m2m100(folder, tokenizer, len(tokenizer) + 2, seed)


def make_mbart(folder: Path, seed: int = 0) -> Path:
    """mBART of 25 languages: the source ends with its language, the decoder starts with the target's."""
    from transformers import MBartConfig, MBartForConditionalGeneration, MBartTokenizer
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

    letters = sorted({c for pair in toy_pairs(100) for text in pair for c in text if c != " "})
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in letters)]
    vocab += [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES] + [("<mask>", 0.0)]
    tokenizer = MBartTokenizer(vocab, model_max_length=48)
    config = MBartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=46,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=tokenizer.convert_tokens_to_ids("ro_RO"),
        forced_eos_token_id=2, tokenizer_class="MBartTokenizer", normalize_before=True, scale_embedding=True,
    )  # fmt: skip
    module = _shaken(MBartForConditionalGeneration(config), seed)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_bart(folder: Path, seed: int = 0) -> Path:
    """A BART without languages, whose answers do not end soon."""
    from transformers import BartConfig, BartForConditionalGeneration

    from llm_moments.train.fresh_marian import tokenizer_of

    tokenizer = tokenizer_of((t for pair in toy_pairs(100) for t in pair), 340, 48)
    end, tokenizer.bos_token = tokenizer.eos_token_id, tokenizer.eos_token
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=48,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=end, decoder_start_token_id=end,
        forced_eos_token_id=None,
    )  # fmt: skip
    _shaken(BartForConditionalGeneration(config), seed, 0.35).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
