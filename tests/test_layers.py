from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError
from llm_moments.core import Example
from llm_moments.engines.torch_eager import load_module
from llm_moments.models.blocks import blocks, layer_count, layer_list, skip
from llm_moments.models.open import open_model
from llm_moments.record.record import record
from tests.fakes import ARCHITECTURES, SMALL, make_model, make_texts

NAMES = ["embeddings", "layer 0", "layer 1", "layer 2", "head"]
# Architectures that are built from their configuration alone, without a tokenizer.
BARE: dict[str, dict[str, Any]] = {
    **ARCHITECTURES,
    "albert": {**SMALL, "embedding_size": 16},
    "xlnet": {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 80},
    "llama": {**SMALL, "num_key_value_heads": 2},
}


def bare(arch: str, **changes: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        arch, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=3, **BARE[arch], **changes
    )
    torch.manual_seed(0)
    module = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return module


def logits(module: Any) -> np.ndarray:
    import torch

    ids = torch.arange(5, 23).reshape(2, 9)
    with torch.no_grad():
        return module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()


@pytest.mark.parametrize("arch", sorted(BARE))
def test_blocks_are_called_in_the_order_of_their_names(arch: str) -> None:
    module, called = bare(arch), []
    found = blocks(module)
    assert [block.name for block in found] == NAMES
    for part in {id(b.module): b.module for b in found}.values():
        part.register_forward_pre_hook(lambda m, args: called.append(m))
    logits(module)
    assert called == [block.module for block in found]


@pytest.mark.parametrize("arch", sorted(BARE))
def test_skipping_a_layer_changes_the_answer(arch: str) -> None:
    module = bare(arch)
    before = logits(module)
    after = logits(skip(module, [1]))
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-4
    assert layer_count(module) == (2 if arch == "albert" else 3)  # elsewhere an identity stands in its place


def test_skip_is_the_model_built_without_that_layer() -> None:
    import torch

    module, naive = bare("bert"), bare("bert")
    naive.bert.encoder.layer = torch.nn.ModuleList([naive.bert.encoder.layer[i] for i in (0, 2)])
    np.testing.assert_allclose(logits(skip(module, [1])), logits(naive), atol=1e-6)


def test_skipping_one_of_the_turns_of_a_shared_layer_is_a_model_with_a_turn_less() -> None:
    fewer = bare("albert")
    fewer.config.num_hidden_layers = 2
    for index in range(3):
        np.testing.assert_allclose(logits(skip(bare("albert"), [index])), logits(fewer), atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "indices"), [("bert", [3]), ("albert", [3]), ("bert", [0, 1, 2]), ("albert", [0, 1, 2])]
)
def test_what_cannot_be_skipped_is_said(arch: str, indices: list[int]) -> None:
    with pytest.raises(EngineError, match="skip"):
        skip(bare(arch), indices)


def test_shared_groups_of_layers_are_refused_when_they_are_several() -> None:
    with pytest.raises(EngineError, match="shares layers"):
        skip(bare("albert", num_hidden_groups=2), [1])


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_layers_have_the_same_names_everywhere(arch: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / arch, arch)
    names = [block.name for block in blocks(load_module(open_model(model)))]
    assert names == NAMES


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_a_skipped_layer_is_a_layer_less(arch: str, tmp_path: Path) -> None:
    """Held against the model with that layer really taken out of its list."""
    pipe, texts = load(make_model(tmp_path / arch, arch)), make_texts(5)
    found = pipe.with_(**{"forward.skip_layers": [2]}).outputs(texts)
    module = pipe.engines.get(pipe.plan.settings("forward")).module  # type: ignore[attr-defined]
    before = pipe.outputs(texts)
    path, layers = layer_list(module)
    del layers[2]
    for owner in module.modules():
        for name in ("num_hidden_layers", "n_layers"):
            if hasattr(owner, "config") and hasattr(owner.config, name):
                setattr(owner.config, name, 2)
    np.testing.assert_allclose(found, pipe.outputs(texts), atol=1e-5)
    assert np.abs(found["logits"] - before["logits"]).max() > 1e-4


@pytest.mark.parametrize("arch", ["bert", "distilbert", "modernbert"])
def test_recorded_layers_add_up(arch: str, tmp_path: Path) -> None:
    data = [Example(t) for t in make_texts(40)]
    session = record(load(make_model(tmp_path / arch, arch)), data, depth=2)
    forward = session.root.find("forward")
    assert [c.name for c in forward.children] == ["embeddings", "layer 0", "layer 1", "layer 2", "head", "other"]
    assert sum(c.wall_s for c in forward.children) == pytest.approx(forward.wall_s, rel=0.05)
    layer = session.root.find("layer 1")
    assert "attention" in [c.name for c in layer.children]
    assert sum(c.wall_s for c in layer.children) <= layer.wall_s
