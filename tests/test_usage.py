"""The bill of an answer: tokens are held against what transformers' own tokenizer and `generate` give for the same input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.base.errors import InputError, PlanError, RowsTooLong
from llm_moments.core import outputs_file
from llm_moments.core.usage import usages
from llm_moments.record.stream import Conversation
from tests.cli.command import moments
from tests.fake_server import serving
from tests.fakes import make_texts
from tests.fakes_seq import make_marian, toy_pairs
from tests.fakes_text import make_causal

LONG = "the password is SWORDFISH and " + "a movie was very good " * 60
DIALOGUE = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "one two"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "the movie was good"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_causal(tmp_path_factory.mktemp("causal") / "llama")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return lm.load(folder, plan={"decode.max_new_tokens": 6})


def templated(pipe: Any, turns: Any) -> int:
    """Tokens that transformers makes of a dialogue."""
    told = pipe.model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return len(pipe.model.tokenizer(told, add_special_tokens=False)["input_ids"])


def test_tokens_of_a_prompt_are_transformers_own(pipe: Any) -> None:
    bill = pipe(DIALOGUE).usage
    assert bill.prompt_tokens == templated(pipe, DIALOGUE)
    assert bill.cut_tokens == 0
    told = {name: len(pipe.model.tokenizer(text)["input_ids"]) for name, text in (("system", "be kind"), ("user", "the movie was good"))}  # fmt: skip
    assert (bill.system_tokens, bill.user_tokens) == (told["system"], told["user"])
    parts = (bill.template_tokens, bill.system_tokens, bill.history_tokens, bill.user_tokens)
    assert sum(parts) == bill.prompt_tokens
    assert min(parts) > 0


def test_answers_are_counted_as_generate_makes_them(pipe: Any) -> None:
    import torch

    engine = pipe.engines.get(pipe.plan.settings("forward"))
    for text in make_texts(4, seed=3):
        shown = pipe.model.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        ids = pipe.model.tokenizer(shown, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = engine.module.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
        ended = made[-1] in engine.ends()
        bill = pipe(text).usage
        assert bill.completion_tokens == len(made) - ended
        assert bill.finish_reason == ("stop" if ended else "length")


def test_a_stop_string_is_named(pipe: Any) -> None:
    text = pipe("good morning").text
    bill = pipe.with_(**{"decode.stop": ["never", text[1:3]]})("good morning").usage
    assert (bill.finish_reason, bill.stop_string) == ("stop", text[1:3])
    assert pipe("good morning").usage.stop_string is None


def test_seconds_are_those_of_the_engine(pipe: Any, folder: Path) -> None:
    fresh = lm.load(folder, plan={"decode.max_new_tokens": 6})
    first, second = (fresh("good morning").usage for _ in range(2))
    assert first.load_s > second.load_s
    assert second.load_s < 0.01
    assert 0 < second.prefill_s <= second.ttft_s
    assert first.ttft_s >= first.load_s + first.prefill_s
    assert second.tpot_s > 0
    assert fresh("good morning") == pipe("good morning")  # its bill is no part of an answer


def test_what_a_cache_spared_and_what_was_guessed(pipe: Any) -> None:
    reused = pipe.with_(**{"forward.prefix_reuse": True})
    turns = [DIALOGUE[1]]
    reused(turns)
    longer = [*turns, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    bill = reused(longer).usage
    begun = pipe.model.tokenizer.apply_chat_template(turns, tokenize=False)
    assert bill.cached_tokens >= len(pipe.model.tokenizer(begun, add_special_tokens=False)["input_ids"]) - 1
    assert bill.cached_tokens < bill.prompt_tokens
    reused.engines.get(reused.plan.settings("forward")).forget()
    looked = pipe.with_(**{"decode.lookup": 4, "decode.max_new_tokens": 40})
    text = "a b a b a b a b a b a b"
    bill = looked(text).usage
    assert 0 <= bill.draft_accepted <= bill.completion_tokens
    assert pipe(text).usage.draft_accepted is None


# -- what was cut


def test_a_prompt_that_is_cut_says_so(pipe: Any) -> None:
    turns = [{"role": "user", "content": LONG}]
    bill = pipe(turns).usage
    assert bill.prompt_tokens + bill.cut_tokens == templated(pipe, turns)
    assert bill.cut_tokens > 50
    several = [bill.cut_tokens for bill in (a.usage for a in pipe.run(["short", LONG, "short too"]))]
    assert several == [0, bill.cut_tokens, 0]


def test_it_may_not_be_cut(pipe: Any) -> None:
    strict = pipe.with_(**{"context.on_overflow": "fail"})
    assert strict("short").text == pipe("short").text
    with pytest.raises(RowsTooLong, match=r"a prompt of [0-9]+ tokens, and there is room for 250") as told:
        strict(LONG)
    assert told.value.exit_code == 2
    with pytest.raises(RowsTooLong) as told:
        list(strict.run(["a", LONG, LONG]))
    assert sorted(told.value.rows) == [1, 2]
    with pytest.raises(PlanError, match="cut it, or fail"):
        pipe.with_(**{"context.on_overflow": "perhaps"})


def test_the_command_tells_what_was_cut(folder: Path, tmp_path: Path) -> None:
    words = ("run", folder, "--max-new-tokens", 4)
    said = moments(*words, LONG)
    assert "note: the input was longer than the plan takes:" in said.stderr
    assert "note:" not in moments(*words, "short").stderr
    bill = json.loads(moments(*words, LONG, "--json").stdout)["usage"]
    assert bill["cut_tokens"] > 50
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("short", LONG, "more")))
    said = moments(*words, "--data", rows, "--out", tmp_path / "a.jsonl")
    assert "note: 1 of 3 inputs were longer" in said.stderr
    kept = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["usage"]["cut_tokens"] for row in kept] == [0, bill["cut_tokens"], 0]
    moments(*words, "--data", rows, "--out", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "id,text"
    moments(*words, "--data", rows, "--out", tmp_path / "b.csv", "--timings")
    assert "usage.prompt_tokens" in (tmp_path / "b.csv").read_text()


def test_the_command_refuses_what_is_too_long(folder: Path, tmp_path: Path) -> None:
    words = ("run", folder, "--max-new-tokens", 4, "--on-overflow", "fail")
    assert moments(*words, "short").stdout
    assert "error: a prompt of" in moments(*words, LONG, code=2).stderr
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("short", LONG, "more")))
    said = moments(*words, "--data", rows, "--json", code=2)
    assert "row 2: a prompt of" in said.stderr
    assert len(said.stdout.splitlines()) == 1
    said = moments(*words, "--data", rows, "--json", "--on-error", "skip")
    assert [json.loads(line)["id"] for line in said.stdout.splitlines()] == [1, 3]
    assert "skipped rows: 1 too long" in said.stderr
    assert "--on-overflow is cut or fail" in moments("run", folder, "x", "--on-overflow", "no", code=2).stderr


def test_timings_of_one_answer_and_of_a_dialogue(folder: Path) -> None:
    said = moments("run", folder, "good morning", "--max-new-tokens", 4, "--timings").stderr
    assert "prompt " in said
    assert "template" in said
    assert said.startswith("(opened in ")
    assert "first token" in said
    said = moments("chat", folder, "--max-new-tokens", 4, "--timings", stdin=f"hello\n{LONG}\n").stderr
    assert said.count("ended by") == 2
    assert "tokens of your message were cut" in said or "oldest turns were left out" in said


def test_a_conversation_has_the_last_bill(pipe: Any) -> None:
    talk = Conversation(pipe)
    assert talk.usage.prompt_tokens is None
    list(talk.say("hello"))
    assert talk.usage.prompt_tokens == templated(pipe, [{"role": "user", "content": "hello"}])


def test_a_server_counts_for_itself() -> None:
    with serving() as told:
        bill = lm.load(told.address)("a b").usage
        assert (bill.prompt_tokens, bill.completion_tokens, bill.finish_reason) == (7, 5, "stop")
        assert bill.cut_tokens is None
        assert bill.ttft_s > 0
        with pytest.raises(PlanError, match="a server has the context"):
            lm.load(told.address, plan={"context.on_overflow": "fail"})("a b")


# -- other tasks


def test_classifiers_say_what_they_cut(tiny_model: Path) -> None:
    pipe = lm.load(tiny_model)
    tokenizer = pipe.model.tokenizer
    texts = [*make_texts(5), " ".join(["good movie"] * 100)]
    wanted = [max(len(tokenizer(text)["input_ids"]) - pipe.model.max_length, 0) for text in texts]
    assert [answer.cut_tokens for answer in pipe.run(texts)] == wanted
    assert wanted[-1] > 0
    pair = (texts[-1], texts[-1])
    assert pipe(pair).cut_tokens == len(tokenizer(*pair)["input_ids"]) - pipe.model.max_length
    guessed = pipe.with_(**{"precut.chars_per_token": 8})
    assert guessed(texts[-1]).cut_tokens is None  # it was cut before anybody counted
    assert guessed(texts[0]).cut_tokens == 0
    for strict in (pipe, guessed):
        with pytest.raises(RowsTooLong, match="beyond the 64 that are kept"):
            strict.with_(**{"truncate.on_overflow": "fail"})(texts[-1])
    said = moments("run", tiny_model, texts[0], texts[-1], "--json")
    assert [json.loads(line)["cut_tokens"] for line in said.stdout.splitlines()] == [0, wanted[-1]]
    assert "1 of 2 inputs were longer" in said.stderr
    assert "error: " in moments("run", tiny_model, texts[-1], "--on-overflow", "fail", code=2).stderr


def test_translations_say_what_was_cut(tmp_path: Path) -> None:
    pipe = lm.load(make_marian(tmp_path / "marian"), plan={"decode.max_new_tokens": 6})
    text = " ".join(one for one, _ in toy_pairs(12))
    bill = pipe(text).usage
    assert bill.prompt_tokens + bill.cut_tokens == len(pipe.model.tokenizer(text)["input_ids"])
    assert bill.cut_tokens > 0
    with pytest.raises(RowsTooLong, match="a source of"):
        pipe.with_(**{"truncate.on_overflow": "fail"})(text)


def test_images_are_never_too_long(tmp_path: Path) -> None:
    from tests.fakes import make_linear

    pipe = make_linear(tmp_path / "linear")
    assert "leave out --on-overflow" in moments("run", pipe, "x", "--on-overflow", "fail", code=2).stderr


def test_bills_come_from_worker_processes_too_and_are_kept_by_no_study(pipe: Any) -> None:
    outputs = pipe.outputs(["hello", LONG])
    again = outputs_file.parse(*outputs_file.write(outputs, details=True))
    assert usages(again) == usages(outputs)
    assert usages(outputs[[1]]) == usages(outputs)[1:]
    assert outputs_file.parse(*outputs_file.write(outputs)).details == {}


def test_a_stage_of_a_cascade_without_bills_leaves_them_out(tiny_model: Path) -> None:
    plan = {"cascade": {"threshold": 100.0, "cheap": {"truncate.max_length": 8}}}
    pipe = lm.load(tiny_model)
    cascade = pipe.with_(lm.Plan({**pipe.plan.to_dict(), **plan}))
    text = " ".join(["good movie"] * 100)
    assert cascade(text).cut_tokens == pipe(text).cut_tokens  # it came as far as the last stage
    with pytest.raises(InputError):
        cascade.with_(**{"truncate.on_overflow": "maybe"})


def test_choices_and_transcripts_have_bills_too(folder: Path, tmp_path: Path) -> None:
    from tests.fakes_speech import make_whisper, tone

    choices = lm.load(folder, task="multiple-choice")
    rows = [{"prompt": text, "choices": ["good", "bad"]} for text in ("the film was", LONG)]
    assert [bool(answer.cut_tokens) for answer in choices.run(rows)] == [False, True]
    heard = lm.load(make_whisper(tmp_path / "w"), plan={"decode.max_new_tokens": 3})
    bill = heard({"array": tone(1.0), "sampling_rate": 16000}).usage
    assert bill.completion_tokens <= 3
    assert bill.finish_reason == ("length" if bill.completion_tokens == 3 else "stop")
    with pytest.raises(PlanError, match="without log-probabilities"):
        heard.with_(**{"decode.logprobs": 1})({"array": tone(1.0), "sampling_rate": 16000})


def test_what_any_stage_of_a_chain_cuts_is_told(tmp_path: Path, tiny_model: Path) -> None:
    first = lm.load(make_marian(tmp_path / "marian"), plan={"decode.max_new_tokens": 6})
    text = " ".join(one for one, _ in toy_pairs(12))
    both = lm.chain({"there": first, "label": lm.load(tiny_model)})
    assert both(text).cut_tokens == first(text).usage.cut_tokens > 0
    assert both("red dog").cut_tokens == 0
