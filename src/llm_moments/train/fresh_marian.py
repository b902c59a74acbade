"""A small translating model that begins from nothing: the Marian architecture, and a tokenizer made of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm_moments.base.errors import InputError

LIMITS = {
    "vocabulary": (300, 64_000), "width": (16, 2048), "encoder_layers": (1, 48), "decoder_layers": (1, 48),
    "heads": (1, 64), "feed_forward": (16, 16_384), "positions": (16, 4096), "beams": (1, 16),
}  # fmt: skip
USUAL = {
    "vocabulary": 2000, "width": 192, "encoder_layers": 3, "decoder_layers": 3, "heads": 4, "feed_forward": 768,
    "positions": 256, "beams": 4,
}  # fmt: skip


def checked_options(options: Mapping[str, Any]) -> dict[str, int]:
    """vocabulary=2000, width=192, encoder_layers=3, …; InputError for anything else."""
    for name, value in options.items():
        if name not in LIMITS:
            raise InputError(f"unknown model option {name!r}; a marian has {', '.join(LIMITS)}")
        low, high = LIMITS[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(f"the model option {name} is from {low} to {high}, not {value!r}")
    chosen = {**USUAL, **options}
    if chosen["width"] % (2 * chosen["heads"]):
        raise InputError(f"the width {chosen['width']} cannot be shared by {chosen['heads']} heads: it is no multiple of {2 * chosen['heads']}")  # fmt: skip
    return chosen


def tokenizer_of(texts: Iterable[str], vocabulary: int, positions: int) -> Any:
    """Byte-level BPE (no text is unknown to it) whose padding token is the last one, as Marian models have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1, special_tokens=["</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    end = made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    made.add_special_tokens(["<pad>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def fresh_marian(pairs: Iterable[tuple[str, str]], options: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
    """(module with random weights, tokenizer); the same for the same pairs, options and seed."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    chosen = checked_options(options)
    texts = (text for pair in pairs for text in pair)
    tokenizer = tokenizer_of(texts, chosen["vocabulary"], chosen["positions"])
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = MarianConfig(
        vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer), d_model=chosen["width"],
        encoder_layers=chosen["encoder_layers"], decoder_layers=chosen["decoder_layers"],
        encoder_attention_heads=chosen["heads"], decoder_attention_heads=chosen["heads"],
        encoder_ffn_dim=chosen["feed_forward"], decoder_ffn_dim=chosen["feed_forward"],
        max_position_embeddings=chosen["positions"], pad_token_id=pad, eos_token_id=end, decoder_start_token_id=pad,
        forced_eos_token_id=end, scale_embedding=True, activation_function="swish", dropout=0.1,
        init_std=chosen["width"] ** -0.5,  # embeddings as large as the positions that are added to them
    )  # fmt: skip
    torch.manual_seed(seed)
    module: Any = MarianMTModel(config)
    with torch.no_grad():
        module.get_input_embeddings().weight[pad] = 0
    told = module.generation_config  # as the hub's Marian models are asked
    told.num_beams, told.max_length, told.bad_words_ids = chosen["beams"], chosen["positions"], [[pad]]
    told.forced_eos_token_id = end
    return module, tokenizer
