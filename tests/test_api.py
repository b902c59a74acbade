"""What a Python session shows and takes: help with real arguments, streams, one input or several."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path

import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, InputError
from tests.fakes_chat import make_chat

VERBS = ["explain", "improve", "record", "train", "weigh"]


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_the_arguments(name: str) -> None:
    package = getattr(lm, name)
    function = getattr(__import__(f"llm_moments.{name}.{name}", fromlist=[name]), name)
    assert inspect.signature(package) == inspect.signature(function)
    shown = pydoc.plain(pydoc.render_doc(package))
    for argument in inspect.signature(function).parameters:
        assert argument in shown
    assert (inspect.getdoc(function) or "?").splitlines()[0] in shown


def test_help_opens_what_stands_for_more_arguments() -> None:
    assert "on_error: 'str' = 'fail'" in lm.record.__doc__
    assert "learning_rate: " in lm.train.__doc__
    assert "**" not in lm.explain.__doc__


@pytest.mark.parametrize("name", [name for name in lm.__all__ if name not in VERBS])
def test_everything_public_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(lm, name))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> lm.Pipeline:
    folder: Path = make_chat(tmp_path_factory.mktemp("chat") / "tiny")
    return lm.load(folder, plan={"decode.max_new_tokens": 8})


def test_pieces_of_a_stream_are_the_answer(chat: lm.Pipeline, tiny_model: Path) -> None:
    stream = chat.stream("hello")
    assert "".join(stream) == stream.text == chat("hello").text
    with pytest.raises(InputError, match="gives its answers whole"):
        lm.load(tiny_model).stream("x")


def test_several_inputs_are_for_run(chat: lm.Pipeline, tiny_model: Path) -> None:
    for pipe in (chat, lm.load(tiny_model)):
        for several in (["a", "b"], ["a", "b", "c"], ["a"]):
            with pytest.raises(InputError, match=r"list\(pipe\.run\(inputs\)\)"):
                pipe(several)
            assert len(list(pipe.run(several))) == len(several)
    with pytest.raises(DataError, match=r"list\(pipe\.run\(inputs\)\)"):
        lm.load(tiny_model)(("a", "b", "c"))
    assert lm.load(tiny_model)(("a", "b")).label  # a pair
    assert chat([{"role": "user", "content": "hello"}]).text == chat("hello").text  # a dialogue
