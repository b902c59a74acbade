"""Every view of every result with hostile names: they are shown as text, whatever they hold."""

from __future__ import annotations

import csv
import dataclasses
import html as pages
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from llm_moments.base.visible import ESCAPE, visible
from llm_moments.core.parts import Alternative, AnswerToken
from llm_moments.explain.explanation import (
    Against,
    AgainstChance,
    Explanation,
    LayerWorth,
    Other,
    PairWorth,
    PartWorth,
    Unseen,
)
from llm_moments.explain.overview import Named, Overview, row_of
from llm_moments.improve.certify import Certificate
from llm_moments.improve.study import Trial
from llm_moments.improve.training_certificate import TrainingCertificate
from llm_moments.record.session import Figure, Session, StepCost
from llm_moments.render import (
    charts,
    chrome_trace,
    console,
    explanation,
    explanations,
    html,
    learning,
    notebook,
    table,
    tensorboard,
    text,
    training_certificate,
    tree,
    worth_charts,
)
from llm_moments.weigh.learning import TrainingWorth
from llm_moments.weigh.worth import Worth, Worths

# Markup of pages, of plotly and of rich; ESC sequences; a link; a line of its own; marks that turn the line round;
# a bell; C1; half a character; the beginning of a formula.
BAD = "=cmd()<script>alert(1)</script><i>x</i>[red]y[/red]:heart:\x1b[2J\x1b]52;c;eA==\x07\x9b31m\nerror: gone\r\u202egpj.exe\u2066\ud800\x00\"'&\\"
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def bad(kind: Any, **known: Any) -> Any:
    """An instance with BAD in the place of every text, name and value of a plan, and a number in that of every number."""
    for one in dataclasses.fields(kind):
        if one.name in known:
            continue
        told = str(one.type)
        if "Mapping" in told or "dict" in told:
            known[one.name] = {BAD: {BAD: BAD}} if "plan" in one.name else {BAD: BAD}
        elif "tuple" in told or "list" in told or "Sequence" in told:
            known[one.name] = ()
        elif "bool" in told:
            known[one.name] = True
        elif "int" in told or "float" in told:
            known[one.name] = 2
        else:
            known[one.name] = BAD
    return kind(**known)


STEP = StepCost(
    BAD,
    1,
    2.0,
    1.0,
    {"items": 10, "tokens": 5},
    Figure(0.5, "share", "modelled"),
    (StepCost(BAD, 3, 0.7), StepCost(BAD, 1, 0.2)),
)
SESSION = Session(
    STEP,
    {BAD: Figure(1.0, BAD, "measured", BAD), "x": Figure.none("J", BAD)},
    BAD,
    BAD,
    {BAD: {BAD: BAD}},
    {BAD: BAD},
    (BAD,),
    BAD,
)
WORTHS = Worths(
    [bad(Worth, verdict=verdict, kl=0.1) for verdict in ("free", "harmful", BAD)], **{"metric": BAD, BAD: BAD}
)
PLAN = {
    "forward": {"engine": BAD, "precision": BAD, "skip_layers": [BAD]},
    "truncate": {"max_length": BAD, "side": BAD},
    BAD: {BAD: BAD},
}
CERTIFICATES = [
    bad(Certificate, certified=certified, plan=PLAN, baseline_plan={BAD: {BAD: 1}}, metric=BAD)
    for certified in (True, False)
]
STUDY = [
    bad(Trial, status="ok", plan=PLAN),
    bad(Trial, status="unavailable", plan=PLAN, lossless=False),
    bad(Trial, status=BAD, lossless=False),
]
TRAINING = SimpleNamespace(
    folder=Path(BAD.replace("\0", "")), warnings=[BAD], history=[{"epoch": 1, "update": n, "loss": 0.5, "score": 0.5, "learning_rate": 0.1} for n in (1, 2)],
    settings={BAD: BAD, "optimizer": BAD, "augment": {BAD: 1}}, session=SESSION,
    evaluation={"metric": BAD, "score": 0.5, "n": 4, "data": BAD},
    expansion={"labelled": 1, "unlabelled": 2, "threshold": 0.9, "known_already": 0, "by_class": {BAD: 1}},
)  # fmt: skip
CURVE = SimpleNamespace(
    points=[SimpleNamespace(rows=n, score=0.5, least=0.4, most=0.6, seeds=3) for n in (10, 20)], gain=0.1, low=0.0, high=0.2, factor=2,
    words=lambda: BAD,
)  # fmt: skip
ABOUT = {"rows": 1, "of_rows": 2, "epochs": 3, "updates": 4, "n": 5, "seeds": 3, "metric": BAD, BAD: BAD}
LEARNING = SimpleNamespace(
    worths=WORTHS, curve=CURVE, about=ABOUT,
    blocks=[SimpleNamespace(name=BAD, parameters=5, norm=0.1, ratio=0.1, fisher=0.1)],
)  # fmt: skip
LOOK = {
    "speedup": 2.0,
    "speedup_low": 1.5,
    "loss": 0.5,
    "baseline_loss": 0.5,
    "rise": 0.0,
    "rise_high": 0.1,
    "allowed": 0.1,
    "score": 0.5,
    "baseline_score": 0.5,
}
FASTER = SimpleNamespace(
    certified=True, tried=[{"name": BAD, "faster": 2.0, "loss": 0.5, "kept": True}], looks=[SimpleNamespace(name=BAD, passed=True, **LOOK)],
    baseline={BAD: 1}, settings={BAD: BAD}, environment={BAD: BAD}, words=lambda: BAD, best=SimpleNamespace(name=BAD, **LOOK),
)  # fmt: skip
ELSEWHERE = [
    {"max_drop": 0.1, "plan": {BAD: {BAD: BAD}}, "speedup": 2.0, "needs": 5, "rows": 9, "enough": False, "command": BAD}
]
IMPROVED = {
    "front": [dataclasses.asdict(STUDY[0])], "certificate": CERTIFICATES[1].to_dict(), "healing": BAD, "trials": 3, "seconds": 5.0,
    "artefact": BAD, "elsewhere": ELSEWHERE, "nearly": BAD, "stands": BAD,
}  # fmt: skip
COMPARED = {
    "max_drop": 0.1, "within": True, "drop_low": 0.0, "drop_high": 0.1, "speedup_low": 1.0, "speedup_high": 2.0, "metric": BAD, "score_a": 0.5, "score_b": 0.5,
    "drop": 0.0, "harmful": 1, "beneficial": 1, "n": 5, "beside": {BAD: (0.5, 0.5)}, "agreement": 1.0, "kl": 0.1, "along_tokens": 5, "top1": 0.9,
    "speedup": 1.5, "a": BAD, "b": BAD, "assumes": BAD,
}  # fmt: skip
DOCTOR = {
    "hardware": {BAD: BAD}, "peaks": {BAD: 1.0}, "devices": [BAD], "notes": [BAD],
    "engines": {BAD: {"version": BAD, "precisions": [BAD], "cure": BAD}},
}  # fmt: skip

