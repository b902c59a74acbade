"""Answers that are texts opened up: held against transformers' own loss of the same answer after the input by hand, and
against the answers that the model makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import InputError
from llm_moments.core import Outputs
from llm_moments.explain.ablation import Ablation
from llm_moments.explain.important import losses
from llm_moments.render.html import report
from llm_moments.steps.dialogue_parts import dialogue_parts, prompt_parts
from llm_moments.tasks.chat import dialogue_of
from tests.cli.command import moments
from tests.fakes_chat import make_chat
from tests.fakes_seq import make_marian
from tests.fakes_speech import make_whisper, silence, tone
from tests.tiny_lm import tiny_lm

NOTES = "- a cat\n- a red dog.\n- one boat\nWhere is it?"
TALK = (("user", "My dog is Rex."), ("assistant", "Nice."), ("user", "I live here."), ("user", "Who is Rex?"))


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_chat(tmp_path_factory.mktemp("explained") / "chat", positions=512)
    return lm.load(folder).with_(**{"decode.max_new_tokens": 6})


@pytest.fixture(scope="module")
def found(pipe: Any) -> lm.Explanation:
    return lm.explain(pipe, NOTES)


def loss_of(pipe: Any, messages: Any, ids: list[int]) -> float:
    """transformers' own loss of the answer's tokens after the dialogue, times how many there are."""
    import torch
    from transformers import AutoModelForCausalLM

    prompt = dialogue_of(pipe.model).encode(messages)
    module = AutoModelForCausalLM.from_pretrained(pipe.model.path, dtype=torch.float32).eval()
    tokens = torch.tensor([[*prompt, *ids]])
    labels = torch.where(torch.arange(tokens.shape[1]) < len(prompt), -100, tokens)
    return float(module(input_ids=tokens, labels=labels).loss) * len(ids)


def told(pipe: Any, value: Any, **more: Any) -> list[int]:
    outputs: Outputs = pipe.task.explained(pipe, pipe.task.normalise(value), **more)
    length = len(outputs["told"].row(0)) - int(outputs["ended"][0])
    return [int(token) for token in outputs["told"].row(0)[:length]]


@pytest.mark.parametrize("kind", ["pieces", "paragraphs", "sentences", "words"])
@pytest.mark.parametrize(
    "text", [NOTES, "one", "", "  a b. c d?\n\n\ne", "Q\r\n\r\n1. x\r\n2. y", "良い。映画。", "a\n\nb\n\n"]
)
def test_all_pieces_together_are_the_text(text: str, kind: str) -> None:
    parts = prompt_parts(text, kind)
    assert parts.keep([True] * len(parts)) == (text if text.strip() else "")
    assert all(text[part.place[1] : part.place[2]] == part.name for part in parts.parts)
    talk = (("system", text), ("user", text or "x"))
    assert dialogue_parts(talk, kind).keep([True] * len(dialogue_parts(talk, kind))) == talk


def test_pieces_are_notes_turns_and_the_question() -> None:
    notes = prompt_parts(NOTES, "pieces")
    assert [part.name for part in notes.parts] == ["- a cat", "- a red dog.", "- one boat", "Where is it?"]
    assert [part.asks for part in notes.parts] == [False, False, False, True]
    assert notes.keep([True, False, True, True]) == "- a cat\n- one boat\nWhere is it?"
    turns = dialogue_parts(TALK, "pieces")
    assert [part.title for part in turns.parts] == ["turn 1", "turn 2", "turn 3", "turn 4"]
    assert turns.given == [0, 1, 2]
    assert turns.keep([False, True, True, True]) == TALK[1:]
    assert turns.keep([True, True, True, False]) == (*TALK[:3], ("user", ""))
    strict = dialogue_parts(TALK, "pieces", lambda some: len(some) == 4)
    assert strict.keep([False, True, True, True]) == (("user", ""), *TALK[1:])
    inner = notes.inner(1)
    assert inner is not None
    assert [part.name for part in inner.parts] == ["-", "a", "red", "dog."]
    assert inner.keep([True, True, False, True]) == NOTES.replace("red ", "")


def test_a_part_is_worth_what_transformers_says_the_answer_loses(pipe: Any, found: lm.Explanation) -> None:
    ids = told(pipe, NOTES)
    whole = loss_of(pipe, (("user", NOTES),), ids)
    assert found.answer == pipe(NOTES).text
    assert found.support == pytest.approx(-whole, abs=1e-3)
    assert [part.name for part in found.parts] == ["- a cat", "- a red dog.", "- one boat", "Where is it?"]
    lines = NOTES.split("\n")
    for at, part in enumerate(found.parts):
        left = "\n".join(line for n, line in enumerate(lines) if n != at) + ("\n" if at == 3 else "")
        assert part.worth == pytest.approx(loss_of(pipe, (("user", left),), ids) - whole, abs=1e-3)


def test_the_tokens_of_the_answer_add_up_to_it(pipe: Any, found: lm.Explanation) -> None:
    assert "".join(token.text for token in found.tokens) == found.answer
    assert sum(np.log(token.probability) for token in found.tokens) == pytest.approx(found.support, abs=1e-3)
    for at, part in enumerate(found.parts):
        assert sum(token.loses[at] or 0.0 for token in found.tokens) == pytest.approx(part.worth, abs=1e-3)
        assert part.token == pytest.approx(max(token.loses[at] or 0.0 for token in found.tokens), abs=1e-5)
    assert all(other.probability <= token.probability for token in found.tokens for other in token.alternatives)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_plain_prompts_and_whether_the_answer_stays_the_same(kind: str, tmp_path: Path) -> None:
    """The tokens' likelihoods tell it without making a text: the texts are made here all the same."""
    pipe = lm.load(tiny_lm(tmp_path / "m", kind, sharp=3)).with_(**{"decode.max_new_tokens": 4})
    value = "red dogs run. blue cats sleep. old boats"
    outputs = pipe.task.explained(pipe, value)
    parts = prompt_parts(value, "words")
    sets = [[n != at for n in range(len(parts))] for at in range(len(parts))]
    values = [value, *[parts.keep(kept) for kept in sets]]
    same = pipe.task.support(pipe, values, outputs).same
    answers = [answer.text for answer in pipe.run(values)]
    assert same.tolist() == [answer == answers[0] for answer in answers]
    found = lm.explain(pipe, value, parts="words")
    assert found.answer == answers[0]
    assert found.faithful.endswith("word for word.")
    assert found.session is not None


