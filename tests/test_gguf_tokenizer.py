"""The tokenizer of a .gguf file is built once, kept whole, and the same afterwards."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from llm_moments.models import gguf_tokenizer
from llm_moments.models.open import open_model
from tests.tiny_lm import tiny_gguf, tiny_lm

pytest.importorskip("gguf")
TEXT = "Hello,  World!\n\n naïve 北京 🙂 </s> <s>"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return tiny_gguf(tiny_lm(folder / "lm"), folder / "tiny.gguf")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """How often a tokenizer is built from a file's own vocabulary."""
    from transformers import AutoTokenizer

    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    own = AutoTokenizer.from_pretrained

    def counted(path: Any, *args: Any, **options: Any) -> Any:
        if "gguf_file" in options:
            seen.append(options["gguf_file"])
        return own(path, *args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    return seen


def _read(file: Path) -> Any:
    gc.collect()
    return open_model(file).tokenizer


def test_it_is_built_once_and_the_same(file: Path, built: list[str]) -> None:
    first = _read(file)
    facts = first(TEXT)["input_ids"], first.all_special_ids, first.chat_template, len(first)
    del first
    again = _read(file)
    assert len(built) == 1
    assert (again(TEXT)["input_ids"], again.all_special_ids, again.chat_template, len(again)) == facts
    assert open_model(file).tokenizer is again  # in one process there is one


def test_what_is_kept_and_broken_is_built_anew(file: Path, built: list[str], tmp_path: Path) -> None:
    expected = _read(file)(TEXT)["input_ids"]
    kept = next((tmp_path / "cache" / "tokenizers").iterdir())
    (kept / "tokenizer.json").write_text("{", encoding="utf-8")
    assert _read(file)(TEXT)["input_ids"] == expected
    assert len(built) == 2
    assert _read(file)(TEXT)["input_ids"] == expected
    assert len(built) == 2


def test_without_room_for_it_it_is_built_each_time(file: Path, built: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert _read(file)(TEXT)["input_ids"] == _read(file)(TEXT)["input_ids"]
    assert len(built) == 2


def test_one_that_comes_back_otherwise_is_not_kept(
    file: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_tokenizer, "_same", lambda one, other: False)
    _read(file)
    assert not list((tmp_path / "cache" / "tokenizers").iterdir())
