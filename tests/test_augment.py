"""Changes of training examples: what they keep, what they follow, and that they can be repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, EngineMissing, InputError, OutputExists
from llm_moments.core import Batch, Example
from llm_moments.steps import augment_image as images
from llm_moments.steps import augment_text as texts
from llm_moments.steps.augment import IMAGE, TEXT, checked, drawn, parse
from llm_moments.train import pseudo
from llm_moments.train.augment import Augment, oversampled, priced_texts
from llm_moments.train.distill import distill
from llm_moments.train.losses import loss_for
from llm_moments.train.train import train
from tests.fakes import label_of, make_texts

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


# ---------------------------------------------------------------------------------- texts

TEXTS = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(["good", "Bad,", "(film)", "été"]), max_size=9).map("  ".join)
)


@settings(max_examples=100, deadline=None)
@given(value=st.one_of(TEXTS, st.tuples(TEXTS, TEXTS)), seed=st.integers(0, 99))
def test_texts_keep_some_of_their_words_and_nothing_else(value: Any, seed: int) -> None:
    spec = {"word-dropout": 0.5, "swap": 0.5}
    after = texts.augment(value, drawn(seed, 1, 2), spec)
    assert after == texts.augment(value, drawn(seed, 1, 2), spec)
    pairs = [(value, after)] if isinstance(value, str) else list(zip(value, after, strict=True))
    for before, now in pairs:
        assert not Counter(now.split()) - Counter(before.split())
        assert bool(now.split()) == bool(before.split())


def test_each_change_of_a_text_does_what_it_says() -> None:
    text = "one two  three\nfour"
    assert texts.augment(text, drawn(0), {"swap": 1.0}) == "two three  four\none"
    assert len(texts.augment(text, drawn(0), {"word-dropout": 1.0}).split()) == 1
    long = " ".join(f"w{i}" for i in range(4000))
    kept = texts.augment(long, drawn(0), {"word-dropout": 0.2}).split()
    assert len(kept) == pytest.approx(3200, abs=100)
    assert kept == sorted(kept, key=lambda w: int(w[1:]))
    known = {"good": ("fine",), "film": ("moving picture",)}.get
    made = texts.replaced(["(Good) ", "bad ", "film."], drawn(0), 1.0, lambda word: known(word, ()))
    assert made == ["(Fine) ", "bad ", "moving picture."]


def test_a_missing_word_net_is_said_before_a_run_begins(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    texts.synonyms.cache_clear()
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    try:
        from nltk.corpus import wordnet

        wordnet.synsets("good")
    except ImportError:
        said = "pip install"
    except LookupError:
        said = "nltk.downloader wordnet"
    else:
        assert "well" not in texts.synonyms("good")
        return
    with pytest.raises((EngineMissing, InputError), match=said):
        train(tiny_model, labelled(20), tmp_path / "m", augment={"synonym": 0.1})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("place", ["corpora/wordnet.zip", "corpora/wordnet/index.sense"])
def test_a_damaged_word_net_is_said_and_not_offered(place: str, tmp_path: Path, monkeypatch: Any) -> None:
    nltk = pytest.importorskip("nltk")
    from nltk.corpus.util import LazyCorpusLoader

    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("damaged")
    fresh = LazyCorpusLoader(
        "wordnet", nltk.corpus.WordNetCorpusReader, LazyCorpusLoader("omw-1.4", nltk.corpus.reader.CorpusReader, r".*")
    )
    monkeypatch.setattr(nltk.corpus, "wordnet", fresh)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    texts.synonyms.cache_clear()
    with pytest.raises(InputError, match=r"damaged.*nltk.downloader wordnet"):
        texts.synonyms("good")
    assert "synonym" not in priced_texts(False)
    monkeypatch.setattr(texts, "synonyms", lambda word: ("fine",))
    assert list(priced_texts(True)) == ["word-dropout", "swap", "synonym", "back-translation", "balance"]


# ---------------------------------------------------------------------------------- in the loop


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


def test_oversampling_makes_classes_as_common_and_loses_no_row() -> None:
    classes = np.array([0] * 7 + [2] * 3 + [3])
    order = oversampled(classes, np.random.default_rng(0))
    assert np.bincount(classes[order]).tolist() == [7, 0, 7, 7]
    assert set(order.tolist()) == set(range(11))
    assert set(np.bincount(order)[7:10]) == {2, 3}


@pytest.mark.parametrize(
    "more", [{}, {"balance": True}, {"balance": True, "batch_tokens": 200, "schedule": "one-cycle"}]
)
def test_a_changed_run_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, more: Any) -> None:
    chosen = {
        "epochs": 2,
        "batch_size": 16,
        "checkpoint_every": 3,
        "augment": {"word-dropout": 0.2, "swap": 0.1},
        **more,
    }
    data, judged = labelled(120), labelled(40, seed=9)
    whole = train(tiny_model, data, tmp_path / "whole", evaluate=judged, **chosen)
    assert whole.session is not None
    names = [step.name for step in whole.session.root.children]
    assert names.index("augment") < names.index("tokenize")
    seen = 0

    def end(loop: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, data, tmp_path / "again", evaluate=judged, on_update=end, **chosen)
    again = train(tiny_model, data, tmp_path / "again", evaluate=judged, **chosen)
    assert load(again.folder).model.digest == load(whole.folder).model.digest
    plain = train(tiny_model, data, tmp_path / "plain", evaluate=judged, **{**chosen, "augment": {}})
    assert load(plain.folder).model.digest != load(whole.folder).model.digest
    pipe = load(whole.folder, plan={"truncate.max_length": 64})  # judged on the examples as they are
    right = np.mean([a.label == e.reference for a, e in zip(pipe.run([e.input for e in judged]), judged, strict=True)])
    assert whole.evaluation is not None
    assert whole.evaluation["score"] == pytest.approx(right, abs=1e-6)


def test_the_same_row_is_changed_in_another_way_each_time() -> None:
    change = Augment({"word-dropout": 0.5}, SimpleNamespace(name="text-classification", modality="text"), seed=3)
    batch = Batch(2, {"input": ["a b c d e f g h i j k l"] * 2})
    first, again, later = change(batch, 0, 0), change(batch, 0, 0), change(batch, 1, 0)
    assert first["input"] == again["input"]
    assert len({*first["input"], *later["input"]}) == 4


def test_images_are_changed_and_mixed_in_the_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = [Example(rng.integers(0, 256, (8, 8, 1), dtype=np.uint8), str(i % 2)) for i in range(24)]
    spec = {"flip": 0.5, "crop": 2, "mixup": 0.4, "cutmix": 1.0}
    one, two = (
        train(
            "cnn",
            data,
            tmp_path / name,
            epochs=1,
            batch_size=8,
            augment=spec,
            model_options={"channels": [4, 8], "hidden": 8},
        )
        for name in "ab"
    )
    assert load(one.folder).model.digest == load(two.folder).model.digest
    assert one.session is not None
    step = one.session.root.find("augment")
    assert step.calls == 6  # rows of each of three batches, and their mixture


def test_what_cannot_be_changed_is_refused(tiny_model: Path, trained_model: Path, tmp_path: Path) -> None:
    numbers = [Example(t, i + 0.5) for i, t in enumerate(make_texts(16))]
    for data, wrong in (
        (labelled(20), {"augment": {"flip": 0.5}}), (labelled(20), {"augment": {"swap": 2}}), (numbers, {"balance": True}),
    ):  # fmt: skip
        with pytest.raises(InputError):
            train(tiny_model, data, tmp_path / "m", **wrong)
    with pytest.raises(InputError, match="no augment"):
        distill(trained_model, make_texts(20), tmp_path / "m", augment={"swap": 0.1})


# ---------------------------------------------------------------------------------- pseudo-labels


def test_what_a_first_model_is_sure_of_is_learnt_and_counted(tmp_path: Path) -> None:
    data, judged, more = labelled(200), labelled(80, seed=5), make_texts(200, seed=6)
    more += [e.input.upper() for e in judged[:30]] + [data[0].input]
    settings_ = {"epochs": 4, "learning_rate": 0.1, "model_options": {"ngrams": 1}}
    told = {}
    for threshold in (0.6, 0.999999):
        out = tmp_path / str(threshold)
        done = train("linear", data, out, evaluate=judged, unlabelled=more, pseudo_threshold=threshold, **settings_)
        told[threshold] = done.expansion
        assert not out.with_name(f"{out.name}.training").exists()
        again = train("linear", data, out, evaluate=judged, unlabelled=more, pseudo_threshold=threshold, **settings_)
        assert again.expansion == done.expansion  # it is done: the first model is not trained again
    assert told[0.6]["labelled"] > told[0.999999]["labelled"]
    for one in told.values():
        assert one["unlabelled"] == 231
        assert one["known_already"] >= 31  # none of the evaluation data is learnt from
        assert sum(one["by_class"].values()) == one["labelled"]
    with pytest.raises(OutputExists):
        train("linear", data, tmp_path / "0.6", evaluate=judged, unlabelled=more, pseudo_threshold=0.7, **settings_)


def test_an_ended_run_with_pseudo_labels_goes_on(tmp_path: Path) -> None:
    data, more = labelled(120), make_texts(100, seed=6)
    chosen = {"epochs": 6, "learning_rate": 0.1, "checkpoint_every": 9, "unlabelled": more, "pseudo_threshold": 0.5}
    whole = train("linear", data, tmp_path / "whole", **chosen)
    for ended in (11, 40):  # in the first model, in the second one
        out, seen = tmp_path / f"ended{ended}", 0

        def end(done: Any, message: str, ended: int = ended) -> None:
            nonlocal seen
            seen += "loss" in message
            if seen == ended:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train("linear", data, out, progress=end, **chosen)
        again = train("linear", data, out, **chosen)
        assert again.expansion["labelled"] == whole.expansion["labelled"] > 0
        assert load(again.folder).model.digest == load(whole.folder).model.digest


def test_labels_that_may_be_several_are_sure_when_all_of_them_are() -> None:
    class Fake:
        model = SimpleNamespace(problem_type="multi_label_classification")

        def outputs(self, values: Any) -> Any:
            return values

        task = SimpleNamespace(
            probabilities=lambda outputs: np.array([[0.99, 0.01], [0.99, 0.5]]),
            answers=lambda outputs: [SimpleNamespace(label=["a"]), SimpleNamespace(label=["a", "b"])],
        )

    assert pseudo.sure(Fake(), [0, 1], 0.9) == [["a"], None]  # type: ignore[arg-type]


def test_pseudo_labels_that_cannot_be_are_refused(tmp_path: Path) -> None:
    numbers = [Example(t, i + 0.5) for i, t in enumerate(make_texts(16))]
    for data, more in (
        (labelled(20), {"pseudo_threshold": 0.2}),
        (labelled(20), {"pseudo_threshold": 1.0}),
        (numbers, {}),
    ):
        with pytest.raises(InputError):
            train("linear", data, tmp_path / "m", unlabelled=make_texts(9), **more)
    with pytest.raises(DataError, match="already"):
        train("linear", labelled(20), tmp_path / "m", unlabelled=[e.input for e in labelled(20)])
