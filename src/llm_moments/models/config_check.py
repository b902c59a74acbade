"""What the JSON files of a model folder may say: the type of every entry that is read here, and sizes that can be true."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_moments.base.errors import ModelError

Check = tuple[Callable[[Any], bool], str]  # whether a value will do, and what it should be

LARGEST = 1 << 24  # of a width, a vocabulary, a number of positions or labels
LAYERS = 1000  # more are believed only where the files hold as many tensors
SIZE = re.compile(
    r"(^|_)(size|sizes|dim|dims|layers?|heads|labels|classes|positions?|embeddings|length|len|window|experts|channels|depths?|blocks|d_model"
    r"|d_ff|d_inner|d_kv|n_embd|n_inner|n_ctx|ffn_dim)$"
)
COUNTS = re.compile(r"(^|_)(layers?|depths?|blocks)$")


def _whole(value: Any, low: int = 0, high: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _each(inner: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(inner, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _or_none(check: Check) -> Check:
    return (lambda value: value is None or check[0](value), f"{check[1]}, or null")


TEXT: Check = (_text, "a text")
TABLE: Check = (lambda v: isinstance(v, dict), "an object")
WHOLE: Check = (_whole, "a whole number of at least 0")
LABELS: Check = (lambda v: _whole(v, 1, 1_000_000), "a whole number from 1 to 1,000,000")
TOKEN: Check = (lambda v: _whole(v, -1) or _each(_whole)(v), "the number of a token, or a list of them")
SIDES: Check = (
    lambda v: _whole(v, 1) or (_each(lambda n: _whole(n, 1))(v) and len(v) > 0),
    "a whole number, or a list of them",
)
SIDE: Check = (lambda v: v in ("left", "right"), "left or right")
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")

CONFIG: dict[str, Check] = {
    "architectures": _or_none((_each(_text), "a list of names")), "model_type": TEXT, "id2label": _or_none(TABLE),
    "label2id": _or_none(TABLE), "num_labels": LABELS,
    "num_classes": LABELS,
    "problem_type": _or_none((lambda v: isinstance(v, str) and v in PROBLEMS, f"one of {', '.join(PROBLEMS)}")),
    "image_size": SIDES, "patch_size": SIDES, "num_channels": (lambda v: _whole(v, 1), "a whole number of at least 1"),
    "pretrained_cfg": _or_none(TABLE), "architecture": TEXT, "text_config": _or_none(TABLE),
    "vocab_size": _or_none(WHOLE), "is_encoder_decoder": (lambda v: isinstance(v, bool), "true or false"),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), _or_none(TOKEN)),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length",
         "num_hidden_layers", "hidden_size", "num_attention_heads", "num_mel_bins", "max_source_positions"),
        _or_none((_number, "a number")),
    ),
}  # fmt: skip
TOKENIZER: dict[str, Check] = {
    "model_max_length": _or_none((_number, "a number")), "padding_side": SIDE, "truncation_side": SIDE,
    "model_input_names": (_each(_text), "a list of names"), "tokenizer_class": _or_none(TEXT),
    "chat_template": _or_none((lambda v: isinstance(v, str | list | dict), "a template")),
}  # fmt: skip
PREPROCESSOR: dict[str, Check] = {
    "image_processor_type": _or_none(TEXT), "feature_extractor_type": _or_none(TEXT), "processor_class": _or_none(TEXT),
}  # fmt: skip
NOTES: dict[str, Check] = {
    "task": _or_none(TEXT), "max_length": _or_none(WHOLE), "translate": TABLE, "epochs": (_number, "a number"),
    "learning_rate": (_number, "a number"), "seed": _or_none(WHOLE),
}  # fmt: skip
INDEX: dict[str, Check] = {
    "weight_map": (lambda v: isinstance(v, dict) and all(map(_text, v.values())), "an object of file names"),
}  # fmt: skip
FILES = {
    "config.json": CONFIG, "tokenizer_config.json": TOKENIZER, "preprocessor_config.json": PREPROCESSOR,
    "moments.json": NOTES, "model.safetensors.index.json": INDEX,
}  # fmt: skip


def check(file: Path, told: Mapping[str, Any], known: Mapping[str, Check] | None = None) -> None:
    """ModelError naming file, entry and value for one of another type than the code reads."""
    for name, (fits, wanted) in (FILES.get(file.name, {}) if known is None else known).items():
        if name in told and not fits(told[name]):
            raise ModelError(f"{file}: {name} should be {wanted}, not {told[name]!r:.80}")


def check_sizes(file: Path, told: Mapping[str, Any], tensors: int) -> None:
    """ModelError for sizes that no file of weights bears out: making such a model would take all time or memory.

    tensors: how many the files hold. A layer has one at least, unless layers share theirs.
    """
    for name, value in _numbers(told):
        most = max(LAYERS, tensors) if COUNTS.search(name) else LARGEST
        if SIZE.search(name) and abs(value) > most:
            why = f"the files hold {tensors:,} tensors" if most != LARGEST else f"at most {LARGEST:,} can be read"
            raise ModelError(f"{file}: {name} = {value:,} cannot be: {why}. Correct it, or copy the file again")


def _numbers(told: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number by the name of its entry, also of those inside; of a list of counts their sum."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, list) and value and all(_whole(v, -(2**63)) for v in value):
            yield str(name), sum(value) if COUNTS.search(str(name)) else max(value, key=abs)
        elif _whole(value, -(2**4096)):
            yield str(name), value
