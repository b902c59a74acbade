"""Open engines of one model have one copy of its weights; what each of them does to its layers is its own."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from llm_moments.engines.generator import Decoding, Prompt
from llm_moments.engines.sharing import _OPEN
from tests.tiny_lm import engine, naive, some_prompts, tiny_lm

NEW = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module", params=["llama-tied", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm(tmp_path_factory.mktemp("lm") / request.param, request.param)


def _storage(one: object) -> set[int]:
    return {p.data_ptr() for p in one.module.parameters()}  # type: ignore[attr-defined]


def test_weights_are_shared_and_layers_are_not(folder: Path) -> None:
    ids = some_prompts(1, seed=1)[0]
    whole, less = engine(folder, "transformers"), engine(folder, "transformers", skip_layers=[1])
    assert _storage(less) < _storage(whole)
    assert whole.generate([Prompt(tuple(ids))], NEW)[0].ids == naive(folder, ids, 8)
    half = engine(folder, "transformers", precision="bf16")
    assert not _storage(half) & _storage(whole)
    assert whole.generate([Prompt(tuple(ids))], NEW)[0].ids == naive(folder, ids, 8)
    for one in (whole, less):
        one.close()
    del whole, less
    gc.collect()
    assert not any(str(folder) in str(files) for files in _OPEN)  # what is in bf16 does not hold the float weights
    half.close()
