"""Console, tables, Chrome trace and TensorBoard: every view shows the same figures, and what is not known as such."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llm_moments.core import NULL
from llm_moments.record.session import Session, StepCost
from llm_moments.render import console
from llm_moments.render.chrome_trace import chrome_trace
from llm_moments.render.table import rows, write_csv, write_parquet
from llm_moments.render.tensorboard import write
from tests.test_html import CERTIFICATE, SESSION, STUDY, WORTHS


def shown(show: Any, result: Any, *more: Any) -> str:
    stream = io.StringIO()
    show(result, Console(file=stream, width=200), *more)
    return stream.getvalue()


def test_a_session_on_a_terminal() -> None:
    text = shown(console.show_session, SESSION)
    tokenize = next(line for line in text.splitlines() if "tokenize" in line)
    for figure in ("500.0", "25.0%", "600"):  # ms, share, tokens a second
        assert figure in tokenize
    assert "energy: not measured (no counter)" in text or "no counter" in text
    assert "modelled" in text
    assert "layer 0" not in shown(console.show_session, SESSION, 1)


def test_worths_trials_and_a_certificate_on_a_terminal() -> None:
    text = shown(console.show_worths, WORTHS)
    assert "cut at 64" in text
    assert "50%" in text
    assert "free" in text
    text = shown(console.show_certificate, CERTIFICATE)
    for said in ("62.5", "+0.0080", "certificate", "With 95% confidence"):
        assert said in text
    refused = replace(
        CERTIFICATE, certified=False, reason="too few.", needs=500, drop=None, drop_high=None, speedup=None
    )
    text = shown(console.show_certificate, refused)
    assert "no certificate" in text
    assert "About 500 certification examples would be enough" in text
    assert "None" not in text


def test_what_a_bound_takes_for_granted_is_shown() -> None:
    assert "no least value" in shown(
        console.show_certificate, replace(CERTIFICATE, assumes="Scores have no least value.")
    )


def test_texts_from_outside_are_no_markup_and_no_control_sequence() -> None:
    odd = Session(StepCost("[red]run[/red]\x1b[2J", 1, 1.0), {}, "[bold]\x1b]0;x\x07", "t", {}, {}, ("[link]",))
    text = shown(console.show_session, odd)
    assert "[red]run[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_rows_add_up_and_come_back_from_files(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = rows(SESSION)
    assert [(r["step"], r["depth"]) for r in table][:3] == [("run", 0), ("tokenize", 1), ("forward", 1)]
    assert table[1]["share"] == pytest.approx(0.25)
    assert table[1]["tokens_per_s"] == pytest.approx(600)
    assert table[3]["cpu_s"] is None
    write_csv(table, tmp_path / "t.csv")
    write_parquet(table, tmp_path / "t.parquet")
    with (tmp_path / "t.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [r["step"] for r in found] == [r["step"] for r in table]
    assert found[3]["cpu_s"] == ""
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == table
    for result in (WORTHS, STUDY):
        write_parquet(rows(result), tmp_path / "more" / "t.parquet")
        assert pq.read_table(tmp_path / "more" / "t.parquet").num_rows == len(result)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["more", "t.csv", "t.parquet"]


def test_padding_is_a_share_of_what_was_computed() -> None:
    step = StepCost("batch", 1, 1.0, counts={"tokens": 30, "padded_tokens": 40})
    table = rows(Session(StepCost("run", 1, 1.0, children=(step,)), {}, "m", "t", {}, {}))
    assert table[1]["padding"] == pytest.approx(0.25)
    assert table[0]["padding"] is None


def test_a_trace_is_nested_as_the_steps_are() -> None:
    trace = json.loads(json.dumps(chrome_trace(SESSION)))
    events = {e["name"]: e for e in trace["traceEvents"]}
    assert {e["ph"] for e in trace["traceEvents"]} == {"X"}
    assert events["run"]["dur"] == pytest.approx(2e6)
    for name, parent in (("tokenize", "run"), ("forward", "run"), ("layer 0", "forward")):
        inner, outer = events[name], events[parent]
        assert outer["ts"] <= inner["ts"]
        assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1e-6
    assert events["forward"]["ts"] == pytest.approx(events["tokenize"]["ts"] + events["tokenize"]["dur"])
    assert events["forward"]["args"]["share_of_limit"] == 0.5
    assert "cpu_s" not in events["layer 0"]["args"]


def test_children_that_overlapped_are_drawn_to_fit() -> None:
    two = (StepCost("a", 1, 3.0), StepCost("b", 1, 1.0, children=(StepCost("c", 1, 1.0),)))
    trace = chrome_trace(Session(StepCost("run", 1, 2.0, children=two), {}, "m", "t", {}, {}))
    found = {e["name"]: (e["ts"], e["dur"], e["args"]["wall_ms"]) for e in trace["traceEvents"]}
    assert found["a"] == (0.0, pytest.approx(1.5e6), 3000.0)
    assert found["b"] == found["c"] == (pytest.approx(1.5e6), pytest.approx(0.5e6), 1000.0)


def test_scalars_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, session=SESSION, worths=WORTHS, study=STUDY, certificate=CERTIFICATE)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = set(events.Tags()["scalars"])

    def last(tag: str) -> float:
        return float(events.Scalars(tag)[-1].value)

    assert last("record/ms/tokenize") == pytest.approx(500)
    assert last("record/share/forward") == pytest.approx(0.7)
    assert last("record/ms/forward/layer 0") == pytest.approx(700)
    assert last("weigh/cut at 64/saving") == pytest.approx(0.5)
    assert last("certificate/speedup") == pytest.approx(62.5)
    assert [(e.step, e.value) for e in events.Scalars("improve/gain")] == [(0, 60.0), (1, 3.0)]
    assert "record/energy" not in tags  # not measured is left out, not 0
    assert len(list((tmp_path / "trials").iterdir())) == 2  # a run for each trial that was measured


def test_a_disk_that_fills_up_ends_the_view_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    from llm_moments.render.tensorboard import Live

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer: Any = SimpleNamespace(
        position=SimpleNamespace(history=[{"update": 1, "loss": 0.5}], epoch=0), recorder=NULL
    )
    with Live(tmp_path / "tb", {}) as live:
        monkeypatch.setattr(live.writer, "add_scalar", full)
        for _ in range(3):
            live.updated(trainer)
    assert capsys.readouterr().err.count("No space left") == 1
