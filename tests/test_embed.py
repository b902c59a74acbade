"""Vectors of sentences, held against sentence-transformers' recipe written out with transformers' own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, InputError, ModelError, RowsTooLong
from llm_moments.engines.base import available
from tests.cli.command import moments
from tests.fakes import make_linear, make_texts
from tests.fakes_text import make_encoder

TEXTS = [*make_texts(9, seed=5), "good"]


def recipe(
    folder: Path, texts: list[str], pooling: str = "mean_tokens", *, normalised: bool = True, most: int = 64
) -> Any:
    """A text alone at a time, so that no padding can matter."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, module = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    made = []
    for text in texts:
        fields = tokenizer(text, return_tensors="pt", truncation=True, max_length=most, padding=False)
        with torch.no_grad():
            hidden = module(**fields).last_hidden_state[0]
        n = len(hidden)
        vector = {
            "mean_tokens": hidden.mean(0), "cls_token": hidden[0], "max_tokens": hidden.max(0).values,
            "lasttoken": hidden[-1], "mean_sqrt_len_tokens": hidden.sum(0) / n**0.5,
            "weightedmean_tokens": (hidden * torch.arange(1, n + 1)[:, None]).sum(0) / (n * (n + 1) / 2),
        }[pooling]  # fmt: skip
        made.append((vector / vector.norm() if normalised else vector).numpy())
    return np.stack(made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "m")


@pytest.mark.parametrize(
    "pooling", ["mean_tokens", "cls_token", "max_tokens", "lasttoken", "mean_sqrt_len_tokens", "weightedmean_tokens"]
)
def test_pooling_is_as_the_folder_says(tmp_path: Path, pooling: str) -> None:
    made = make_encoder(tmp_path / "m", pooling=(pooling,), normalised=False)
    sorted_ = {"batch.order": "length", "batch.size": 4}
    np.testing.assert_allclose(
        lm.embed(made, TEXTS, plan=sorted_), recipe(made, TEXTS, pooling, normalised=False), atol=2e-5
    )


