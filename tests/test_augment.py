"""Changes of training examples: what they keep, what they follow, and that they can be repeated."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_moments.errors import InputError
from llm_moments.steps import augment_image as images
from llm_moments.steps.augment import IMAGE, TEXT, checked, drawn, parse
from llm_moments.train.losses import loss_for

SINGLE = "single_label_classification"


def test_a_specification_is_read_and_what_is_wrong_in_it_is_named() -> None:
    assert parse("word-dropout=0.1, swap", TEXT) == {"word-dropout": 0.1, "swap": TEXT["swap"].usual}
    assert parse("", TEXT) == {}
    assert checked({"flip": 0.0, "crop": 2}, IMAGE) == {"crop": 2.0}
    for wrong, said in (
        ("wordd-ropout=0.1", "did you mean 'word-dropout'"), ("swap=2", "from 0 to 1"), ("swap=x", "a number"),
        ("swap=nan", "from 0 to 1"), ("flip=0.5", "known here are"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            parse(wrong, TEXT)


# ---------------------------------------------------------------------------------- images


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 5), height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_images_keep_type_shape_and_range(
    kind: type, channels: int, n: int, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    made = rng.random((n, height, width, channels))
    given_ = (made * 255).astype(kind) if kind is np.uint8 else made.astype(kind)
    before = given_.copy()
    spec = {"flip": 0.5, "crop": 3, "colour": 0.5, "mixup": 0.4, "cutmix": 1.0}
    targets = images.one_hot(rng.integers(0, 4, n), 4)
    after = images.augment(given_, drawn(seed, 0, 0), spec)
    mixed, soft = images.mix(after, targets, drawn(seed, 0, 1), spec)
    for found in (after, mixed):
        assert found.dtype == kind
        assert found.shape == given_.shape
        assert found.min() >= 0
        assert found.max() <= (255 if kind is np.uint8 else 1)
    assert soft.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(given_, before)
    assert np.array_equal(images.augment(given_, drawn(seed, 0, 0), spec), after)


def test_each_change_of_an_image_does_what_it_says() -> None:
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (64, 6, 5, 3), dtype=np.uint8)
    assert np.array_equal(images.flip(some, rng, 1.0), some[:, :, ::-1])
    assert np.array_equal(images.flip(some, rng, 0.0), some)
    cut = images.crop(some, rng, 2)
    padded = np.pad(some, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for before, after in zip(padded, cut, strict=True):  # the slow way: it is one of all the places
        assert any(np.array_equal(before[y : y + 6, x : x + 5], after) for y in range(5) for x in range(5))
    brighter = images.colour(np.full((200, 2, 2, 3), 100, np.uint8), rng, 0.3)
    assert 69 <= brighter.min() < 75
    assert 125 < brighter.max() <= 131
    several = images.augment([some[0], some[1][:3]], rng, {"flip": 1.0})
    assert [x.shape for x in several] == [(6, 5, 3), (3, 5, 3)]


def test_mixtures_are_of_two_images_by_the_share_of_their_targets() -> None:
    black_and_white = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))]).astype(np.float32)
    targets = images.one_hot([0, 1], 2)
    for way in (images.mixup, images.cutmix):
        for seed in range(20):
            mixed, soft = way(black_and_white, targets, np.random.default_rng(seed), 1.0)
            assert mixed.mean(axis=(1, 2, 3)) == pytest.approx(soft[:, 1], abs=1e-5)  # how white, how much of class 1


def test_soft_targets_are_learnt_as_hard_ones_are() -> None:
    torch.manual_seed(0)
    outputs = SimpleNamespace(logits=torch.randn(6, 3))
    hard = torch.tensor([0, 2, 1, 1, 0, 2])
    soft = torch.nn.functional.one_hot(hard, 3).float()
    for name, more in (
        ("cross-entropy", {}), ("cross-entropy", {"label_smoothing": 0.2}),
        ("cross-entropy", {"class_weights": torch.tensor([0.5, 2.0, 1.0])}), ("binary-cross-entropy", {}),
        ("mean-squared-error", {}),
    ):  # fmt: skip
        loss = loss_for(SINGLE, name, **more)
        assert float(loss(outputs, soft, {})) == pytest.approx(float(loss(outputs, hard, {})), rel=1e-5), name
    half = 0.5 * soft + 0.5 * soft[[1, 0, 3, 2, 5, 4]]
    both = 0.5 * loss_for(SINGLE)(outputs, hard, {}) + 0.5 * loss_for(SINGLE)(outputs, hard[[1, 0, 3, 2, 5, 4]], {})
    assert float(loss_for(SINGLE)(outputs, half, {})) == pytest.approx(float(both), rel=1e-5)