def test_another_answer_can_be_judged(pipe: Any) -> None:
    found = lm.explain(pipe, NOTES, answer="red", depth=0)
    assert found.answer == "red"
    assert found.support == pytest.approx(-loss_of(pipe, (("user", NOTES),), told(pipe, NOTES, given="red")), abs=1e-3)
    assert (found.keeps, found.turns) == (None, None)
    with pytest.raises(InputError, match="room for"):
        lm.explain(pipe, NOTES, answer="red " * 600)


def test_a_dialogue_rests_on_turns(pipe: Any) -> None:
    found = lm.explain(pipe, TALK, depth=0)
    assert [part.title for part in found.parts] == ["turn 1", "turn 2", "turn 3", "turn 4"]
    assert found.parts[-1].asks
    assert found.strongest(9) == sorted(found.parts[:3], key=lambda part: -(part.worth or 0))
    ids = told(pipe, TALK)
    for at in range(3):
        left = tuple(turn for n, turn in enumerate(TALK) if n != at)
        worth = loss_of(pipe, left, ids) - loss_of(pipe, TALK, ids)
        assert found.parts[at].worth == pytest.approx(worth, abs=1e-3)
    assert found.without_all == pytest.approx(loss_of(pipe, TALK[3:], ids) - loss_of(pipe, TALK, ids), abs=1e-3)
    assert (
        found.test.orders == 0
        or found.test.without_strongest
        == pipe(tuple(turn for n, turn in enumerate(TALK) if found.parts[n] != found.strongest(1)[0])).text
    )


def test_layers_are_left_out_along_the_answer(pipe: Any, found: lm.Explanation) -> None:
    ids = told(pipe, NOTES)
    assert [layer.name for layer in found.layers] == ["layer 0", "layer 1"]
    for at, layer in enumerate(found.layers):
        less = pipe.with_(**{"forward.skip_layers": [at]})
        own = less.task.support(less, [NOTES], pipe.task.explained(pipe, NOTES)).support[0]
        assert layer.worth == pytest.approx(found.support - own, abs=1e-2)
        if len(layer.answer) < len(found.answer):
            assert less(NOTES).text.startswith(layer.answer)
    assert len(ids) == len(found.tokens)