OVERVIEW = bad(
    Overview, answers={BAD: 2}, fields={BAD: 1, "text": 1}, places={BAD: 1}, words=(Named(BAD, 2, 0.5),),
    layers=(Named(BAD, 1, 0.5),), notes=(BAD,),
)  # fmt: skip
EXPLANATION = bad(
    Explanation, input=BAD, against=bad(Against), parts=(PartWorth(BAD, ("text", 0, 5), 1.0, inside=(PartWorth(BAD, ("text", 1, 3), 0.5, BAD),)), PartWorth(BAD, ("text", 5, len(BAD)), -0.5, BAD, True)), test=bad(AgainstChance, sizes=(1,)), keeps=(0,),
    turns=(1,), unseen=(Unseen(BAD, ("text", 0, 5)),), layers=(LayerWorth(BAD, 1.0, BAD),), others=(Other(BAD, BAD, False, 0.1),), session=SESSION, notes=(BAD,),
    tokens=(AnswerToken(BAD, 0.5, 1.0, (Alternative(BAD, 0.1),), (1.0, None)),), pairs=(PairWorth(0, 1, 9.0),), without_all=2.0,
)  # fmt: skip
ON_A_TERMINAL = {
    "show_session": [SESSION], "show_training": [TRAINING], "show_worths": [WORTHS], "show_improvement": [IMPROVED], "show_certificate": CERTIFICATES,
    "show_trials": [STUDY], "show_comparison": [COMPARED], "show_doctor": [DOCTOR], "show_elsewhere": [ELSEWHERE],
}  # fmt: skip
FRAGMENTS = {
    "steps_html": [SESSION], "figures_html": [SESSION], "notes_html": [[BAD]], "session_html": [SESSION], "training_html": [TRAINING], "worths_html": [WORTHS],
    "about_html": [WORTHS], "certificate_html": CERTIFICATES, "trials_html": [STUDY], "improvement_html": [IMPROVED],
}  # fmt: skip


def test_every_view_is_walked() -> None:
    """A view that is new has to be put on the lists here."""
    assert {name for name in vars(console) if name.startswith("show_")} == set(ON_A_TERMINAL)
    assert {name for name in vars(notebook) if name.endswith("_html")} == set(FRAGMENTS)
    rooms = {file.stem for file in Path(console.__file__).parent.glob("[!_]*.py")}
    walked = (
        charts,
        chrome_trace,
        console,
        explanation,
        explanations,
        training_certificate,
        html,
        learning,
        notebook,
        table,
        tensorboard,
        text,
        tree,
        worth_charts,
    )
    assert rooms == {room.__name__.rpartition(".")[2] for room in walked}
    with_a_view = {Session, Worths, Certificate, TrainingCertificate, TrainingWorth, Explanation}
    assert all(hasattr(kind, "_repr_html_") for kind in with_a_view)


