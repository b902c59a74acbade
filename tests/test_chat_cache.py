"""A dialogue keeps what was read of it: answers are those without a cache, and only what is new is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llm_moments as lm
from llm_moments.cli.sparing import sparing
from llm_moments.engines.base import available
from llm_moments.engines.generator import GENERATORS, Decoding, Prompt
from llm_moments.record.stream import Conversation
from tests.fakes_chat import make_chat
from tests.tiny_lm import engine, naive, some_prompts, tiny_lm

ENGINES = [name for name in ("transformers", "openvino-genai") if name in available(GENERATORS)]
REWRITES = (  # as of models that think aloud: of earlier answers only a part is told again
    "{% for m in messages %}<s>{{ m['role'] }}: "
    "{{ m['content'][:3] if m['role'] == 'assistant' else m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
QUESTIONS = ["the movie was very good", "why", "and the other one", "why", "say it again in other words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat") / "tiny", positions=512)


def _talk(folder: Path, name: str, reuse: bool, **plan: Any) -> Conversation:
    told = {"forward.engine": name, "forward.prefix_reuse": reuse, "decode.max_new_tokens": 8, **plan}
    return Conversation(lm.load(folder, plan=told))


def _said(talk: Conversation, play: Callable[[Conversation], Any]) -> list[tuple[str, str]]:
    play(talk)
    return list(talk.turns)


def _ask(talk: Conversation) -> None:
    for question in QUESTIONS:
        "".join(talk.say(question))


def _back_and_forth(talk: Conversation) -> None:
    _ask(talk)
    talk.undo()
    "".join(talk.say("something else"))
    talk.reset()
    "".join(talk.say("why"))
    talk.undo()
    assert not talk.turns
    assert not talk.undo()
    _ask(talk)


def _interrupted(talk: Conversation) -> None:
    for question in QUESTIONS:
        answer = talk.say(question)
        next(answer, None)
        answer.close()  # type: ignore[attr-defined]
        "".join(talk.say(question))
    turns = talk.turns[-1]
    talk.turns[:] = [
        ("user", "a"),
        ("assistant", "b"),
    ]  # what was stopped may have come further in one than in the other
    "".join(talk.say("why"))
    assert turns


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("play", [_ask, _back_and_forth])
def test_answers_are_those_without_a_cache(folder: Path, name: str, play: Any) -> None:
    kept, plain = (_said(_talk(folder, name, reuse), play) for reuse in (True, False))
    assert kept == plain
    assert any(text for role, text in kept if role == "assistant")


@pytest.mark.parametrize("name", ENGINES)
def test_a_full_context_and_a_template_that_rewrites(tmp_path: Path, name: str) -> None:
    small = make_chat(tmp_path / "small", positions=128)
    kept, plain = _talk(small, name, True), _talk(small, name, False)
    assert _said(kept, _ask) == _said(plain, _ask)
    assert kept.dropped == plain.dropped > 0
    wide = make_chat(tmp_path / "wide", positions=512)
    (wide / "chat_template.jinja").write_text(REWRITES)
    assert _said(_talk(wide, name, True), _back_and_forth) == _said(_talk(wide, name, False), _back_and_forth)


@pytest.mark.parametrize("name", ENGINES)
def test_an_answer_that_was_stopped_leaves_no_wrong_cache(folder: Path, name: str) -> None:
    talk, plain = _talk(folder, name, True), _talk(folder, name, False)
    _interrupted(talk)
    plain.turns[:] = [("user", "a"), ("assistant", "b")]
    "".join(plain.say("why"))
    assert talk.turns == plain.turns
    _ask(talk)
    _ask(plain)
    assert talk.turns == plain.turns


@pytest.mark.parametrize("choices", [{"decode.beams": 2}, {"decode.lookup": 3}, {"decode.repetition_penalty": 1.3}])
def test_other_ways_of_decoding(folder: Path, choices: dict[str, Any]) -> None:
    kept, plain = (_said(_talk(folder, "transformers", reuse, **choices), _ask) for reuse in (True, False))
    assert kept == plain


def _prefill(talk: Conversation) -> Any:
    assert talk.session is not None
    return talk.session.root.find("prefill").counts


def test_only_what_is_new_is_read(folder: Path) -> None:
    talk, plain = _talk(folder, "transformers", True), _talk(folder, "transformers", False)
    long = "the movie was very good " * 8
    whole = 0
    for at, question in enumerate([long, "why", "no"]):
        "".join(talk.say(question))
        "".join(plain.say(question))
        told, all_of_it = _prefill(talk), _prefill(plain)["tokens"]
        assert told["tokens"] + told["reused_tokens"] == all_of_it
        if at:
            assert told["reused_tokens"] >= whole  # all that was asked before; the answer is told again in other tokens
            assert told["tokens"] <= all_of_it - whole
        whole = all_of_it
    talk.reset()
    "".join(talk.say("something else"))
    assert _prefill(talk)["reused_tokens"] < 20  # the template's beginning


@pytest.mark.parametrize("kind", ["gpt2", "gemma3", "mamba", "bloom"])
def test_other_architectures_keep_what_can_be_kept(tmp_path: Path, kind: str) -> None:
    made = engine(tiny_lm(tmp_path / kind, kind), "transformers", prefix_reuse=True)
    plain = engine(tmp_path / kind, "transformers")
    first, other = some_prompts(2, seed=5, longest=60)
    asked = [first, [*first, *other], first, first[: len(first) // 2] + other, other, [*other, 7, 8]]
    for ids in asked:
        made_ids, plain_ids = (
            e.generate([Prompt(tuple(ids))], Decoding(max_new_tokens=10))[0].ids for e in (made, plain)
        )
        assert made_ids == plain_ids == naive(tmp_path / kind, ids, 10)


def test_the_command_line_keeps_it_where_the_engine_can(folder: Path) -> None:
    pipe = sparing(lm.load(folder), dialogue=True)
    assert pipe.plan.get_choice("forward.prefix_reuse") is True
    assert (
        sparing(lm.load(folder), ["forward.prefix_reuse"], dialogue=True).plan.get_choice("forward.prefix_reuse")
        is None
    )
    assert sparing(lm.load(folder)).plan.get_choice("forward.prefix_reuse") is None
    served = lm.load("http://127.0.0.1:9/v1#m")
    assert sparing(served, dialogue=True).plan.settings("forward") == served.plan.settings("forward")