def test_it_is_normalised_and_cut_as_the_folder_says(tmp_path: Path, folder: Path) -> None:
    found = lm.embed(folder, TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, recipe(folder, TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    short = make_encoder(tmp_path / "short", most=12)
    np.testing.assert_allclose(lm.embed(short, TEXTS), recipe(short, TEXTS, most=12), atol=1e-5)


def test_several_poolings_and_a_layer_after_them(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    made = make_encoder(tmp_path / "m", pooling=("cls_token", "mean_tokens"), dense=5)
    both = [recipe(made, TEXTS, one, normalised=False) for one in ("cls_token", "mean_tokens")]
    layer = load_file(made / "2_Dense" / "model.safetensors")
    wanted = torch.tanh(torch.tensor(np.concatenate(both, 1)) @ layer["linear.weight"].T + layer["linear.bias"]).numpy()
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(lm.embed(made, TEXTS), wanted, atol=1e-5)


def test_a_prompt_and_lower_case(tmp_path: Path) -> None:
    told = {"prompts": {"query": "a movie "}, "default_prompt_name": "query"}
    made = make_encoder(tmp_path / "m", config_sentence_transformers=told)
    np.testing.assert_allclose(lm.embed(made, TEXTS), recipe(made, ["a movie " + text for text in TEXTS]), atol=1e-5)
    other = lm.embed(made, TEXTS, plan={"prefix.prompt": "the "})
    np.testing.assert_allclose(other, recipe(made, ["the " + text for text in TEXTS]), atol=1e-5)


def test_without_a_word_of_it_the_mean_is_taken_and_that_is_said(tmp_path: Path) -> None:
    made = make_encoder(tmp_path / "m")
    (made / "modules.json").unlink()
    with pytest.warns(UserWarning, match="their mean is taken"):
        found = lm.embed(made, TEXTS)
    np.testing.assert_allclose(found, recipe(made, TEXTS, normalised=False), atol=1e-5)


@pytest.mark.parametrize("engine", [e for e in available() if e in ("onnxruntime", "openvino")])
def test_graphs_give_the_same(folder: Path, engine: str) -> None:
    found = lm.embed(folder, TEXTS, plan={"forward.engine": engine, "batch.order": "length"})
    np.testing.assert_allclose(found, recipe(folder, TEXTS), atol=1e-4)


def test_of_a_pipeline_that_is_for_something_else(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    classifier = lm.load(tiny_model)
    with pytest.warns(UserWarning, match="their mean is taken"):
        found = lm.embed(classifier, ["good film"])
    fields = AutoTokenizer.from_pretrained(tiny_model)("good film", return_tensors="pt")
    with torch.no_grad():
        wanted = AutoModel.from_pretrained(tiny_model).eval()(**fields).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(found[0], wanted.numpy(), atol=1e-5)
    assert classifier("good film").label  # it is what it was


def test_an_artefact_makes_the_same_vectors(folder: Path, tmp_path: Path) -> None:
    lm.load(folder, task="feature-extraction").save(tmp_path / "a")
    again = lm.load(tmp_path / "a")
    assert again.task.name == "feature-extraction"
    np.testing.assert_allclose(lm.embed(again, TEXTS), recipe(folder, TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", "[{}", "cannot be read"),
        ("modules.json", '{"a": 1}', "list of objects"),
        ("modules.json", '[{"type": "x.Transformer", "path": ""}, {"type": "x.Strange", "path": "1_"}]', "x.Strange"),
        ("modules.json", '[{"type": "x.Transformer", "path": ""}]', "no module Pooling"),
        ("modules.json", '[{"type": "x.Pooling", "path": "../../etc"}]', "outside of the folder"),
        ("1_Pooling/config.json", "{}", "is not known here"),
        ("1_Pooling/config.json", '{"pooling_mode_best": true}', "pooling_mode_best"),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true, "include_prompt": false}', "include_prompt"),
        ("sentence_bert_config.json", '{"max_seq_length": "many"}', "max_seq_length"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "q"}', "default_prompt_name"),
    ],
)
def test_what_a_folder_cannot_say(tmp_path: Path, file: str, content: str, said: str) -> None:
    made = make_encoder(tmp_path / "m")
    (made / file).write_text(content)
    with pytest.raises(ModelError, match=said):
        lm.embed(made, ["x"])


def test_what_cannot_be_embedded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text to make a vector of"):
        lm.embed(folder, [])
    with pytest.raises(DataError, match="a vector is made of one"):
        lm.embed(folder, [("a", "b")])
    with pytest.raises(ModelError, match="an encoder's folder"):
        lm.embed(make_linear(tmp_path / "l"), ["x"])
    with pytest.raises(RowsTooLong):
        lm.embed(folder, ["good " * 100], plan={"truncate.on_overflow": "fail"})


# -- the command


def test_the_command_writes_both_kinds(folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = tmp_path / "rows.csv"
    rows.write_text("id,text\n" + "".join(f"n{at},{text}\n" for at, text in enumerate(TEXTS)))
    wanted = recipe(folder, TEXTS)
    for name in ("v.npy", "v.parquet"):
        said = moments("embed", folder, "--data", rows, "--out", tmp_path / name)
        assert "10 vectors in" in said.stdout
        assert "--overwrite" in moments("embed", folder, "--data", rows, "--out", tmp_path / name, code=2).stderr
    np.testing.assert_allclose(np.load(tmp_path / "v.npy", allow_pickle=False), wanted, atol=1e-5)
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["id"].to_pylist() == [f"n{at}" for at in range(len(TEXTS))]
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), wanted, atol=1e-5)


def test_the_command_on_a_line_and_ugly_input(folder: Path, tmp_path: Path) -> None:
    row = json.loads(moments("embed", folder, TEXTS[0], "--json").stdout)
    np.testing.assert_allclose(row["embedding"], recipe(folder, TEXTS[:1])[0], atol=1e-5)
    assert "32 numbers" in moments("embed", folder, TEXTS[0]).stdout
    assert "note:" in moments("embed", folder, "good " * 100).stderr
    assert "note:" in moments("embed", folder, "good " * 100, "--out", tmp_path / "a.npy").stderr
    assert ".parquet or .npy" in moments("embed", folder, "x", "--out", tmp_path / "a.csv", code=2).stderr
    assert "not both" in moments("embed", folder, "x", "--data", "y", code=2).stderr
    rows = tmp_path / "rows.txt"
    rows.write_text("good\n" + "good " * 100 + "\nbad film\n")
    strict = ("embed", folder, "--data", rows, "--on-overflow", "fail", "--out", tmp_path / "s.npy")
    assert "rows.txt, row 2: an input of" in moments(*strict, code=2).stderr
    assert not (tmp_path / "s.npy").exists()
    assert "1 too long" in moments(*strict, "--on-error", "skip").stderr
    assert np.load(tmp_path / "s.npy", allow_pickle=False).shape == (2, 32)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    moments("embed", folder, "--data", empty, "--out", tmp_path / "e.npy", code=2)
    assert not (tmp_path / "e.npy").exists()
    assert "is empty" in moments("embed", folder, "", "--json", code=2).stderr


@pytest.mark.slow
def test_the_real_encoder_says_what_sentence_transformers_say() -> None:
    place = Path(__file__).parent.parent / ".samples" / "encoder"
    if not place.exists():
        pytest.skip("make samples gets the encoder")
    texts = ["The cat sits outside.", "A man is playing guitar.", "The new movie is awesome. " * 90]
    np.testing.assert_allclose(lm.embed(place, texts), recipe(place, texts, most=256), atol=1e-5)
