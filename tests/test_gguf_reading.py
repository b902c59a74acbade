"""A .gguf file is read quickly, and as transformers reads it; its weights in float are kept, and only as they were."""

from __future__ import annotations

import gc
import json
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.base import cache
from llm_moments.engines import dequantised, generating
from llm_moments.models.gguf_reading import read_quickly
from llm_moments.models.open import open_model
from tests.tiny_lm import engine, some_prompts, tiny_gguf, tiny_lm

gguf = pytest.importorskip("gguf")
IDS = some_prompts(1, seed=3, longest=60)[0] + [7, 8, 9]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return tiny_gguf(tiny_lm(folder / "lm"), folder / "tiny.gguf")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """How often weights are taken out of the file, with an empty cache folder."""
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    own = dequantised._from_file
    monkeypatch.setattr(dequantised, "_from_file", lambda model, auto: seen.append(model.name) or own(model, auto))
    return seen


def _odd(made: Path) -> Path:
    """A file with every kind of fact."""
    writer = gguf.GGUFWriter(made, "llama")
    writer.add_array("texts", ["", "a", "naïve 北京 🙂", "x" * 1000])
    writer.add_array("halves", [0.5, -1.25])
    writer.add_array("numbers", list(range(-3, 300)))
    writer.add_array("flags", [True, False])
    writer.add_bool("flag", True)
    writer.add_string("text", "é")
    writer.add_float64("double", 0.1)
    writer.add_array("nested", [[1, 2], [3, 4]])
    writer.add_tensor("one", np.arange(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def test_each_fact_and_tensor_is_read_as_the_package_reads_it(file: Path, tmp_path: Path) -> None:
    for one in (file, _odd(tmp_path / "odd.gguf")):
        theirs = gguf.GGUFReader(one)
        with read_quickly():
            ours = gguf.GGUFReader(one)
        assert type(ours) is not type(theirs)
        assert list(ours.fields) == list(theirs.fields)
        for name, field in theirs.fields.items():
            mine = ours.fields[name]
            assert (mine.offset, mine.data, mine.types) == (field.offset, field.data, field.types)
            assert [(p.dtype, p.tobytes()) for p in mine.parts] == [(p.dtype, p.tobytes()) for p in field.parts]
            assert mine.contents() == field.contents()
        assert [(t.name, t.n_bytes, t.data.tobytes()) for t in ours.tensors] == [
            (t.name, t.n_bytes, t.data.tobytes()) for t in theirs.tensors
        ]


def test_a_cut_list_is_refused_and_the_package_put_back(file: Path, tmp_path: Path) -> None:
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: whole.index(b"tokenizer.ggml.tokens") + 200])
    with pytest.raises((ValueError, IndexError, struct.error)), read_quickly():
        gguf.GGUFReader(tmp_path / "cut.gguf")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_threads_take_turns(file: Path) -> None:
    before, failed = gguf.GGUFReader, []

    def reads() -> None:
        with read_quickly():
            if gguf.GGUFReader is before:
                failed.append(1)

    threads = [threading.Thread(target=reads) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert gguf.GGUFReader is before


def _module(file: Path) -> Any:
    gc.collect()
    return generating.load_generating(open_model(file))


def test_weights_are_taken_out_of_the_file_once(file: Path, read: list[str]) -> None:
    first = {name: value.clone() for name, value in _module(file).state_dict().items()}
    again = _module(file).state_dict()
    assert len(read) == 1
    assert first.keys() == again.keys()
    assert all(first[name].equal(again[name]) for name in first)


def test_kept_weights_answer_as_transformers_reads_the_file(file: Path, read: list[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = torch.log_softmax(theirs(torch.tensor([IDS])).logits[0, :-1], -1).numpy()
    _module(file)
    told = engine(file, "transformers").logprobs(IDS, 1)
    assert len(read) == 1  # the second came from what is kept
    np.testing.assert_array_equal(told, expected)


def _kept(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").glob("*/dequantised-*")
    return found


@pytest.mark.parametrize("how", ["flip", "cut", "config", "gone"])
def test_what_is_kept_and_changed_since_never_answers(file: Path, read: list[str], tmp_path: Path, how: str) -> None:
    expected = {name: value.clone() for name, value in _module(file).state_dict().items()}
    weights = _kept(tmp_path) / "model.safetensors"
    if how == "flip":
        changed = bytearray(weights.read_bytes())
        changed[-5] ^= 64
        weights.write_bytes(changed)
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "config":
        config = _kept(tmp_path) / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.9}))
    else:
        weights.unlink()
    again = _module(file).state_dict()
    assert len(read) == 2
    assert all(expected[name].equal(again[name]) for name in expected)
    _module(file)
    assert len(read) == 2  # it was kept anew


def test_another_file_of_that_name_is_not_answered_by_what_is_kept(read: list[str], tmp_path: Path) -> None:
    one, two = (tiny_gguf(tiny_lm(tmp_path / str(n), seed=n), tmp_path / f"{n}.gguf") for n in (1, 2))
    same = tmp_path / "there" / "model.gguf"
    same.parent.mkdir()
    found = []
    for file in (one, two):
        same.write_bytes(file.read_bytes())
        found.append(_module(same).state_dict()["model.embed_tokens.weight"].clone())
    assert len(read) == 2
    assert not found[0].equal(found[1])


def test_without_room_nothing_is_kept(file: Path, read: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(dequantised, "MOST", 1000)
    _module(file)
    _module(file)
    assert len(read) == 2
    assert not list((tmp_path / "cache").glob("*/dequantised-*"))


def test_where_nothing_can_be_written_it_is_loaded_all_the_same(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "file" / "cache"))
    assert _module(file) is not None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path))
    for at, name in enumerate(["a/dequantised-1", "b/openvino-genai-float", "c/dequantised-1", "d/other"]):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (at, at))
    cache.used(tmp_path / "a/dequantised-1", dequantised.KEPT, most=250)
    assert sorted(p.parent.name for p in tmp_path.glob("*/*")) == ["a", "c", "d"]
    cache.used(tmp_path / "a/dequantised-1", dequantised.KEPT, most=10)
    assert sorted(p.parent.name for p in tmp_path.glob("*/*")) == ["a", "d"]  # what is used now stays
