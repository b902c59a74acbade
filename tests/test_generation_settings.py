"""What a folder says of how answers are made: held against transformers' own `generate`, one row at a time."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, ModelError
from llm_moments.base.notes import Note
from llm_moments.engines.base import available
from llm_moments.engines.generator import GENERATORS, Decoding, Prompt
from llm_moments.engines.sampling import Rules
from llm_moments.models import generation_settings as settings
from tests.cli.command import moments
from tests.fakes_seq import make_bart
from tests.fakes_speech import make_whisper, tone
from tests.fakes_text import make_causal

torch = pytest.importorskip("torch")
TEXTS = ["red house", "the dog runs over seven hills", "cats"]
LITTLE = {"max_new_tokens": 14}


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_causal(tmp_path_factory.mktemp("causal") / "llama")


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bart(tmp_path_factory.mktemp("seq") / "bart")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("speech") / "whisper")


def saying(source: Path, folder: Path, **says: Any) -> Path:
    """The same model with other settings in its generation_config.json."""
    shutil.copytree(source, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **says}))
    return folder


def right(folder: Path) -> list[str]:
    """What `generate` answers with the folder as it is."""
    import transformers

    pairs = bool(json.loads((folder / "config.json").read_text()).get("is_encoder_decoder"))
    auto = transformers.AutoModelForSeq2SeqLM if pairs else transformers.AutoModelForCausalLM
    module, tokenizer = auto.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            made = module.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        made = made if pairs else made[ids.shape[1] :]
        found.append(tokenizer.decode(made, skip_special_tokens=True).strip())
    return found


def answered(folder: Path, **plan: Any) -> list[str]:
    pipe = lm.load(folder, task="text-generation" if "causal" in str(folder) else "translation", plan=plan or None)
    return [answer.text.strip() for answer in pipe.run(TEXTS)]


# -- the table


def test_every_setting_of_transformers_is_in_one_group_with_its_usual_value() -> None:
    from transformers import GenerationConfig

    groups = [settings.PLANNED, settings.RULES, settings.UNKNOWN_HERE, settings.HOW, settings.IDS, settings.SPEECH]
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    theirs = {n for n in vars(GenerationConfig()) if not n.startswith("_")} - {"transformers_version"}
    usual = GenerationConfig._get_default_generation_params()
    assert not (theirs | set(usual)) - set(names)
    del usual["max_length"]  # 20, where nobody says anything; a folder that says 20 means it
    assert {name: settings.USUAL[name] for name in usual} == usual


# -- language models


OF_TEXT: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"max_new_tokens": 5}, "max_length": {"max_length": 34}, "long": {"max_new_tokens": 140},
    "both": {"max_length": 10, "max_new_tokens": 12}, "min_length": {"min_length": 22, "max_new_tokens": 20},
    "min_new_tokens": {"min_new_tokens": 12, **LITTLE}, "ngrams": {"no_repeat_ngram_size": 1, **LITTLE},
    "penalty": {"repetition_penalty": 1.7, **LITTLE}, "forced end": {"forced_eos_token_id": 2, **LITTLE},
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, **LITTLE},
    "decay": {"exponential_decay_length_penalty": [2, 1.8], **LITTLE}, "guided": {"guidance_scale": 1.7, **LITTLE},
    "prompt's ngrams": {"encoder_no_repeat_ngram_size": 1, **LITTLE}, "how": {"use_cache": False, "output_scores": True, **LITTLE},
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_TEXT)
def test_a_language_model_answers_as_generate_does(causal: Path, tmp_path: Path, kind: str) -> None:
    folder = saying(causal, tmp_path / "causal", **OF_TEXT[kind])
    assert answered(folder) == (expected := right(folder))
    assert any(expected)
    assert answered(folder, **{"forward.streams": 3}) == expected


def test_how_it_is_computed_is_the_plans_to_say(causal: Path, tmp_path: Path) -> None:
    plain = saying(causal, tmp_path / "a" / "causal", **LITTLE)
    how = {"cache_implementation": "static", "prompt_lookup_num_tokens": 2, "return_dict_in_generate": True}
    other = saying(causal, tmp_path / "b" / "causal", **LITTLE, **how)
    assert answered(other, **{"forward.streams": 3}) == answered(plain)


def test_tokens_that_are_never_made(causal: Path, tmp_path: Path) -> None:
    plain = saying(causal, tmp_path / "causal", **LITTLE)
    pipe = lm.load(plain, task="text-generation")
    engine, ids = pipe.engines.get(pipe.plan.settings("forward")), pipe.model.tokenizer(TEXTS[1])["input_ids"]
    first = engine.generate([Prompt(tuple(ids))], Decoding(max_new_tokens=1))[0].ids[0]
    for name, value in (
        ("suppress_tokens", [first, 9]), ("begin_suppress_tokens", [first]), ("bad_words_ids", [[7, first], [first]]),
        ("sequence_bias", [[[first], -9.0]]),
    ):  # fmt: skip
        folder = saying(causal, tmp_path / name / "causal", **LITTLE, **{name: value})
        assert answered(folder) == right(folder) != right(plain), name


def test_settings_of_an_old_config_json_are_followed_and_a_newer_file_comes_first(causal: Path, tmp_path: Path) -> None:
    folder = saying(causal, tmp_path / "causal")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_length": 30, "no_repeat_ngram_size": 1}))
    assert "max_length" not in settings.asked_by(lm.load(folder, task="text-generation").model)
    (folder / "generation_config.json").unlink()
    assert answered(folder) == right(folder)


def test_a_prompt_that_leaves_no_room_is_refused(causal: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at most 2 of both together \(max_length"):
        answered(saying(causal, tmp_path / "causal", max_length=2))


def test_rules_are_transformers_own_processors() -> None:
    from transformers import generation as g

    rng, prompt, ends = np.random.default_rng(0), [5, 6, 7, 5, 6], [2, 3]
    asked = {
        "min_length": 8, "no_repeat_ngram_size": 2, "bad_words_ids": [[9], [1, 4]], "suppress_tokens": [10, 11],
        "begin_suppress_tokens": [12], "forced_eos_token_id": 2,
    }  # fmt: skip
    theirs = g.LogitsProcessorList(
        [g.NoRepeatNGramLogitsProcessor(2), g.NoBadWordsLogitsProcessor([[9], [1, 4]], eos_token_id=torch.tensor(ends)),
         g.MinLengthLogitsProcessor(8, torch.tensor(ends)), g.ForcedEOSTokenLogitsProcessor(5 + 6, 2),
         g.SuppressTokensLogitsProcessor([10, 11]), g.SuppressTokensAtBeginLogitsProcessor([12], 5)]
    )  # fmt: skip
    rules = Rules.of(asked, prompt, 6, lambda: ends)
    assert rules is not None
    assert Rules.of({"max_new_tokens": 3}, prompt, 6, lambda: ends) is None
    for token in (7, 1, 4, 5, 6, 2):
        logits = rng.normal(size=16).astype(np.float32)
        expected = theirs(torch.tensor([rules.ids]), torch.tensor(logits[None]))[0].numpy()
        assert (rules(logits) == -np.inf).tolist() == (expected == -np.inf).tolist(), rules.ids
        rules.ids.append(token)


# -- translation


OF_PAIRS: dict[str, dict[str, Any]] = {
    "max_length": {"max_length": 9}, "max_new_tokens": {"max_new_tokens": 7}, "penalty": {"repetition_penalty": 1.5, **LITTLE},
    "ngrams": {"no_repeat_ngram_size": 2, **LITTLE}, "min_length": {"min_length": 12, **LITTLE},
    "min_new_tokens": {"min_new_tokens": 9, **LITTLE}, "forced first": {"forced_bos_token_id": 77, **LITTLE},
    "forced last": {"forced_eos_token_id": 0, **LITTLE}, "beams": {"num_beams": 3, "no_repeat_ngram_size": 2, **LITTLE},
    "never": {"suppress_tokens": list(range(60, 200)), "bad_words_ids": [[210], [220, 230]], **LITTLE},
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_PAIRS)
def test_engines_of_pairs_answer_as_generate_does(bart: Path, tmp_path: Path, kind: str) -> None:
    folder = saying(bart, tmp_path / "bart", **OF_PAIRS[kind])
    expected = right(folder)
    assert any(expected)
    assert answered(folder) == expected
    if "ctranslate2" in available(GENERATORS) and kind != "beams":  # with them it may stop looking at another moment
        if kind == "penalty":
            with pytest.warns(Note, match="does not count the token that answers begin with for repetition_penalty"):
                answered(folder, **{"forward.engine": "ctranslate2"})
        else:
            assert answered(folder, **{"forward.engine": "ctranslate2"}) == expected


def test_what_looks_at_the_source_is_given_it(bart: Path, tmp_path: Path) -> None:
    folder = saying(bart, tmp_path / "bart", encoder_repetition_penalty=3.0, encoder_no_repeat_ngram_size=1, **LITTLE)
    assert answered(folder) == right(folder)


# -- speech


def test_whisper_follows_language_task_and_times(whisper: Path, tmp_path: Path) -> None:
    def plan(**says: Any) -> Any:
        return lm.load(saying(whisper, tmp_path / str(len(list(tmp_path.iterdir()))), **says)).plan

    ids = json.loads((whisper / "generation_config.json").read_text())["lang_to_id"]
    tokens = lm.load(whisper).steps[0].tokens  # type: ignore[attr-defined]
    for said in ("<|de|>", "de", "German"):
        assert plan(language=said).settings("speech") == {"language": "de"}
    assert plan(task="translate", language="de").settings("speech") == {"language": "de", "task": "translate"}
    forced = [[1, ids["<|de|>"]], [2, tokens.id("<|translate|>")], [3, tokens.id("<|notimestamps|>")]]
    assert plan(forced_decoder_ids=forced).settings("speech") == {"language": "de", "task": "translate"}
    assert plan(forced_decoder_ids=[[1, None], *forced[1:]]).settings("speech") == {"task": "translate"}
    assert plan(forced_decoder_ids=forced, language="en").settings("speech") == {"language": "en"}  # as `generate` does
    assert plan(return_timestamps=True).settings("speech") == {"timestamps": True}
    assert plan(max_length=20).get_choice("decode.max_new_tokens") == 16
    assert plan(max_new_tokens=9, num_beams=3).settings("decode") == {"beams": 3, "max_new_tokens": 9}
    told = plan(temperature=[0.0, 0.4], logprob_threshold=-0.7, no_speech_threshold=0.3, compression_ratio_threshold=2)
    assert told.settings("fallback") == {"temperatures": [0.4], "logprob": -0.7, "silence": 0.3, "compression": 2.0}
    with pytest.raises(ModelError, match="asks for the language 'Welsh'"):
        plan(language="Welsh")


@pytest.mark.parametrize("engine", [n for n in ("transformers", "ctranslate2") if n in available(GENERATORS)])
def test_whisper_writes_what_generate_writes(whisper: Path, tmp_path: Path, engine: str) -> None:
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

    task = {"transcribe": 334, "translate": 333}
    tokens = AutoTokenizer.from_pretrained(whisper)
    task = {name: tokens.convert_tokens_to_ids(f"<|{name}|>") for name in task}
    folder = saying(
        whisper, tmp_path / "whisper", language="<|de|>", task="translate", task_to_id=task, max_new_tokens=12,
        no_repeat_ngram_size=3, suppress_tokens=[270, 280, 290],
    )  # fmt: skip
    sounds = [tone(2.0, 300.0 + 90 * n) for n in range(2)]
    module = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    heard = WhisperFeatureExtractor()(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    expected = []
    for one in heard:
        with torch.no_grad():
            expected.append(
                tokens.decode(module.generate(input_features=one[None])[0], skip_special_tokens=True).strip()
            )
    pipe = lm.load(folder, plan={"forward.engine": engine})
    answers = list(pipe.run([{"array": sound, "sampling_rate": 16_000} for sound in sounds]))
    assert [answer.text for answer in answers] == expected
    assert {answer.language for answer in answers} == {"de"}


# -- what is told


TOLD = {
    "drawn": ({"do_sample": True, "temperature": 0.6}, r"drawn \(do_sample = True, temperature = 0\.6\); they are greedy"),
    "several": ({"num_return_sequences": 3, "num_beams": 3}, "num_return_sequences = 3 is not followed here"),
    "groups": ({"num_beam_groups": 2, "num_beams": 2}, "num_beam_groups = 2 is not followed"),
    "contrastive": ({"penalty_alpha": 0.6}, r"penalty_alpha = 0\.6 is not followed"),
    "strange": ({"chat_format": "chatml"}, "does not know and is left alone: chat_format"),
    "stop": ({"stop_strings": "zz"}, "stop_strings = 'zz' ends an answer, and is left out of it"),
    "quantised": ({"cache_implementation": "quantized"}, "cache_implementation = 'quantized' is not followed"),
    "long": ({"max_new_tokens": 9, "max_length": 4096}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOLD)
def test_what_is_not_followed_is_said_once(causal: Path, tmp_path: Path, kind: str) -> None:
    says, said = TOLD[kind]
    folder = saying(causal, tmp_path / "causal", **{**LITTLE, **says})
    for time in (1, 2):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            answered(folder)
        notes = [str(w.message) for w in heard if issubclass(w.category, Note)]
        assert len(notes) == (time == 1 and said is not None)
        if notes and said:
            pytest.raises(ValueError, int, notes[0]).match(said)


def test_a_long_answer_that_is_cut_shorter_is_said(causal: Path, tmp_path: Path) -> None:
    folder = saying(causal, tmp_path / "causal", max_length=4096)
    with pytest.warns(Note, match=r"at most 255 tokens here; its folder asks for max_length = 4096"):
        lm.load(folder, task="text-generation")(TEXTS[0])


@pytest.mark.skipif("ctranslate2" not in available(GENERATORS), reason="needs ctranslate2")
def test_an_engine_says_what_it_does_not_follow(bart: Path, tmp_path: Path) -> None:
    folder = saying(bart, tmp_path / "bart", begin_suppress_tokens=[5], early_stopping="never", min_p=0.1, **LITTLE)
    with pytest.warns(Note, match=r"ctranslate2 does not follow begin_suppress_tokens = \[5\]: answers") as heard:
        answered(folder, **{"forward.engine": "ctranslate2"})
    assert not [w for w in heard if "early_stopping" in str(w.message) or "min_p" in str(w.message)]


def test_notes_are_on_stderr_and_answers_alone_on_stdout(causal: Path, tmp_path: Path) -> None:
    folder = saying(causal, tmp_path / "causal", do_sample=True, top_k=7, **LITTLE)
    done = moments("run", str(folder), "--task", "text-generation", TEXTS[0])
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 15
    assert "note" not in done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("loading ")]  # on a slow machine
    assert said[0].startswith(f"note: {folder} asks for answers that are drawn (do_sample = True, top_k = 7")
    assert lm.load(folder, task="text-generation").plan.get_choice("decode.top_k") == 7


@pytest.mark.parametrize(
    "says", [{"num_beams": "four"}, {"num_beams": 0}, {"max_length": 1.5}, {"bad_words_ids": [3]}, {"suppress_tokens": "x"},
             {"temperature": float("nan")}, {"eos_token_id": [None]}, {"stop_strings": [1]}, {"early_stopping": "soon"}]
)  # fmt: skip
def test_impossible_values_are_refused(causal: Path, tmp_path: Path, says: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=rf"generation_config\.json: {next(iter(says))} = "):
        lm.load(saying(causal, tmp_path / "causal", **says), task="text-generation")


def test_a_broken_file_is_named(causal: Path, tmp_path: Path) -> None:
    folder = saying(causal, tmp_path / "causal")
    for text in ("[1]", "{", "[" * 100_000):
        (folder / "generation_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"generation_config\.json"):
            lm.load(folder, task="text-generation")
