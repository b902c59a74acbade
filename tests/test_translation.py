"""Translation: every family in both engines against a naive decode loop, languages, cuts, metrics, ugly input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, EngineError, PlanError
from llm_moments.record.recorder import Recorder
from llm_moments.steps.source import languages_of
from tests import fakes_seq as fakes

MAKERS = {
    "marian": lambda path: fakes.make_marian(path),
    "hub marian": lambda path: fakes.make_hub_marian(path),
    "m2m100": lambda path: fakes.make_m2m100(path),
    "t5": lambda path: fakes.make_t5(path),
    "nllb": lambda path: fakes.make_nllb(path),
    "mbart": lambda path: fakes.make_mbart(path),
}
PLANS: dict[str, dict[str, Any]] = {
    "m2m100": {"translate.source_lang": "en", "translate.target_lang": "de"},
    "nllb": {"translate.source_lang": "eng_Latn", "translate.target_lang": "deu_Latn"},
    "mbart": {"translate.source_lang": "en_XX", "translate.target_lang": "de_DE"},
}
TEXTS = [source for source, _ in fakes.toy_pairs(10, seed=3)]
SHORT = {"decode.max_new_tokens": 14}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-")) / "model"
    made = load(MAKERS[request.param](folder), task="translation", plan={**PLANS.get(request.param, {}), **SHORT})
    made.engines.cache = folder.parent / "cache"
    return made


def naive(pipe: Any, text: str, most: int) -> list[int]:
    """The likeliest token, one after another, without a cache."""
    import torch

    from llm_moments.engines.generating import load_generating

    if "_naive" not in pipe.model.__dict__:
        pipe.model.__dict__["_naive"] = load_generating(pipe.model)
    module = pipe.model.__dict__["_naive"]
    prompt = prompts(pipe, [text])[0]
    config = module.generation_config
    tokens = list(prompt.decoder or [config.decoder_start_token_id])
    begun = len(tokens)
    banned = [words[0] for words in config.bad_words_ids or []]
    while len(tokens) - begun < most:
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([prompt.ids]), decoder_input_ids=torch.tensor([tokens])).logits[
                0, -1
            ]
        logits[banned] = -float("inf")
        tokens.append(int(logits.argmax()))
        if tokens[-1] == config.eos_token_id:
            return tokens[begun:-1]
    return tokens[begun:]


def prompts(pipe: Any, texts: list[str]) -> list[Any]:
    from llm_moments.core import NULL, Batch

    batch = Batch(len(texts), {"input": texts})
    for step in pipe.steps[:-1]:
        batch = step(batch, NULL)
    return batch["prompts"]


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_greedy_is_the_naive_decode_loop(pipe: Any, engine: str) -> None:
    greedy = pipe.with_(**{"decode.beams": 1, "forward.engine": engine})
    said = greedy.outputs(TEXTS)["text"]
    for text, answer in zip(TEXTS, said, strict=True):
        ids = naive(pipe, text, 14)
        forced = pipe.model.config.get("forced_eos_token_id") or languages_forced(pipe)
        assert answer == languages_of(pipe.model).decode(ids[:13] if forced and len(ids) == 14 else ids)


def languages_forced(pipe: Any) -> bool:
    from llm_moments.models.generation_settings import asked_by

    return "forced_eos_token_id" in asked_by(pipe.model)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_batches_equal_one_by_one(pipe: Any, engine: str, beams: int) -> None:
    one = pipe.with_(**{"decode.beams": beams, "forward.engine": engine})
    many = one.with_(**{"forward.streams": 4, "batch.order": "length"})
    assert list(one.outputs(TEXTS)["text"]) == list(many.outputs(TEXTS)["text"])


def test_batches_on_several_cores_keep_their_order(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_moments.engines.ctranslate2_generate.cores", lambda: 3)
    one = pipe.with_(**{"decode.beams": 1, "forward.engine": "ctranslate2", "forward.streams": 2})
    many = one.with_(**{"forward.threads": 1})
    assert list(one.outputs(TEXTS)["text"]) == list(many.outputs(TEXTS)["text"])
    assert many.engines.get(many.engine_settings).workers == 3


def test_engines_agree_greedily_and_differ_little_with_beams(pipe: Any) -> None:
    two = {"forward.engine": "ctranslate2", "forward.streams": 4}
    greedy = pipe.with_(**{"decode.beams": 1})
    assert list(greedy.outputs(TEXTS)["text"]) == list(greedy.with_(**two).outputs(TEXTS)["text"])
    # Where every beam of a random model runs to the limit, the two stop looking at different moments.
    beams = pipe.with_(**{"decode.beams": 3})
    assert (beams.outputs(TEXTS)["text"] == beams.with_(**two).outputs(TEXTS)["text"]).mean() >= 0.5


def test_a_source_that_is_too_long_loses_its_end_and_is_counted(pipe: Any) -> None:
    text = " ".join(["house dog"] * 60)
    recorder = Recorder()
    short = pipe.with_(**{"truncate.max_length": 12, "decode.beams": 1})
    short.through(_batch([text, "red dog"]), recorder)
    ids = [p.ids for p in prompts(short, [text, "red dog"])]
    whole = prompts(pipe.with_(**{"truncate.max_length": 48}), [text])[0].ids
    assert len(ids[0]) == 12
    assert len(ids[1]) < 12
    assert ids[0][:10] == whole[:10]
    assert ids[0][-1] == whole[-1]  # the end token, or what the tokenizer puts last
    found = next(step for _, step in recorder.tree().walk() if step.name == "truncate")
    assert found.counts["cut_rows"] == 1
    assert found.counts["cut_tokens"] > 0


def _batch(texts: list[str]) -> Any:
    from llm_moments.core import Batch

    return Batch(len(texts), {"input": texts})


def test_control_tokens_in_a_source_stay_text(pipe: Any) -> None:
    special = str(languages_of(pipe.model).tokenizer.eos_token)
    plain, odd = prompts(pipe, ["red dog", f"red {special} dog"])
    assert odd.ids.count(plain.ids[-1]) <= plain.ids.count(plain.ids[-1])


@pytest.mark.parametrize("value", ["", "  \n", 7, None, {"x": "y"}, "half \ud83d"])
def test_bad_sources_are_named(pipe: Any, value: Any) -> None:
    with pytest.raises(DataError, match="translate"):
        pipe([value] if isinstance(value, list) else value)


def test_languages_of_m2m100(tmp_path: Path) -> None:
    pipe = load(fakes.make_m2m100(tmp_path / "m"))
    assert pipe.task.name == "translation"
    with pytest.raises(PlanError, match="target_lang is missing.*100 codes"):
        pipe("red dog")
    with pytest.raises(PlanError, match="unknown language 'germn'.*target_lang"):
        pipe.with_(**{"translate.target_lang": "germn"})("red dog")
    made = pipe.with_(**{"translate.source_lang": "fr", "translate.target_lang": "de", "decode.max_new_tokens": 4})
    tokenizer = pipe.model.tokenizer
    prompt = prompts(made, ["red dog"])[0]
    assert prompt.ids[0] == tokenizer.get_lang_id("fr")
    assert prompt.decoder == (2, tokenizer.get_lang_id("de"))


def test_languages_of_nllb_and_mbart(tmp_path: Path) -> None:
    """As their authors ask: NLLB's answer begins with </s> and its language, mBART's with its language alone."""
    nllb = load(fakes.make_nllb(tmp_path / "n"))
    with pytest.raises(PlanError, match="deu_Latn"):
        nllb.with_(**{"translate.source_lang": "eng_Latn", "translate.target_lang": "deu"})("red dog")
    for pipe, codes in ((nllb, ("eng_Latn", "fra_Latn")), (load(fakes.make_mbart(tmp_path / "b")), ("en_XX", "de_DE"))):
        assert pipe.task.name == "translation"
        made = pipe.with_(**dict(zip(("translate.source_lang", "translate.target_lang"), codes, strict=True)))
        source, target = (pipe.model.tokenizer.convert_tokens_to_ids(code) for code in codes)
        prompt = prompts(made, ["red dog"])[0]
        theirs = pipe.model.tokenizer
        theirs.src_lang = codes[0]
        assert list(prompt.ids) == theirs("red dog")["input_ids"]
        assert source in prompt.ids
        assert prompt.decoder == ((2, target) if pipe is nllb else (target,))


def test_languages_of_a_marian_with_several_targets(tmp_path: Path) -> None:
    pipe = load(fakes.make_hub_marian(tmp_path / "m", codes=("fra", "spa")))
    with pytest.raises(PlanError, match="2 codes, such as fra, spa"):
        pipe("red dog")
    with pytest.raises(PlanError, match="leave translate.source_lang out"):
        pipe.with_(**{"translate.source_lang": "fra", "translate.target_lang": "spa"})("red dog")
    ids = prompts(pipe.with_(**{"translate.target_lang": "spa"}), [">>fra<< red dog"])[0].ids
    vocabulary = pipe.model.tokenizer.get_vocab()
    assert ids[0] == vocabulary[">>spa<<"]
    assert vocabulary[">>fra<<"] not in ids


def test_languages_of_one_pair_and_of_t5(tmp_path: Path) -> None:
    marian = load(fakes.make_marian(tmp_path / "m"))
    with pytest.raises(PlanError, match="translates one pair"):
        marian.with_(**{"translate.target_lang": "de"})("red dog")
    told = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    t5 = load(fakes.make_t5(tmp_path / "t", task_specific_params=told))
    with pytest.raises(PlanError, match="it knows en to de"):
        t5("red dog")
    with pytest.raises(PlanError, match="leave source_lang"):
        t5.with_(**{"translate.prefix": "x", "translate.source_lang": "en"})("red dog")
    asked = [
        t5.with_(**{"translate.source_lang": "en", "translate.target_lang": "de"}),
        t5.with_(**{"translate.prefix": "translate English to German: "}),
    ]
    ids = [prompts(p, ["red dog"])[0].ids for p in asked]
    assert ids[0] == ids[1]
    assert "translate English" in languages_of(t5.model).decode(ids[0])


def test_the_stock_plan_is_the_models_own(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = fakes.make_hub_marian(tmp_path / "m")
    pipe = load(folder)
    assert pipe.plan.get_choice("decode.beams") == 4
    tokenizer, module = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    for text, answer in zip(TEXTS[:4], pipe.run(TEXTS[:4]), strict=True):
        with torch.no_grad():
            row = module.generate(**tokenizer([text], return_tensors="pt"))[0]
        assert answer.text == tokenizer.decode(row, skip_special_tokens=True)


def test_metrics_are_sacrebleus() -> None:
    import sacrebleu

    from llm_moments.tasks.metrics import corpus_scores, text_metric

    said, wanted = ["the red dog runs home", "a cat"], ["the red dogs run home", "a cat sleeps"]
    assert text_metric("chrF")(said[0], wanted[0]) == sacrebleu.sentence_chrf(said[0], [wanted[0]]).score / 100
    assert text_metric("BLEU")(said[0], wanted[0]) == sacrebleu.sentence_bleu(said[0], [wanted[0]]).score / 100
    told = corpus_scores(said, wanted)
    assert told["corpus BLEU"] == sacrebleu.corpus_bleu(said, [wanted]).score / 100
    assert told["corpus chrF"] == sacrebleu.corpus_chrf(said, [wanted]).score / 100
    assert told["identical"] == 0


def test_a_marian_that_ctranslate2_would_change_is_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = fakes.make_marian(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith(("shared.weight", "embed_tokens.weight")))
    weights[name][-1] = torch.ones(weights[name].shape[1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pipe = load(folder, plan={"forward.engine": "ctranslate2"})
    pipe.engines.cache = tmp_path / "cache"
    with pytest.raises(EngineError, match="not zeros"):
        pipe("red dog")


def test_changes_are_possible_plans(pipe: Any) -> None:
    for change in [*pipe.task.changes(pipe.plan), *pipe.task.alternatives(pipe.plan)]:
        assert pipe.with_(**change.choices).plan != pipe.plan, change.name


def test_precisions_of_ctranslate2(tmp_path: Path) -> None:
    pipe = load(fakes.make_marian(tmp_path / "m"), plan={**SHORT, "forward.engine": "ctranslate2"})
    pipe.engines.cache = tmp_path / "cache"
    assert len(pipe.with_(**{"forward.precision": "int8"}).outputs(TEXTS)) == len(TEXTS)
    for precision in ("bf16", "int8-bf16"):
        try:
            answers = pipe.with_(**{"forward.precision": precision}).outputs(TEXTS)
        except EngineError as error:
            assert "on this machine's cpu" in str(error)
        else:
            assert isinstance(answers, np.ndarray)
    with pytest.raises(EngineError, match="no precision"):
        pipe.with_(**{"forward.precision": "int4"})("red dog")