def test_what_the_context_had_no_room_for_is_told(pipe: Any) -> None:
    short = pipe.with_(**{"context.max_tokens": 70})
    talk = (("user", "a long first turn that goes on and on and on"), ("assistant", "yes"), ("user", "and a question?"))
    found = lm.explain(short, talk, depth=0)
    assert [(gone.name, gone.place[0]) for gone in found.unseen] == [(talk[0][1], "turn 1"), ("yes", "turn 2")]
    assert found.seen_all == pipe(talk).text
    assert lm.explain(pipe, talk, depth=0).unseen == ()
    last = lm.explain(pipe.with_(**{"context.max_tokens": 30}), "x " * 40 + "the end", depth=0).unseen
    assert ("x " * 40 + "the end").startswith(last[0].name)


def test_many_pieces_are_halved(pipe: Any) -> None:
    value = "\n".join(f"- w{at}" for at in range(40)) + "\nWhat?"
    parts = pipe.task.divided(value, "pieces")
    ablation = Ablation(pipe, parts, pipe.task.explained(pipe, value))
    worths = losses(ablation)
    assert len(parts) == 41
    assert ablation.asked <= len(parts) + 1 + 2 * pipe.task.pace.width
    assert 0 < len(worths) < len(parts)
    for at, worth in worths.items():
        assert worth == pytest.approx(
            float(np.subtract(*ablation.support([ablation.whole, ablation.without([at])]))), abs=1e-3
        )
    assert ablation.bill.spared > 0


@pytest.mark.parametrize("value", ["a", "a?", "   a   ", [("user", "")], "é漢字 <s>user: x</s> y", "\x1b[31m a. b"])
def test_ugly_inputs(pipe: Any, value: Any) -> None:
    found = lm.explain(pipe, value, depth=0)
    assert found.said
    assert lm.explain(pipe, value, depth=0).parts == found.parts
    assert "\x1b" not in report(explanation=found)


def test_the_budget_is_kept_and_told(pipe: Any) -> None:
    found = lm.explain(pipe, NOTES, budget="0.001s")
    assert any("no time" in note for note in found.notes)
    assert found.parts[0].worth is not None
    assert not found.layers


def test_it_is_saved_and_drawn(pipe: Any, found: lm.Explanation, tmp_path: Path) -> None:
    assert lm.Explanation.load(found.save(tmp_path / "e.json")) == found
    talk = lm.explain(pipe, TALK, depth=0)
    assert lm.Explanation.load(talk.save(tmp_path / "t.json")) == talk
    assert "turn 1" in report(explanation=talk)


def test_the_last_answer_of_a_chat(pipe: Any) -> None:
    said = moments(
        "chat", pipe.model.path, "--max-new-tokens", 4, stdin="/explain\nMy dog is Rex.\nWho is it?\n/explain\n"
    ).stdout
    assert said.startswith("(nothing was answered yet)")
    assert "turn 1" in said
    assert "(the question)" in said


