"""Small real models and data made on the spot, and a clock that only moves when told."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "a",
    "movie",
    "film",
    "was",
    "is",
    "very",
    "really",
    "not",
    "good",
    "great",
    "bad",
    "awful",
    "plot",
    "actor",
    "music",
    "and",
    "but",
    "long",
    "short",
    "boring",
]
LABELS = ["neg", "neutral", "pos"]


class FakeClock:
    """Nanoseconds that pass only by `advance`."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def advance(self, ns: int) -> None:
        self.now += ns


def make_texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


def label_of(text: str) -> str:
    good, bad = (sum(text.split().count(w) for w in ws) for ws in (("good", "great"), ("bad", "awful")))
    return "pos" if good > bad else "neg" if bad > good else "neutral"


def word_piece(length: int = 64) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [
        *WORDS,
        *"abcdefghijklmnopqrstuvwxyz0123456789.,!'",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
    ]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*special, *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 80},
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "electra": {**SMALL, "embedding_size": 16},
    "mpnet": SMALL,
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {**SMALL, "global_attn_every_n_layers": 2, "local_attention": 16},
}


def make_model(
    folder: Path, arch: str = "bert", *, labels: list[str] | None = None, problem_type: str | None = None, seed: int = 0
) -> Path:
    """A model folder with random weights that are large enough for the answers to differ."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = LABELS if labels is None else labels
    tokenizer = word_piece()
    config = AutoConfig.for_model(
        arch, vocab_size=len(tokenizer), pad_token_id=0, id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)}, problem_type=problem_type, **ARCHITECTURES[arch],
    )  # fmt: skip
    torch.manual_seed(seed)
    module = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
