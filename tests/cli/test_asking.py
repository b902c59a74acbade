"""The options of how a model is asked are the same in every verb that asks one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llm_moments.cli import main
from llm_moments.cli.asking import OPTIONS, asking


def test_options_become_choices_of_the_plan() -> None:
    seen: list[Any] = []

    @asking
    def verb(model: str, asked: dict[str, Any] | None = None, last: int = 1) -> None:
        seen.append((model, asked, last))

    app = typer.Typer()
    app.command()(verb)
    run = CliRunner()
    assert run.invoke(app, ["m", "--max-new-tokens", "3", "--stop", "a", "--stop", "b", "--last", "2"]).exit_code == 0
    assert run.invoke(app, ["m"]).exit_code == 0
    assert run.invoke(app, ["m", "--max-new-tokens", "0"]).exit_code == 2
    assert seen == [("m", {"decode.max_new_tokens": 3, "decode.stop": ["a", "b"]}, 2), ("m", {}, 1)]


@pytest.mark.parametrize("name", ["run", "chat", "record", "weigh", "improve", "compare"])
def test_every_verb_that_asks_has_them(name: str) -> None:
    verb = next(c.callback for c in main.app.registered_commands if c.name == name)
    assert set(OPTIONS) <= set(inspect.signature(verb).parameters)
    assert "asked" not in inspect.signature(verb).parameters
