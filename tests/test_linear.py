"""The linear model of words: its features against scikit-learn's, its folder, its place in every verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import llm_moments as lm
from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, EngineError, InputError, ModelError, OutputExists
from llm_moments.core import Example
from llm_moments.models.vectorizer import Vectorizer, words
from llm_moments.steps.sparse import SparseBatches
from llm_moments.steps.vectorize import Vectorize
from llm_moments.train.linear import begun
from llm_moments.train.train import train
from tests.fakes import label_of, make_texts

ODD = ["", "!!!", "Été à Ünïcode 日本語 x_y don't", "a" * 1000, "\n\t", "½ ² ٣", "good good good\x00bad"]


def labelled(count: int, seed: int = 0) -> list[Example]:
    return [Example(text, label_of(text)) for text in make_texts(count, seed=seed)]


@pytest.fixture(scope="module", params=["tf-idf", "hashed"])
def linear_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("linear") / request.param
    options = {"features": request.param, "vocabulary": 4096, "ngrams": 1}
    return train("linear", labelled(1200, seed=1), out, model_options=options, epochs=10, learning_rate=0.1).folder


# ---------------------------------------------------------------------------------- features


def dense(vectorizer: Vectorizer, values: list[Any], **more: int) -> np.ndarray:
    numbers, weights, counts = vectorizer.rows(values, **more)
    made = np.zeros((len(values), vectorizer.size), np.float32)
    made[np.repeat(np.arange(len(values)), counts), numbers] = weights
    return made


def test_tf_idf_is_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.feature_extraction.text")
    texts = [*make_texts(80, seed=3), *ODD]
    theirs = sklearn.TfidfVectorizer(token_pattern=r"(?u)\w+", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    expected = theirs.fit_transform(texts).toarray()
    mine = Vectorizer.fit(texts)
    assert mine.vocabulary == tuple(theirs.get_feature_names_out())
    np.testing.assert_allclose(dense(mine, texts), expected, atol=1e-6)


def test_the_commonest_features_are_kept_and_hashes_fill_their_range() -> None:
    texts = ["a b", "a c", "a b", "c d"]
    assert Vectorizer.fit(texts, ngrams=1, most=2).vocabulary == ("a", "b")
    assert Vectorizer.fit(["once", "only"]).vocabulary == ("once", "only")  # no word twice: all of them
    hashed = Vectorizer.fit([], "hashed", 1, 1000)
    assert hashed.size == 1024
    seen = {n for i in range(20_000) for n in hashed.features(f"word{i}")}
    assert len(seen) > 1000
    assert max(seen) < 1024
    for kind, ngrams, most in (("bag", 1, 9), ("tf-idf", 0, 9), ("hashed", 1, 0), ("hashed", 1, 1 << 30)):
        with pytest.raises(InputError):
            Vectorizer.fit(texts, kind, ngrams, most)
    with pytest.raises(DataError, match="no text"):
        Vectorizer.fit(["", "!"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6), st.sampled_from(["tf-idf", "hashed"]))
def test_rows_are_of_length_one_and_do_not_depend_on_their_neighbours(texts: list[str], kind: str) -> None:
    made = Vectorizer.fit(["a b c", "a b c", *ODD], kind, 2, 512)
    together = dense(made, texts)
    alone = np.concatenate([dense(made, [text]) for text in texts])
    np.testing.assert_array_equal(together, alone)
    norms = np.sqrt((together.astype(np.float64) ** 2).sum(1))
    assert all(abs(n - 1) < 1e-5 or n == 0 for n in norms)


def test_pairs_and_cuts() -> None:
    assert words(("Good film", "bad")) == ["good", "film", "2/bad"]
    assert words("one two three", 2) == ["one", "two"]
    made = Vectorizer.fit(["a b c d"] * 2)
    np.testing.assert_array_equal(dense(made, ["a b c d"], most_words=2), dense(made, ["a b"]))
    assert (dense(made, ["a b c d"], longest=1) > 0).sum() == 4
    assert (dense(made, ["a b c d"]) > 0).sum() == 7


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 40), st.booleans(), st.booleans())
def test_batches_hold_every_row_once(n: int, size: int, tokens: int, reuse: bool, by_length: bool) -> None:
    from llm_moments.core import NULL, Batch

    texts = make_texts(n, seed=n, longest=6)
    vectorizer = Vectorizer.fit(["good bad film", "good bad film"], "hashed", 1, 64)
    made = SparseBatches({"size": size, "tokens": tokens, "reuse": reuse, "order": "length" if by_length else "input"})
    batch = made(Vectorize({}, vectorizer)(Batch(n, {"input": texts}), NULL), NULL)
    rows = np.concatenate([rows for rows, _ in batch["batches"]])
    same = batch["same_as"]
    assert sorted(rows) == (sorted(set(same.tolist())) if reuse else list(range(n)))
    for taken, arrays in batch["batches"]:
        assert len(taken) <= size
        assert len(taken) == 1 or not tokens or len(arrays["numbers"]) <= tokens
        for row, begin, end in zip(
            taken, arrays["begins"], [*arrays["begins"][1:], len(arrays["numbers"])], strict=True
        ):
            np.testing.assert_array_equal(arrays["numbers"][begin:end], batch["features"][row][0])


# ---------------------------------------------------------------------------------- the model


def test_it_learns_and_loads_as_plain_data(linear_model: Path) -> None:
    texts = make_texts(200, seed=5)
    pipe = load(linear_model)
    assert [step.name for step in pipe.steps] == ["vectorize", "batch", "forward"]
    right = [a.label == label_of(t) for a, t in zip(pipe.run(texts), texts, strict=True)]
    assert sum(right) / len(right) > 0.85
    kept = {p.suffix for p in linear_model.iterdir()}
    assert kept == {".json", ".safetensors"}
    config = json.loads((linear_model / "config.json").read_text())
    assert config["model_type"] == "moments-linear"
    assert "max_length" not in pipe.model.notes


def test_forward_is_the_product_of_features_and_weights(linear_model: Path) -> None:
    texts = [*make_texts(20, seed=7), *ODD]
    pipe = load(linear_model)
    tensors = load_file(linear_model / "model.safetensors")
    expected = dense(pipe.model.vectorizer, texts) @ tensors["weight"] + tensors["bias"]
    np.testing.assert_allclose(pipe.outputs(texts), expected, atol=1e-5)
    np.testing.assert_allclose(
        pipe.with_(**{"batch.order": "length", "batch.reuse": True}).outputs(texts), expected, atol=1e-5
    )


@pytest.mark.parametrize("loss", ["cross-entropy", "binary-cross-entropy", "mean-squared-error"])
def test_any_loss_is_learnt(tmp_path: Path, loss: str) -> None:
    data = labelled(300, seed=1)
    done = train("linear", data, tmp_path / "m", evaluate=data, loss=loss, epochs=15, learning_rate=0.1)
    assert done.evaluation is not None
    assert done.evaluation["score"] > 0.85


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    texts = make_texts(200)
    several = [Example(t, [w for w in ("good", "bad") if w in t.split()]) for t in texts]
    done = train("linear", several, tmp_path / "s", evaluate=several, epochs=20)
    assert done.evaluation is not None
    assert done.evaluation["score"] > 0.8
    numbers = [Example(t, t.split().count("good") / len(t.split()) + 0.001) for t in texts]
    done = train("linear", numbers, tmp_path / "n", evaluate=numbers, epochs=40)
    assert done.evaluation is not None
    assert done.evaluation["score"] > 0.5


def test_a_linear_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data = labelled(150)
    settings = {"epochs": 2, "batch_size": 16, "checkpoint_every": 3}
    whole = train("linear", data, tmp_path / "whole", **settings)
    seen = 0

    def end(loop: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("linear", data, tmp_path / "again", on_update=end, **settings)
    again = train("linear", data, tmp_path / "again", **settings)
    assert load(again.folder).model.digest == load(whole.folder).model.digest
    assert train("linear", data, again.folder, **settings).history == again.history
    with pytest.raises(OutputExists):
        train("linear", data, again.folder, model_options={"ngrams": 1}, **settings)


def test_it_can_be_trained_on_with_its_own_features(linear_model: Path, tmp_path: Path) -> None:
    done = train(linear_model, labelled(100, seed=8), tmp_path / "more", epochs=1, learning_rate=1e-6)
    texts = make_texts(50, seed=9)
    assert [a.label for a in load(done.folder).run(texts)] == [a.label for a in load(linear_model).run(texts)]
    other = [Example(e.input, f"new {e.reference}") for e in labelled(100)]
    assert load(train(linear_model, other, tmp_path / "new", epochs=1).folder).model.labels[0].startswith("new")
    with pytest.raises(InputError, match="has its features already"):
        train(linear_model, labelled(50), tmp_path / "x", model_options={"ngrams": 1})


def test_what_says_nothing_about_a_linear_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for name, value in (("max_length", 64), ("lora", 4), ("freeze", ("layer 0",)), ("dropout", 0.1), ("precision", "bf16"),
                        ("gradient_checkpointing", True)):  # fmt: skip
        with pytest.raises(InputError, match="says nothing about a linear model"):
            train("linear", labelled(20), tmp_path / "m", **{name: value})
    with pytest.raises(InputError, match="what begins fresh"):
        train(tiny_model, labelled(20), tmp_path / "m", model_options={"ngrams": 1})
    _, module, described, _ = begun("linear", ["a b", "a b"], ["x", "y"], "single_label_classification", {})
    assert described.name == "linear"
    assert sum(p.numel() for p in module.parameters()) == 2 * len(described.vectorizer.vocabulary) + 2
    with pytest.raises(InputError, match="unknown model option 'grams'"):
        train("linear", labelled(20), tmp_path / "m", model_options={"grams": 1})


# ---------------------------------------------------------------------------------- every verb


def test_other_engines_and_precisions_say_why_not(linear_model: Path) -> None:
    pipe = load(linear_model)
    for changes, said in (
        ({"forward.engine": "onnxruntime"}, "torch fp32 only"), ({"forward.precision": "bf16"}, "torch fp32 only"),
        ({"forward.skip_layers": [0]}, "no layers"), ({"forward.bf16_layers": ["head"]}, "no layers"),
    ):  # fmt: skip
        with pytest.raises(EngineError, match=said):
            pipe.with_(**changes).outputs(["good"])


def test_record_shows_its_steps(linear_model: Path) -> None:
    session = lm.record(linear_model, make_texts(100))
    assert [s.name for s in session.root.children] == ["read", "vectorize", "batch", "forward", "postprocess"]


def test_an_artefact_of_it_answers_as_it_does(linear_model: Path, tmp_path: Path) -> None:
    pipe = load(linear_model).with_(**{"vectorize.words": 16})
    pipe.save(tmp_path / "artefact")
    texts = make_texts(30)
    np.testing.assert_array_equal(load(tmp_path / "artefact").outputs(texts), pipe.outputs(texts))


def test_a_folder_that_does_not_hold_together_is_refused(linear_model: Path, tmp_path: Path) -> None:
    def broken(name: str, change: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(linear_model, folder)
        change(folder)
        return folder

    def features(**more: Any) -> Any:
        def change(folder: Path) -> None:
            config = json.loads((folder / "config.json").read_text())
            config["features"] = {**config["features"], **more}
            (folder / "config.json").write_text(json.dumps(config))

        return change

    def tensors(change: Any) -> Any:
        def made(folder: Path) -> None:
            found = load_file(folder / "model.safetensors")
            change(found)
            save_file(found, folder / "model.safetensors")

        return made

    cases = {
        "size": features(size=8), "huge": features(size=1 << 40), "kind": features(kind="x"), "ngrams": features(ngrams=99),
        "no weight": tensors(lambda t: t.pop("weight")), "short bias": tensors(lambda t: t.update(bias=np.zeros(1, np.float32))),
        "cut": lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00half"),
    }  # fmt: skip
    for name, change in cases.items():
        with pytest.raises(ModelError):
            load(broken(name, change)).outputs(["good"])