def on_terminal(show: Any, *results: Any) -> str:
    stream = io.StringIO()
    show(*results, Console(file=stream, width=400, emoji=False, force_terminal=True, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("show", "result"),
    [
        *((getattr(console, name), result) for name, results in ON_A_TERMINAL.items() for result in results),
        (training_certificate.show, FASTER),
        (learning.show, LEARNING),
        (explanation.show, EXPLANATION),
        (explanations.show, OVERVIEW),
    ],
)
def test_on_a_terminal(show: Any, result: Any) -> None:
    said = on_terminal(show, result)
    assert not STEERS.search(said), STEERS.search(said)
    assert not re.search("^error: gone", said, re.MULTILINE)
    flat = re.sub(r"\s|│", "", said)
    for part in ("[red]y[/red]", ":heart:", r"\u001b[2J", r"\u202egpj.exe", r"\ud800"):
        assert part in flat, part


def test_the_real_terminal_takes_no_names_of_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.say(console.terminal(), ":heart: [red]")
    assert capsys.readouterr().out == ":heart: [red]\n"


def no_markup(page: str) -> None:
    assert not STEERS.search(page.replace("\t", "")), STEERS.search(page.replace("\t", ""))
    for mark in ("<script>alert", "<i>x</i>", "\\u003ci\\u003ex", "\\u003cscript\\u003ealert", "<script>error"):
        assert mark not in page, page[max(0, page.index(mark) - 200) : page.index(mark) + 100]


@pytest.mark.parametrize(
    ("make", "result"),
    [
        *((getattr(notebook, name), result) for name, results in FRAGMENTS.items() for result in results),
        (learning.fragment, LEARNING),
        (explanation.fragment, EXPLANATION),
    ],
)
def test_in_a_notebook(make: Any, result: Any) -> None:
    fragment = make(result)
    no_markup(fragment)
    assert r"\u202egpj.exe" in pages.unescape(fragment)


@pytest.mark.parametrize("certificate", CERTIFICATES, ids=["certified", "not"])
def test_in_the_report(certificate: Any) -> None:
    page = html.report(
        session=SESSION,
        after=SESSION,
        worths=WORTHS,
        study=STUDY,
        certificate=certificate,
        training=TRAINING,
        learning=LEARNING,
        faster=FASTER,
        explanation=EXPLANATION,
        overview=OVERVIEW,
        explained=[{**row_of(EXPLANATION), "id": BAD, "page": BAD}],
        elsewhere=ELSEWHERE,
        nearly=BAD,
        title=BAD,
    )
    start, end = page.index("<script>"), page.index("</script>")  # plotly's own
    assert page.count("Plotly.newPlot(") >= 8
    no_markup(page[:start] + page[end:])


def test_in_sheets_and_tables(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for result in (SESSION, WORTHS, STUDY):
        rows = table.rows(result)
        table.write_csv(rows, tmp_path / "t.csv")
        content = (tmp_path / "t.csv").read_text(encoding="utf-8")
        assert not STEERS.search(content.replace("\r\n", "\n"))
        for row in csv.reader(io.StringIO(content, newline="")):
            assert not any(one.startswith(table.FORMULA) for one in row if not re.fullmatch(r"-?[\d.e-]+", one)), row
        table.write_parquet(rows, tmp_path / "t.parquet")
        assert pq.read_table(tmp_path / "t.parquet").num_rows == len(rows)


def test_in_traces_lines_and_scalars(tmp_path: Path) -> None:
    trace = json.dumps(chrome_trace.chrome_trace(SESSION))
    assert not STEERS.search(trace)
    assert json.loads(trace)["traceEvents"][0]["name"] == BAD
    assert not STEERS.search(visible("\n".join(tree.lines(SESSION)), keep="\n"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tensorboard.write(tmp_path / "tb", session=SESSION, worths=WORTHS, study=STUDY, certificate=CERTIFICATES[0])
    learning.write_scalars(tmp_path / "tb", LEARNING)
    tags = EventAccumulator(str(tmp_path / "tb")).Reload().Tags()["scalars"]
    assert any("gpj.exe" in tag for tag in tags)
    assert not any(STEERS.search(tag) or "\n" in tag for tag in tags)


def test_escapes_are_those_of_json() -> None:
    odd = "".join(
        map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x202E, 0x2028, 0xFEFF, 0xE0041, 0xD800, 0x1F600, 0x41])
    )
    raw = json.dumps([odd, "back\\slash"], ensure_ascii=False)
    assert json.loads(visible(raw)) == [odd, "back\\slash"]
    assert json.loads(visible(raw).encode("cp1252", ESCAPE).decode("cp1252")) == [odd, "back\\slash"]
    assert visible("naïve 👩\u200d🔬 می\u200cخواهم\n\t", keep="\n\t") == "naïve 👩\u200d🔬 می\u200cخواهم\n\t"
