"""Quantised .gguf files: each engine reads the same weights out of them; what cannot be read is said."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.assembly.artefact import save
from llm_moments.base.errors import ModelError
from llm_moments.engines.base import available
from llm_moments.engines.generator import GENERATORS
from llm_moments.evaluate.token_divergence import divergence_of
from llm_moments.models.gguf_header import BLOCKS, read_header
from llm_moments.models.open import open_model
from tests.tiny_lm import engine, quantised, some_prompts, tiny_gguf, tiny_lm

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
KINDS = ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "IQ3_S"]
IDS = some_prompts(1, seed=3, longest=60)[0] + [7, 8, 9]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return tiny_gguf(tiny_lm(folder / "lm", "llama-wide", sharp=3), folder / "whole.gguf")


@pytest.mark.parametrize("kind", KINDS)
def test_engines_read_the_same_weights(whole: Path, tmp_path: Path, kind: str) -> None:
    file = quantised(whole, tmp_path / "made.gguf", kind)
    told = engine(file, "transformers").logprobs(IDS, 1)
    apart = divergence_of(engine(whole, "transformers").logprobs(IDS, 1), told).mean()
    asked = [(name, "as-is") for name in ("llama.cpp", "openvino-genai") if name in available(GENERATORS)]
    for name, precision in asked:  # they round activations, too, which is little beside what the weights have lost
        also = divergence_of(told, engine(file, name, precision=precision).logprobs(IDS, 1)).mean()
        assert also < 2e-3
        assert also < 0.5 * apart


def test_a_type_without_a_reader_is_said(whole: Path, tmp_path: Path) -> None:
    file = quantised(whole, tmp_path / "made.gguf", "Q1_0")
    with pytest.raises(ModelError, match=r"is of type 41\)"):
        open_model(file)
    strange = bytearray(whole.read_bytes())
    at = strange.index(b"output.weight") + len(b"output.weight")  # dimensions, two lengths, the type
    strange[at + 4 + 16 : at + 4 + 16 + 4] = (99).to_bytes(4, "little")
    (tmp_path / "strange.gguf").write_bytes(strange)
    with pytest.raises(ModelError, match=r"output\.weight is of type 99"):
        open_model(tmp_path / "strange.gguf")


def test_a_header_is_read_as_the_package_reads_it(whole: Path, tmp_path: Path) -> None:
    for file in (whole, quantised(whole, tmp_path / "made.gguf", "Q4_K_M")):
        facts, tensors = read_header(file)
        theirs = gguf.GGUFReader(file)
        told = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
        assert list(facts) == list(told)
        assert {n: v for n, v in facts.items() if v is not None} == {n: told[n] for n in facts if facts[n] is not None}
        assert "tokenizer.ggml.tokens" in [name for name, value in facts.items() if value is None]
        for ours, other in zip(tensors, theirs.tensors, strict=True):
            assert (ours.name, ours.shape) == (other.name, tuple(map(int, other.shape)))
            assert (ours.start, ours.end) == (other.data_offset, other.data_offset + other.n_bytes)
    known = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: known[kind] for kind in BLOCKS} == BLOCKS


@pytest.mark.parametrize("seed", range(3))
def test_broken_headers_are_errors_that_name_the_file(whole: Path, tmp_path: Path, seed: int) -> None:
    """Whatever bytes of the header are changed or missing: an error of ours, or a model."""
    rng, file = np.random.default_rng(seed), tmp_path / "broken.gguf"
    good = whole.read_bytes()
    for _ in range(60):
        data = bytearray(good)
        for at in rng.integers(4, 9000, 3):
            data[at] = rng.integers(256)
        file.write_bytes(data if rng.random() < 0.5 else data[: rng.integers(4, len(data))])
        with contextlib.suppress(ModelError):
            open_model(file)


@pytest.mark.parametrize("name", ["llama.cpp", "openvino-genai", "transformers"])
def test_an_artefact_of_a_file_answers_as_it_did(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name not in available(GENERATORS):
        pytest.skip(f"no {name} here")
    file = quantised(whole, tmp_path / "made.gguf", "Q4_K_M")
    precision = "fp32" if name == "transformers" else "as-is"
    plan = {"forward.engine": name, "forward.precision": precision, "decode.max_new_tokens": 8}
    pipe = lm.load(file, plan=plan)
    expected = pipe("a b c").text
    save(pipe, tmp_path / "out", slim=True)
    file.unlink()
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "empty"))  # what was built is in the artefact
    again = lm.load(tmp_path / "out")
    assert again.plan == pipe.plan
    assert again("a b c").text == expected
