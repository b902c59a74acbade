"""Small real models and data made on the spot, and a clock that only moves when told."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.core import NULL, Outputs
from llm_moments.engines.contract import Forward

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


def word_piece(length: int = 64, left: bool = False) -> Any:
    """As BERT has it: `[CLS] a [SEP] b [SEP]`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

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
    template = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _fast(
        tokenizer, template, length, left, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def byte_level(length: int = 64, left: bool = False, *, special: bool = True, pad: bool = True) -> Any:
    """Byte-level BPE as RoBERTa has it, `<s> a </s></s> b </s>`; as GPT-2 with `special` False."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(make_texts(200), trainer)
    template = ("<s> $A </s>", "<s> $A </s> </s> $B </s>") if special else ("$A", "$A $B")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pad else {})
    return _fast(tokenizer, template, length, left, model_input_names=["input_ids", "attention_mask"], **names)


def unigram(length: int = 64, left: bool = False, *, ends: bool = False) -> Any:
    """SentencePiece's unigram as XLM-R has it; with `ends` as XLNet: `a <sep> b <sep> <cls>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<cls>", "<sep>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(make_texts(200), trainer)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    if ends:
        template = ("$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2")
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        return _fast(
            tokenizer, template, length, left, model_input_names=inputs, pad_token_type_id=3, **names
        )  # fmt: skip
    template = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return _fast(tokenizer, template, length, left, model_input_names=["input_ids", "attention_mask"], **names)


def spaces_before(length: int = 64, left: bool = False, *, across: bool = False) -> Any:
    """As Llama 2 has it: BPE over the whole text, a space put before it. `across`: some tokens hold two words."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=250, special_tokens=special, show_progress=False)
    words = [word for text in make_texts(50) for word in text.split()]
    rows = make_texts(200) if across else [space + word for word in words for space in ("", " ", "  ")]
    tokenizer.train_from_iterator(rows, trainer)
    template = ("<s> $A </s>", "<s> $A </s> $B </s>")
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>"}
    return _fast(tokenizer, template, length, left, model_input_names=["input_ids", "attention_mask"], **names)


def _fast(tokenizer: Any, template: tuple[str, str], length: int, left: bool, **named: Any) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    single, pair = template
    special = {part.split(":")[0] for part in pair.split() if not part.startswith("$")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair,
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in sorted(special)],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length, padding_side="left" if left else "right", **named
    )


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


# Classifiers of other kinds: shared layers, padding on the left, the last token's logits.
OTHERS: dict[str, dict[str, Any]] = {
    "albert": {**SMALL, "embedding_size": 16},
    "xlnet": {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 80},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "roformer": {**SMALL, "embedding_size": 32},
}
# Those that some engine cannot take.
ODD: dict[str, dict[str, Any]] = {
    "longformer": {**SMALL, "attention_window": [8, 8, 8]},
    "funnel": {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [2, 1], "num_decoder_layers": 1},
}
TOKENIZERS: dict[str, Any] = {
    "roberta": byte_level,
    "xlm-roberta": unigram,
    "deberta-v2": unigram,
    "albert": unigram,
    "xlnet": lambda: unigram(left=True, ends=True),
    "gpt2": lambda: byte_level(special=False),
    "llama": lambda: unigram(left=True),
}


def make_model(
    folder: Path, arch: str = "bert", *, labels: list[str] | None = None, problem_type: str | None = None, seed: int = 0,
    tokenizer: Any = None, **sizes: Any,
) -> Path:  # fmt: skip
    """A model folder with random weights that are large enough for the answers to differ.

    The tokenizer is of the kind that goes with the architecture, unless one is given; sizes: entries of
    its configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = LABELS if labels is None else labels
    tokenizer = tokenizer or TOKENIZERS.get(arch, word_piece)()
    config = AutoConfig.for_model(
        arch, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)}, problem_type=problem_type,
        **({**ARCHITECTURES, **OTHERS, **ODD}[arch] | sizes),
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


def make_linear(
    folder: Path, *, labels: list[str] | None = None, problem_type: str | None = None, seed: int = 0
) -> Path:
    """A folder with a linear model of words whose weights are random."""
    import torch

    from llm_moments.models.linear import config_of, make_module
    from llm_moments.models.vectorizer import Vectorizer

    names = LABELS if labels is None else labels
    texts = make_texts(100)
    vectorizer = Vectorizer.fit([*texts, *zip(texts[:50], texts[50:], strict=True)])
    module = make_module(config_of(vectorizer, names, problem_type or "single_label_classification"), vectorizer)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    folder.mkdir(parents=True, exist_ok=True)
    module.save_pretrained(folder)
    return folder


class FakeEngine(Forward):
    """An engine that knows no model: its logits are the sum and the count of a row's real tokens."""

    @classmethod
    def open(cls, *args: Any) -> FakeEngine:
        return cls()

    name = "fake"

    def __init__(self, wrong: float = 0.0):
        self.calls: list[tuple[int, ...]] = []
        self.wrong = wrong  # added to every logit; NaN makes an engine that fails without saying so

    def forward(self, fields: dict[str, np.ndarray], recorder: Any = NULL) -> dict[str, np.ndarray]:
        self.calls.append(fields["input_ids"].shape)
        mask = fields["attention_mask"]
        sums = (fields["input_ids"] * mask).sum(1)
        return {"logits": np.stack([sums, mask.sum(1)], 1).astype(np.float32) + self.wrong}

    def close(self) -> None:
        pass


class FakeEngines:
    """What a pipeline asks for its engines: always the same one."""

    def __init__(self, engine: FakeEngine | None = None):
        self.engine = engine or FakeEngine()

    def get(self, settings: Any) -> FakeEngine:
        return self.engine

    def lease(self, settings: Any, recorder: Any = None) -> Any:
        return nullcontext(self.engine)

    def model_for(self, settings: Any) -> None:
        return None

    def close(self) -> None:
        pass


def logits(array: Any) -> Outputs:
    """Outputs of a classifier."""
    return Outputs({"logits": np.asarray(array)})


def spoil_loss(monkeypatch: Any, update: int, times: float) -> None:
    """From then on, trainings have a loss that is so many times itself at that update."""
    from llm_moments.train.losses import OfReferences

    usual, calls = OfReferences.__call__, []

    def spoilt(self: Any, *args: Any) -> Any:
        calls.append(1)
        return usual(self, *args) * (times if len(calls) == update else 1.0)

    monkeypatch.setattr(OfReferences, "__call__", spoilt)
