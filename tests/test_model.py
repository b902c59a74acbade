from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import ModelError
from llm_moments.models.model import Model
from llm_moments.models.open import open_model
from tests.fakes import ARCHITECTURES, OTHERS, make_model

NONE = int(1e30)  # what transformers writes where a tokenizer states no limit


def _model(config: dict[str, Any], tokenizer_limit: Any) -> Model:
    model = Model(Path("nowhere"), config)
    model.__dict__["tokenizer"] = SimpleNamespace(model_max_length=tokenizer_limit)
    return model


@pytest.mark.parametrize(
    ("config", "tokenizer_limit", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, 128, 128),
        ({"model_type": "bert", "max_position_embeddings": 512}, NONE, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, NONE, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, NONE, 513),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, NONE, 512),
        ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 1024}, NONE, 1024),
        ({"model_type": "gpt2", "n_positions": 64}, 1024, 64),
        ({"model_type": "openai-gpt", "n_ctx": 256}, NONE, 256),
        ({"model_type": "mpt", "max_seq_len": 2048}, NONE, 2048),
        ({"model_type": "modernbert", "max_position_embeddings": 8192}, 8192, 8192),
        ({"model_type": "xlnet"}, NONE, 512),
        ({"model_type": "xlnet", "max_position_embeddings": None}, 4096, 4096),
        ({"model_type": "deberta-v2", "max_position_embeddings": -1}, 768, 768),
        ({"model_type": "bert", "max_position_embeddings": 512}, None, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, float("inf"), 512),
        ({"model_type": "other"}, -1, 512),
    ],
)
def test_most_tokens_a_row(config: dict[str, Any], tokenizer_limit: Any, expected: int) -> None:
    assert _model(config, tokenizer_limit).max_length == expected


@pytest.mark.parametrize("arch", sorted({**ARCHITECTURES, **OTHERS}))
def test_a_row_as_long_as_is_allowed_is_answered(arch: str, tmp_path: Path) -> None:
    """With a tokenizer that states no limit, the positions of the weights are the only one."""
    folder = make_model(tmp_path / arch, arch)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": NONE}))
    pipe = load(folder)
    known = {"xlnet": 512, "roberta": 78, "xlm-roberta": 78, "mpnet": 78}
    assert pipe.model.max_length == known.get(arch, 80)
    assert pipe.arrays(["good " * 1000])[0]["input_ids"].shape[1] == pipe.model.max_length
    assert pipe("good " * 1000).label


def test_configs_that_are_odd(tiny_model: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    for name in tiny_model.iterdir():
        (tmp_path / name.name).symlink_to(name)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")
    assert open_model(tmp_path).labels == ["neg", "neutral", "pos"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"a": "b"}}))
    with pytest.raises(ModelError, match="id2label should number"):
        _ = open_model(tmp_path).labels
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "a"}}))
    with pytest.raises(ModelError, match="the classes 0, 2 all 'a'.*name of its own"):
        _ = open_model(tmp_path).labels
    for broken in ("[]", "{", "[" * 200_000):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ModelError, match="config.json"):
            open_model(tmp_path)
