from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_moments.core import Example
from llm_moments.engines.layers import blocks, layer_list
from llm_moments.engines.torch_eager import load_module
from llm_moments.model import load, open_model
from llm_moments.record.record import record
from tests.fakes import ARCHITECTURES, make_model, make_texts


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_layers_have_the_same_names_everywhere(arch: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / arch, arch)
    names = [block.name for block in blocks(load_module(open_model(model)))]
    assert names == ["embeddings", "layer 0", "layer 1", "layer 2", "head"]


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
    assert np.abs(found - before).max() > 1e-4


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
