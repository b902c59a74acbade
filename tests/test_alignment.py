"""The path through tokens and time against transformers' own, and times read from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.engines.alignment import path_of, starts_of, warped
from tests.fakes_speech import make_whisper, tone


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (5, 23), (12, 40)])
def test_the_path_is_that_of_transformers(shape: tuple[int, int]) -> None:
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    cost = np.random.default_rng(0).normal(size=shape)
    tokens, places = _dynamic_time_warping(cost)
    assert warped(cost) == list(zip(tokens.tolist(), places.tolist(), strict=True))


def test_a_diagonal_of_attention_gives_the_times_it_shows() -> None:
    weights = np.full((2, 4, 40), 0.01)
    for token in range(4):
        weights[:, token, token * 10 : token * 10 + 10] = 1.0
    starts = starts_of(path_of(weights), 3, 0.8)
    assert starts == pytest.approx([0.0, 0.2, 0.4, 0.6], abs=0.05)


def test_times_never_fall_and_stay_in_the_sound() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        n, m = rng.integers(1, 8), rng.integers(1, 60)
        starts = starts_of(path_of(rng.random((3, n + 1, m))), n, m * 0.02)
        assert len(starts) == n + 1
        assert (np.diff(starts) >= 0).all()
        assert 0 <= starts[0] <= starts[-1] <= m * 0.02 + 1e-9


def test_words_of_a_transcript_that_fills_every_place_have_times(tmp_path: Path) -> None:
    folder = make_whisper(tmp_path / "ears")
    places = json.loads((folder / "config.json").read_text())["max_target_positions"]
    pipe = lm.load(folder, plan={"decode.max_new_tokens": places - 3, "speech.words": True})
    (answer,) = pipe.run([{"array": tone(1.0), "sampling_rate": 16000}])
    words = [word for segment in answer.segments for word in segment["words"]]
    assert "".join(word["word"] for word in words).strip() == answer.text
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)
