"""`~` is the home folder in every option and argument that takes a path, whoever has passed it on."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from llm_moments.base.errors import InputError
from llm_moments.cli import main, paths

# Options of type str that may be a path; those of type Path are known by their type.
TEXTS = {
    "model",
    "data",
    "evaluate",
    "unlabelled",
    "heal_data",
    "teacher",
    "a",
    "b",
    "student",
    "config",
    "translate_there",
    "translate_back",
}


def test_every_path_of_every_verb_is_read_in_this_way() -> None:
    seen = set()
    for verb in main.app.registered_commands:
        for param in inspect.signature(verb.callback, eval_str=True).parameters.values():  # type: ignore[arg-type]
            kind, told, *_ = get_args(param.annotation)
            if Path in (kind, *get_args(kind)):
                assert told.parser is paths.path, (verb.name, param.name)
            elif param.name in TEXTS:
                assert told.parser is paths.text, (verb.name, param.name)
                seen.add(param.name)
    assert seen == TEXTS


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.path("~/a.csv") == tmp_path / "a.csv"
    assert paths.text("~") == str(tmp_path)
    for same in ("-", "a~b", "./~", "https://x.org/~me", "~nobody-of-that-name/x", "layers=half", "org/model"):
        assert paths.text(same) == same
    with pytest.raises(InputError, match="NUL"):
        paths.path("a\0b")


def test_home_from_a_command_line_a_variable_and_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "in.txt").write_text("good film\nbad film\n")
    (tmp_path / "c.toml").write_text(
        'out = "~/answers.jsonl"\n[record]\nhtml = "~/deep/r.html"\nplan = "~/plan.toml"\n'
    )
    (tmp_path / "plan.toml").write_text("[truncate]\nmax_length = 16\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOMENTS_CONFIG", "~/c.toml")
    monkeypatch.chdir(tmp_path / "model")

    def moments(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["moments", *words, "--format", "quiet"])
        with pytest.raises(SystemExit) as stop:
            main.main()
        assert not stop.value.code, capsys.readouterr()

    moments("run", "~/model", "--data=~/in.txt")
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    monkeypatch.setenv("MOMENTS_DATA", "~/in.txt")
    moments("record", "~/model", "--out=~/session.json", "--csv", "~/steps.csv")
    assert json.loads((tmp_path / "session.json").read_text())["plan"]["truncate"]["max_length"] == 16
    assert (tmp_path / "deep" / "r.html").exists()
    assert (tmp_path / "steps.csv").exists()
    assert not list((tmp_path / "model").glob("*~*"))
