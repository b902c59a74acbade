"""The mean of a figure over tokens whose texts are what is drawn: against draws of texts with a known mean."""

from __future__ import annotations

import numpy as np
import pytest

from llm_moments.stats import token_mean


def test_the_bounds_hold_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        tokens = rng.integers(20, 60, 12)
        sums = tokens * rng.gamma(4.0, 0.002, 12)  # the mean of a token is 0.008, that of texts varies
        held += token_mean(sums, tokens).high > 0.008
    assert 0.90 < held / 400 < 0.99


def test_texts_of_one_unit_count_once() -> None:
    sums, tokens = np.array([1.0, 3.0, 2.0, 2.5]), np.array([10, 10, 10, 10])
    alone = token_mean(sums, tokens)
    twice = token_mean(np.repeat(sums, 2), np.repeat(tokens, 2), np.repeat(np.arange(4), 2))
    assert (twice.estimate, twice.low, twice.high, twice.n) == pytest.approx((0.2125, alone.low, alone.high, 4))


def test_one_text_has_no_bounds_and_what_is_no_number_is_named() -> None:
    assert token_mean([1.0], [4]).high == np.inf
    with pytest.raises(ValueError, match="text 1 is nan"):
        token_mean([1.0, float("nan")], [4, 4])
    with pytest.raises(ValueError, match="two arrays"):
        token_mean([1.0], [0])
