"""Sequence training over families: packed against one by one, full and LoRA, resumed runs, what packing must refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_moments.assembly.load import load
from llm_moments.base.errors import InputError
from llm_moments.train.token_loss import IGNORED
from llm_moments.train.train import train
from tests import fakes_seq as fakes
from tests.test_sequences import QUICK, _texts, make_causal

CAUSAL = ("llama", "gpt2", "qwen2", "mistral", "qwen3", "gemma")
ROWS = [(source, f" {target}") for source, target in fakes.toy_pairs(7, seed=5, longest=5)]


def prompts(path: Path, rows: list[tuple[str, str]], times: int = 1) -> Path:
    path.write_text("".join(json.dumps({"prompt": a, "reference": b}) + "\n" for a, b in rows * times))
    return path


def one_by_one(folder: Path, rows: list[tuple[str, str]]) -> float:
    """Mean over all answers' tokens of their negative log-likelihood, each row alone, by the module's plain forward."""
    from llm_moments.engines.generating import load_generating
    from llm_moments.models.open import open_model

    texts, _ = _texts(folder, "text-generation")
    module = load_generating(open_model(folder))
    total, count = 0.0, 0
    for asked, answer in rows:
        row = texts.fitted(*texts.encoded(asked, answer))
        with torch.no_grad():
            told = torch.log_softmax(module(input_ids=torch.tensor([row.ids])).logits[0].float(), -1)
        learnt = [(at, label) for at, label in enumerate(row.labels) if label != IGNORED]
        total -= sum(float(told[at, label]) for at, label in learnt)
        count += len(learnt)
    return total / count


@pytest.mark.parametrize("arch", CAUSAL)
@pytest.mark.parametrize("pack", [False, True])
def test_the_first_loss_is_that_of_every_row_alone(arch: str, pack: bool, tmp_path: Path) -> None:
    folder = make_causal(tmp_path / "m", arch)
    data = prompts(tmp_path / "rows.jsonl", ROWS)
    settings = {**QUICK, "epochs": 1, "batch_size": 16, "learning_rate": 1e-4, "pack": pack}
    done = train(folder, data, tmp_path / "out", task="text-generation", **settings)
    assert done.history[0]["loss"] == pytest.approx(one_by_one(folder, ROWS), abs=2e-4)


def test_a_model_that_would_let_packed_rows_see_one_another_is_refused(tmp_path: Path) -> None:
    data = prompts(tmp_path / "rows.jsonl", ROWS)
    for arch in ("bloom", "mamba"):
        folder = make_causal(tmp_path / arch, arch)
        train(folder, data, tmp_path / f"{arch}-plain", task="text-generation", **{**QUICK, "epochs": 1})
        with pytest.raises(InputError, match="leave --pack out"):
            train(
                folder,
                data,
                tmp_path / f"{arch}-packed",
                task="text-generation",
                **{**QUICK, "epochs": 1, "pack": True},
            )


@pytest.mark.parametrize("settings", [{"pack": True}, {"lora": 4}, {"lora": 4, "pack": True}])
def test_an_interrupted_causal_run_goes_on_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = make_causal(tmp_path / "m", "qwen2")
    data = prompts(tmp_path / "rows.jsonl", ROWS, 4)
    chosen = {**QUICK, "epochs": 2, "checkpoint_every": 2, "batch_size": 2, "max_length": 32, **settings}

    class Ended(Exception):
        pass

    def end(loop: Any) -> None:
        if loop.position.updates == 3:
            raise Ended

    train(folder, data, tmp_path / "whole", task="text-generation", **chosen)
    with pytest.raises(Ended):
        train(folder, data, tmp_path / "parts", task="text-generation", on_update=end, **chosen)
    train(folder, data, tmp_path / "parts", task="text-generation", **chosen)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], value) for name, value in load_file(folder / "model.safetensors").items())


FAMILIES: dict[str, tuple[Any, dict[str, str]]] = {
    "t5": (fakes.make_t5, {}),
    "m2m100": (fakes.make_m2m100, {"translate.source_lang": "en", "translate.target_lang": "de"}),
    "nllb": (fakes.make_nllb, {"translate.source_lang": "eng_Latn", "translate.target_lang": "deu_Latn"}),
    "mbart": (fakes.make_mbart, {"translate.source_lang": "en_XX", "translate.target_lang": "de_DE"}),
    "hub marian": (fakes.make_hub_marian, {}),
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("lora", [0, 8])
def test_every_family_of_translators_learns_what_it_is_then_asked(name: str, lora: int, tmp_path: Path) -> None:
    """Teacher forcing and decoding must begin in the same way: what was learnt by heart is said."""
    make, choices = FAMILIES[name]
    folder = make(tmp_path / "begin")
    pairs = fakes.toy_pairs(6, longest=2)
    data, judged = (fakes.write_pairs(tmp_path / f"{n}.csv", pairs * n) for n in (24, 1))
    settings = {**QUICK, "epochs": 6, "batch_size": 6, "learning_rate": 1e-2, "choices": choices, "lora": lora}
    done = train(folder, data, tmp_path / "m", task="translation", evaluate=judged, **settings)
    losses = [entry["loss"] for entry in done.history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    if lora:  # random weights are a poor base: it is enough that it learns
        return
    assert done.evaluation is not None
    assert done.evaluation["score"] > -0.2
    pipe = load(tmp_path / "m", task="translation", plan={"decode.max_new_tokens": 30, "decode.beams": 1, **choices})
    said = [str(text) for text in pipe.outputs([source for source, _ in pairs])["text"]]
    assert sum(map(str.__eq__, said, [target for _, target in pairs])) >= 5


def test_speech_is_not_learnt_and_that_is_said(tmp_path: Path) -> None:
    from tests.fakes_speech import make_whisper

    data = prompts(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(InputError, match="automatic-speech-recognition"):
        train(make_whisper(tmp_path / "whisper"), data, tmp_path / "out", **QUICK)
