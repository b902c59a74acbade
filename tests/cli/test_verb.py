"""Options that verbs share are the same in every verb: one dataclass, spread out for typer."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llm_moments.cli import main
from llm_moments.cli.options import Asked, Bare, Rows
from llm_moments.cli.verb import verb


def test_options_become_choices_of_the_plan() -> None:
    seen: list[Any] = []

    @verb
    def spoken(model: str, asked: Asked, rows: Bare, last: int = 1) -> None:
        seen.append((model, asked.choices(), rows, last))

    app = typer.Typer()
    app.command()(spoken)
    run = CliRunner()
    words = ["m", "--max-new-tokens", "3", "--stop", "a", "--stop", "b", "--last", "2", "--limit", "5"]
    assert run.invoke(app, words).exit_code == 0
    assert run.invoke(app, ["m"]).exit_code == 0
    assert run.invoke(app, ["m", "--max-new-tokens", "0"]).exit_code == 2
    assert run.invoke(app, ["m", "--label-column", "y"]).exit_code == 2  # which these rows do not have
    assert seen == [
        ("m", {"decode.max_new_tokens": 3, "decode.stop": ["a", "b"]}, Bare(limit=5), 2), ("m", {}, Bare(), 1),
    ]  # fmt: skip
    assert isinstance(seen[0][2], Rows)


@pytest.mark.parametrize("name", ["run", "chat", "record", "weigh", "improve", "compare", "explain"])
def test_every_verb_that_asks_has_them(name: str) -> None:
    spoken = next(c.callback for c in main.app.registered_commands if c.name == name)
    assert set(Asked.CHOICES) <= set(inspect.signature(spoken).parameters)
    assert "opened" not in inspect.signature(spoken).parameters
