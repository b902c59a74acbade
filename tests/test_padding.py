"""An answer does not hang on the rows beside it: whatever side is padded, however positions are counted, whatever token
fills the places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.engines.base import available
from tests.fakes import byte_level, make_model, make_texts, unigram, word_piece

TEXTS = [*make_texts(12, seed=3, longest=14), "good", "the very long film was not bad and not good"]
MORE: dict[str, dict[str, Any]] = {
    "convbert": {"embedding_size": 32}, "fnet": {}, "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 80},
    "bart": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 80,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _more(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import fakes

    small = {k: v for k, v in fakes.SMALL.items() if k != "max_position_embeddings"}
    for arch, own in MORE.items():
        monkeypatch.setitem(
            fakes.OTHERS, arch, own if arch == "bart" else {**small, "max_position_embeddings": 80, **own}
        )


def alone(folder: Path, texts: list[str]) -> np.ndarray:
    """transformers' own logits, one row at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    module = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for text in texts:
            fields = tokenizer(text, truncation=True, return_tensors="pt")
            if type(module).__name__.startswith("FNet"):
                fields.pop("attention_mask", None)
            rows.append(module(**fields).logits[0].numpy())
    return np.stack(rows)


def differ(folder: Path, texts: list[str] = TEXTS, **plan: Any) -> float:
    return float(np.abs(load(folder, plan=plan).outputs(texts) - alone(folder, texts)).max())


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    "arch", ["bert", "roberta", "xlnet", "gpt2", "llama", "qwen2", "mistral", "opt", "bart", "convbert", "fnet"]
)
def test_an_answer_is_the_same_alone_and_beside_others(arch: str, left: bool, tmp_path: Path) -> None:
    kind = {
        "xlnet": lambda: unigram(ends=True, left=left), "roberta": lambda: byte_level(left=left),
        "bart": lambda: byte_level(left=left), "gpt2": lambda: byte_level(left=left, special=False),
        "opt": lambda: byte_level(left=left),
    }.get(arch, lambda: word_piece(left=left))  # fmt: skip
    more = {"eos_token_id": 2} if arch == "bart" else {}
    folder = make_model(tmp_path / "m", arch, tokenizer=kind(), **more)
    assert differ(folder) < 1e-4
    assert differ(folder, **{"batch.multiple": 8, "batch.order": "length"}) < 1e-4


@pytest.mark.parametrize(
    ("arch", "engine"), [("gpt2", "onnxruntime"), ("convbert", "onnxruntime"), ("bert", "openvino")]
)
def test_graphs_pad_as_their_model_does(arch: str, engine: str, tmp_path: Path) -> None:
    if engine not in available():
        pytest.skip("not installed")
    kind = byte_level(left=True, special=False) if arch == "gpt2" else word_piece(left=True)
    folder = make_model(tmp_path / "m", arch, tokenizer=kind)
    for _ in range(2):  # the second time from the graph that was kept
        assert differ(folder, **{"forward.engine": engine}) < 5e-3


def _edited(folder: Path, **fields: Any) -> Path:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in {**told, **fields}.items() if v != "absent"}))
    return folder


@pytest.mark.parametrize("pad", [None, "absent", -1, 4])
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_a_padding_token_that_only_the_tokenizer_knows(arch: str, pad: Any, tmp_path: Path) -> None:
    """4: a token that config.json calls so, and the tokenizer does not."""
    folder = _edited(make_model(tmp_path / "m", arch, tokenizer=byte_level(special=False)), pad_token_id=pad)
    assert differ(folder) < 1e-4
    batches = load(folder, plan={"batch.order": "length"}).arrays(TEXTS)
    assert len(batches) == 1


def test_a_text_that_holds_the_padding_token_itself(tmp_path: Path) -> None:
    for pad in (None, 1):
        folder = _edited(make_model(tmp_path / f"m{pad}", "gpt2"), pad_token_id=pad)
        assert differ(folder, ["good film", "a bad <pad> film", "good film <pad>", "so <pad><pad>"]) < 1e-4


@pytest.mark.parametrize("config", [None, 700])
def test_without_a_padding_token_that_the_model_has_rows_go_alone(config: Any, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "gpt2", tokenizer=byte_level(special=False, pad=False))
    assert differ(_edited(folder, pad_token_id=config)) < 1e-4


def test_a_padding_token_beyond_the_vocabulary_is_not_given_to_the_model(tmp_path: Path) -> None:
    tokenizer = byte_level(special=False, pad=False)
    folder = make_model(tmp_path / "m", "llama", tokenizer=tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert differ(_edited(folder, pad_token_id=None)) < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "texts", [["good " * 90 + "bad " * 30, "bad"], [("good " * 50 + "bad", "the film " * 30), ("a", "b")]]
)
def test_what_the_tokenizer_keeps_of_long_inputs_is_kept(texts: Any, side: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", tokenizer=word_piece(24))
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"truncation_side": side}))
    pipe = load(folder)
    assert pipe.plan["truncate"]["side"] == {"left": "tail", "right": "head"}[side]
    for plan in (pipe, pipe.with_(**{"precut.chars_per_token": 6}), pipe.with_(**{"truncate.side": None})):
        rows = [row for fields in plan.arrays(texts) for row in fields["input_ids"]]
        for text, row in zip(texts, rows, strict=True):
            both = (text,) if isinstance(text, str) else text
            expected = pipe.model.tokenizer(*both, truncation=True)["input_ids"]
            assert list(row)[: len(expected)] == expected
