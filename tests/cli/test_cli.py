"""The command as a stranger runs it: a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_moments.cli.main import app
from llm_moments.engines.base import ENGINES
from llm_moments.engines.generator import GENERATORS
from tests.cli.command import moments, process
from tests.fakes import make_texts

VERBS = [str(verb.name) for verb in app.registered_commands]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_an_example_and_imports_nothing_heavy(verb: str) -> None:
    script = (
        "import sys; from llm_moments.cli.main import app\n"
        f"try: app({[verb, '--help'] if verb else ['--help']!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'rich', 'openvino'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out
    assert not verb or "Example: moments" in out


@pytest.mark.parametrize("verb", ["train", "improve", "run"])
def test_options_are_grouped_by_what_they_are_about(verb: str) -> None:
    told = moments(verb, "--help").stdout
    titles = re.findall(r"^(\w[^:\n]*):$", told, re.M)
    assert {"Data", "Output"} <= set(titles)
    sections = re.split(r"^\w[^:\n]*:$", told, flags=re.M)[1:]
    assert max(len(re.findall(r"^  --", section, re.M)) for section in sections) <= 12
    assert len(re.findall(r"^  --out <", told, re.M)) == 1


def test_pages_of_the_verbs_are_up_to_date() -> None:
    script = Path(__file__).parents[2] / "scripts" / "docs.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def test_run_answers_words_stdin_and_files(trained_model: Path, tmp_path: Path) -> None:
    shown = process("run", trained_model, "great film", "bad awful plot", "--json").stdout
    answers = [json.loads(line) for line in shown.splitlines()]
    assert [a["id"] for a in answers] == [1, 2]
    assert set(answers[0]) == {"id", "label", "score", "scores", "cut_tokens"}
    piped = moments("run", trained_model, "--json", stdin="great film\nbad awful plot\n").stdout
    assert [json.loads(line)["label"] for line in piped.splitlines()] == [a["label"] for a in answers]
    file, out = tmp_path / "in.txt", tmp_path / "out.csv"
    file.write_text("\n".join(make_texts(30)))
    assert json.loads(moments("run", trained_model, "--data", file, "--out", out, "--json").stdout)["rows"] == 30
    assert len(out.read_text().splitlines()) == 31
    again = moments("run", trained_model, "--data", file, "--out", out, code=2)
    assert "--overwrite" in again.stderr


def test_run_goes_on_after_an_interruption(trained_model: Path, tmp_path: Path) -> None:
    file, out, whole = tmp_path / "in.txt", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    file.write_text("\n".join(make_texts(40)))
    moments("run", trained_model, "--data", file, "--out", whole)
    # What a killed run leaves: a header, some rows, a torn one.
    code = (
        "import sys\nfrom llm_moments.data.output import AnswerWriter\nreal = AnswerWriter.finish\n"
        "def stop(self):\n    import os; os._exit(9)\nAnswerWriter.finish = stop\n"
        "from llm_moments.cli.main import app\napp(sys.argv[1:])"
    )
    subprocess.run(
        [sys.executable, "-c", code, "run", str(trained_model), "--data", str(file), "--out", str(out)],
        capture_output=True,
    )
    partial = tmp_path / "out.jsonl.partial"
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:20]) + lines[20][:7])
    told = moments("run", trained_model, "--data", file, "--out", out).stderr
    assert "after 19 finished rows" in told
    for row, expected in zip(*(map(json.loads, f.read_text().splitlines()) for f in (out, whole)), strict=True):
        assert (row["id"], row["label"]) == (expected["id"], expected["label"])
        assert row["score"] == pytest.approx(expected["score"], abs=1e-5)  # other rows share the batch now


def test_record_weigh_and_show_write_every_view(
    trained_model: Path, toy_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.weigh.weigh.every_change", lambda base, some, layers: ([], []))  # layers alone
    views = (
        "--html",
        tmp_path / "r.html",
        "--csv",
        tmp_path / "r.csv",
        "--parquet",
        tmp_path / "r.parquet",
        "--tensorboard",
        tmp_path / "tb",
    )
    session, trace = tmp_path / "s.json", tmp_path / "t.json"
    found = moments(
        "record",
        trained_model,
        "--data",
        toy_csv,
        "--limit",
        50,
        "--depth",
        2,
        "--out",
        session,
        "--trace",
        trace,
        *views,
        "--json",
    )
    assert json.loads(found.stdout) == json.loads(session.read_text())
    assert {e["ph"] for e in json.loads(trace.read_text())["traceEvents"]} == {"X"}
    assert (tmp_path / "r.html").read_text().count("layer 1")
    assert list((tmp_path / "tb").iterdir())
    assert "layer 2" in moments("show", session).stdout
    assert "forward" in (tmp_path / "r.csv").read_text()
    worth = tmp_path / "w.json"
    moments("weigh", trained_model, "--data", toy_csv, "--limit", 40, "--out", worth, "--format", "quiet")
    assert "skip layer 0" in moments("show", worth, "--html", tmp_path / "w.html").stdout


@pytest.mark.slow
def test_improve_and_compare_as_a_gate(trained_model: Path, toy_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "improved"
    command = (
        "improve",
        trained_model,
        "--data",
        toy_csv,
        "--max-drop",
        "0.05",
        "--budget",
        "12s",
        "--out",
        out,
        "--json",
    )
    done = moments(*command, code=None)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["certified"] else 3)
    assert found["plan"]["truncate"]["max_length"]
    assert "certificate" in moments("show", out, "--html", tmp_path / "again.html").stdout
    gate = moments("compare", trained_model, out, "--data", toy_csv, "--max-drop", "0.2", "--json").stdout
    assert json.loads(gate)["within"] is True
    moments("compare", trained_model, trained_model, "--data", toy_csv, "--max-drop", "0.0001", "--json", code=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "nowhere/model", "x"), "no such folder"),
        (("record", "MODEL", "--data", "nowhere.csv"), "no such file"),
        (("run", "MODEL", "x", "--set", "forward.engine=tensorflow"), "impossible value"),
        (("run", "MODEL", "x", "--set", "trunc"), "step.knob=value"),
        (("run", "MODEL", "x", "--device", "tpu"), "--device"),
        (("run", "MODEL", "x", "--format", "yaml"), "--format"),
        (("improve", "MODEL", "--data", "DATA", "--max-drop", "7", "--out", "OUT"), "max_drop"),
        (("improve", "MODEL", "--data", "DATA", "--label-column", "lable", "--out", "OUT"), "no column 'lable'"),
        (("show", "DATA"), "not a saved result"),
    ],
)
def test_bad_usage_is_told_and_exits_with_2(
    trained_model: Path, toy_csv: Path, tmp_path: Path, words: tuple, message: str
) -> None:
    stand_for = {"MODEL": trained_model, "DATA": toy_csv, "OUT": tmp_path / "out"}
    told = moments(*(stand_for.get(w, w) for w in words), code=2).stderr
    assert message in told
    assert "Traceback" not in told


def test_doctor_names_every_engine_and_what_was_never_tried() -> None:
    found = json.loads(moments("doctor", "--json").stdout)
    assert set(found["engines"]) == {*ENGINES, *GENERATORS}
    assert found["peaks"]["fp32"] > 1
    assert "never on real hardware" in found["notes"][0]


def test_variables_stand_in_for_options(trained_model: Path, toy_csv: Path) -> None:
    found = moments("record", trained_model, "--limit", 20, MOMENTS_DATA=str(toy_csv), MOMENTS_FORMAT="json").stdout
    assert json.loads(found)["kind"] == "session"


def test_settings_from_a_file_and_what_comes_before_it(trained_model: Path, tmp_path: Path) -> None:
    data, config = tmp_path / "in.txt", tmp_path / "moments.toml"
    data.write_text("\n".join(make_texts(12)))
    config.write_text('format = "json"\nlimit = 9\nmax-drop = 0.5\n[run]\nlimit = 5\nset = "batch.size=2"\n')
    rows = ("run", trained_model, "--data", data)
    assert len(moments(*rows, "--config", config).stdout.splitlines()) == 5
    assert len(moments(*rows, "--config", config, "--limit", 3).stdout.splitlines()) == 3
    assert "{" not in moments(*rows, MOMENTS_CONFIG=str(config), MOMENTS_FORMAT="quiet").stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run]\nlimt = 3", "did you mean limit?"),
        ("[improv]\nlimit = 3", "did you mean improve?"),
        ("x = = 1", "not TOML"),
        ("limit = [1]", "single value"),
        ('[run]\nlimit = "many"', "--limit"),
        (None, "No such file"),
    ],
)
def test_settings_that_cannot_be_taken(text: str | None, said: str, trained_model: Path, tmp_path: Path) -> None:
    config, data = tmp_path / "moments.toml", tmp_path / "in.txt"
    data.write_text("great film\n")
    if text is not None:
        config.write_text(text)
    failed = moments("run", trained_model, "--data", data, "--config", config, code=2)
    assert said in failed.stderr, failed.stderr


def test_an_interruption_is_told(trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_moments.cli.run._show", stopped)
    assert "interrupted" in moments("run", trained_model, "a film", code=130).stderr