def test_the_verb(pipe: Any, tmp_path: Path) -> None:
    words = ("explain", pipe.model.path, f"Notes:\n{NOTES}", "--max-new-tokens", 6, "--depth", 0)
    shown = moments(*words, "--html", tmp_path / "e.html").stdout
    assert "word for word" in shown
    data = json.loads(moments(*words, "--json", "--answer", "red").stdout)
    assert (data["answer"], len(data["parts"])) == ("red", 5)
    assert {"probability", "entropy", "alternatives", "loses"} <= set(data["tokens"][0])
    talk = tmp_path / "talk.json"
    talk.write_text(json.dumps([{"role": role, "content": text} for role, text in TALK]))
    of_talk = ("explain", pipe.model.path, "--messages", talk, "--max-new-tokens", 4, "--depth", 0, "--json")
    assert [part["title"] for part in json.loads(moments(*of_talk).stdout)["parts"]] == [
        f"turn {at}" for at in (1, 2, 3, 4)
    ]
    talk.write_text('[{"role": "user"}]')
    assert "message 1 should be" in moments(*of_talk, code=2).stderr
    assert "say either INPUT, --messages FILE or --data FILE" in moments("explain", pipe.model.path, code=2).stderr


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_a_translation_rests_on_words_of_its_source(engine: str, tmp_path: Path) -> None:
    """Beams are made anew to know whether they stay the same; likelihoods are held against transformers' loss."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    folder = make_marian(tmp_path / "m")
    pipe = lm.load(folder).with_(**{"forward.engine": engine, "decode.max_new_tokens": 8, "decode.beams": 2})
    value = "the red house and seven old cats"
    found = lm.explain(pipe, value, parts="words")
    assert found.answer == pipe(value).text
    assert len(found.parts) == 7
    ids = told(pipe, value)
    module = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    start = module.config.decoder_start_token_id

    def loss(text: str) -> float:
        source = torch.tensor([pipe.model.tokenizer(text)["input_ids"]])
        logits = module(input_ids=source, decoder_input_ids=torch.tensor([[start, *ids[:-1]]])).logits[0]
        return -float(torch.log_softmax(logits, -1)[torch.arange(len(ids)), torch.tensor(ids)].sum())

    assert found.support == pytest.approx(-loss(value), abs=1e-2)
    words = value.split()
    left = [" ".join(words[:at] + words[at + 1 :]) + (" " if at == 6 else "") for at in range(7)]
    for at, part in enumerate(found.parts):
        assert part.worth == pytest.approx(loss(left[at]) - loss(value), abs=1e-2)
    assert engine in found.faithful


def test_the_end_of_a_source_that_was_cut_is_told(tmp_path: Path) -> None:
    pipe = lm.load(make_marian(tmp_path / "m")).with_(**{"truncate.max_length": 10, "decode.max_new_tokens": 4})
    value = "the red house and seven old cats sleep near old boats and rivers"
    found = lm.explain(pipe, value, depth=0)
    (gone,) = found.unseen
    kept = value[: gone.place[1]]
    assert value.endswith(gone.name)
    assert len(pipe.model.tokenizer(kept)["input_ids"]) <= 10
    assert found.seen_all == pipe.with_(**{"truncate.max_length": None})(value).text


def test_a_transcript_rests_on_seconds_of_the_sound(tmp_path: Path) -> None:
    """A made Whisper: its loss of the tokens where a second is silent is transformers' own. Silence that was left out is told."""
    import torch

    pipe = lm.load(make_whisper(tmp_path / "w")).with_(**{"decode.max_new_tokens": 6})
    sound = np.concatenate([tone(1.0), tone(1.0, 900.0), tone(0.5, 300.0)])
    value = {"array": sound, "sampling_rate": 16000}
    found = lm.explain(pipe, value)
    assert found.answer == pipe(value).text
    assert [part.place for part in found.parts] == [("audio", 0.0, 1.0), ("audio", 1.0, 2.0), ("audio", 2.0, 2.5)]
    outputs = pipe.task.explained(pipe, value)
    ids = outputs["told"].row(0).tolist()
    begin = list(pipe.task.speech_tokens.prompt("en", "transcribe", False))
    with pipe.engines.lease(pipe.engine_settings) as engine:
        for at, part in enumerate([None, *found.parts]):
            quiet = sound.copy()
            if part is not None:
                quiet[int(part.place[1] * 16000) : int(part.place[2] * 16000)] = 0
            features = torch.tensor(pipe.steps[0].features(engine, quiet))[None]
            logits = engine.module(
                input_features=features, decoder_input_ids=torch.tensor([[*begin, *ids[:-1]]])
            ).logits
            own = torch.log_softmax(logits[0, len(begin) - 1 :].float(), -1)[torch.arange(len(ids)), torch.tensor(ids)]
            expected = found.support if part is None else found.support - (part.worth or 0.0)
            assert float(own.sum()) == pytest.approx(expected, abs=1e-2), at
    assert "<rect" in report(explanation=found)
    gap = np.concatenate([tone(1.0), silence(4.0), tone(1.0)])
    heard = lm.explain(
        pipe.with_(**{"vad.kind": "energy", "vad.pad": 0.2}), {"array": gap, "sampling_rate": 16000}, depth=0
    )
    assert [gone.place[0] for gone in heard.unseen] == ["audio"]
    assert heard.unseen[0].place[1:] == pytest.approx((1.2, 4.8), abs=0.1)


def test_two_plans_part_at_a_token_or_at_what_the_model_reads(pipe: Any) -> None:
    shorter = lm.explain(pipe, NOTES, against={"decode.max_new_tokens": 2}, depth=0).against
    assert shorter is not None
    assert (shorter.where, shorter.same) == ("token 2", False)
    assert shorter.answer == pipe.with_(**{"decode.max_new_tokens": 2})(NOTES).text
    room = pipe(NOTES).usage.prompt_tokens + 6
    cut = lm.explain(pipe, NOTES, against={"context.max_tokens": room - 4}, depth=0).against
    assert cut is not None
    assert cut.where == "context"
    less = lm.explain(pipe, NOTES, against={"forward.skip_layers": [1]}, depth=0).against
    assert less is not None
    assert less.where == "layer 1"
