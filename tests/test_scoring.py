"""Given texts scored in batches over shared beginnings: held against the plain `logprobs`, and transformers' own loss."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.engines.scoring import Asked, scored
from llm_moments.engines.transformers_scoring import common
from tests.tiny_lm import engine, tiny_lm


def rows(seed: int = 0) -> list[Asked]:
    """A prompt of six pieces, and the same without each of them."""
    rng = np.random.default_rng(seed)
    pieces = [rng.integers(5, 400, int(rng.integers(4, 12))).tolist() for _ in range(6)]
    told = tuple(rng.integers(5, 400, 5).tolist())
    sets = [pieces, *[pieces[:at] + pieces[at + 1 :] for at in range(6)], pieces[:1], pieces]
    return [Asked(tuple(sum(some, [])), told) for some in sets]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("device_rows", [1, 4])
def test_they_are_what_each_prompt_alone_gives(
    kind: str, device_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_moments.engines import transformers_scoring

    monkeypatch.setitem(transformers_scoring.ROWS, "cpu", device_rows)
    monkeypatch.setitem(transformers_scoring.WASTE, "cpu", 1.15 if device_rows == 1 else 9.0)
    opened = engine(tiny_lm(tmp_path / "m", kind, sharp=3), "transformers")
    asked = rows()
    for one, found in zip(asked, opened.scores(asked, detailed=True), strict=True):
        table = opened.logprobs([*one.ids, *one.told], len(one.ids))
        np.testing.assert_allclose(found.logprob, table[np.arange(5), one.told], atol=1e-4)
        np.testing.assert_array_equal(found.likeliest, table.argmax(1) == one.told)
        np.testing.assert_allclose(np.exp(found.detail.best_logprob[:, 0]), np.exp(table.max(1)), atol=1e-4)
        np.testing.assert_allclose(found.detail.entropy, -(np.exp(table) * table).sum(1), atol=1e-3)


def test_what_prompts_begin_with_is_read_once(tmp_path: Path) -> None:
    asked = rows()
    found = engine(tiny_lm(tmp_path / "m"), "transformers").scores(asked)
    in_order = sorted(asked, key=lambda one: (*one.ids, *one.told))
    texts = [[*one.ids, *one.told][:-1] for one in in_order]
    known = [
        0,
        *(min(common(*pair), len(one.ids) - 1) for one, pair in zip(in_order[1:], pairwise(texts), strict=True)),
    ]
    least = sum(len(text) - have for text, have in zip(texts, known, strict=True))
    whole = sum(map(len, texts))
    read = sum(one.read for one in found)
    assert least <= read <= 1.3 * least
    assert read < 0.7 * whole


def test_a_cache_that_cannot_be_cut_is_not_kept(tmp_path: Path) -> None:
    """A window of attention forgets what is cut off: everything is read anew, and is right."""
    import torch
    import transformers

    config = transformers.MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=6,
    )  # fmt: skip
    torch.manual_seed(0)
    module: Any = transformers.AutoModelForCausalLM.from_config(config)
    module.save_pretrained(tmp_path / "m")
    from tests.fakes import byte_level

    byte_level(256, special=False).save_pretrained(tmp_path / "m")
    opened, asked = engine(tmp_path / "m", "transformers"), rows()
    for one, found in zip(asked, opened.scores(asked), strict=True):
        own = opened.logprobs([*one.ids, *one.told], len(one.ids))[np.arange(5), one.told]
        np.testing.assert_allclose(found.logprob, own, atol=1e-4)


def test_it_is_the_loss_that_transformers_gives(tmp_path: Path) -> None:
    import torch

    opened, one = engine(tiny_lm(tmp_path / "m"), "transformers"), rows()[0]
    ids = torch.tensor([[*one.ids, *one.told]])
    labels = torch.where(torch.arange(ids.shape[1]) < len(one.ids), -100, ids)
    loss = opened.module(input_ids=ids, labels=labels).loss
    assert opened.scores([one])[0].logprob.sum() == pytest.approx(-5 * float(loss), abs=1e-3)


def test_a_tie_counts_as_likeliest_and_impossible_tokens_have_no_share() -> None:
    table = np.log(np.array([[0.5, 0.5, 1e-300], [0.2, 0.3, 0.5]]))
    table[0, 2] = -np.inf
    found = scored(table, [1, 0], 7, detailed=True)
    assert found.likeliest is not None
    assert found.likeliest.tolist() == [True, False]
    assert found.detail is not None
    assert found.detail.entropy[0] == pytest.approx(np.log(2))
    assert found.detail.best[1].tolist() == [2, 1, 0]
