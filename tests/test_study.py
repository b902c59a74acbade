"""A study: what is stored comes back equal, what is damaged is told and measured again, looks belong to their answers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import ArtefactError, DataError, InputError, MomentsError, OutputExists
from llm_moments.core import Example, Outputs, Plan, Ragged
from llm_moments.core import outputs_file as answers
from llm_moments.core.outputs import texts
from llm_moments.improve import noted
from llm_moments.improve.certify import Look
from llm_moments.improve.study import Study, Trial, read_trials
from llm_moments.steps.transcribe import transcripts
from tests import fakes_speech
from tests.fakes import logits
from tests.fakes_chat import make_chat

ASKED = {"model": "m", "data": "d", "max_drop": 0.01}
PLANS = [Plan({"truncate": {"max_length": n}}) for n in (8, 16, 32)]


def trial(plan: Plan, n: int = 4, **more: Any) -> Trial:
    return Trial(plan.to_dict(), plan.key, "cut", n=n, cost=1.0, **more)


def numbers(seed: int) -> Outputs:
    return logits(np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32))


def looked_at(plan: Plan, passed: bool = True) -> Look:
    return Look(plan.key, passed, 0.001, 0.008, 0.9, 0.901, 1, 0, None)


def made(folder: Path) -> Study:
    """Three trials, and looks at two of them."""
    study = Study(folder, ASKED)
    for at, plan in enumerate(PLANS):
        study.add(trial(plan), numbers(at))
    study.add(Trial({}, "certify", "original", "held out"), numbers(9))
    study.note("sequence", [plan.key for plan in PLANS])
    study.note("hand", PLANS[2].key)
    for at, plan in enumerate(PLANS[:2]):
        study.look(looked_at(plan, passed=at == 0), plan.to_dict(), numbers(20 + at))
    return study


OUTPUTS = {
    "logits": logits(np.arange(12, dtype=np.float32).reshape(4, 3)), "none": logits(np.empty((0, 3))),
    "texts": texts(["a", "", "two\nlines\u2028\u00e9\x85 "]), "no texts": texts([]),
    "transcripts": transcripts(
        ["na \u2028 \u00fc\ud800", ""], [[{"start": np.float32(0.5), "end": 1.0, "text": "na"}], []], ["de", ""]
    ),
    "ragged": Outputs({
        "logprob": Ragged.of([[-0.1, -np.inf], [], [2.5]], np.float64), "tokens": Ragged.of([[1, 2], [], [3]], np.int64),
    }),
    "boxes": Outputs({"boxes": Ragged.of([np.ones((2, 4)), []], np.float32, (4,)), "flags": np.array([True, False])}),
}  # fmt: skip


def same(one: Any, other: Any) -> None:
    assert one.dtype.kind == other.dtype.kind
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_come_back_equal_without_a_pickle(name: str, tmp_path: Path) -> None:
    stored = OUTPUTS[name]
    Study(tmp_path, ASKED).add(trial(PLANS[0], len(stored)), stored)
    (file,) = (tmp_path / "outputs").iterdir()
    assert b"pickle" not in file.read_bytes()
    found = Study(tmp_path, ASKED).outputs(PLANS[0].key)
    assert list(found.columns) == list(stored.columns)
    for column, was in stored.columns.items():
        if isinstance(was, Ragged):
            same(found[column].values, was.values)
            same(found[column].lengths, was.lengths)
        else:
            same(found[column], was)


def test_outputs_of_the_version_before_are_read(tmp_path: Path) -> None:
    lines = [
        {"rows": 2, "texts": False},
        {"text": "hi", "segments": [{"start": 0.0}], "language": "de"},
        {"text": "", "segments": [], "language": ""},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    heard = answers.read(tmp_path / "a.jsonl")
    assert (heard["text"].tolist(), heard["language"].tolist()) == (["hi", ""], ["de", ""])
    assert json.loads(heard["segments"][0]) == [{"start": 0.0}]
    (tmp_path / "b.jsonl").write_text('{"rows": 1, "texts": true}\n"said"\n')
    assert answers.read(tmp_path / "b.jsonl")["text"].tolist() == ["said"]
    np.save(tmp_path / "c.npy", np.array([[[-1.0, 2], [-2.0, 1]], [[-3.0, 4], [-np.inf, 0]]]))
    told = answers.read(tmp_path / "c.npy")
    assert told["logprob"].row(1).tolist() == [-3.0]
    assert told["tokens"].row(0).tolist() == [2, 1]


def test_a_study_goes_on_where_it_was(tmp_path: Path) -> None:
    first = made(tmp_path)
    again = Study(tmp_path, ASKED)
    assert again.trials == first.trials
    assert again.notes == json.loads(json.dumps(first.notes))
    np.testing.assert_array_equal(again.outputs(PLANS[1].key), numbers(1))
    np.testing.assert_array_equal(again.outputs(noted.answers_of(PLANS[1].key)), numbers(21))
    with pytest.raises(OutputExists, match="other data"):
        Study(tmp_path, {**ASKED, "data": "e"})


def old(folder: Path, outputs: np.ndarray, **notes: Any) -> None:
    """A study as the version before wrote it: no digests, whatever NumPy makes of the outputs."""
    made(folder)
    (folder / "study.json").write_text(json.dumps(ASKED))
    (folder / "notes.json").write_text(json.dumps(notes))
    for file in (folder / "outputs").iterdir():
        file.unlink()
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in x.items() if k != "outputs"} for x in lines if "certify-" not in x["key"]]
    (folder / "trials.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for line in lines:
        np.save(folder / "outputs" / f"{line['key']}.npy", outputs)


def test_a_study_of_the_version_before_goes_on(tmp_path: Path) -> None:
    old(tmp_path, numbers(0), sequence=[p.key for p in PLANS], looks=[noted.plain(looked_at(PLANS[0]))])
    again = Study(tmp_path, ASKED)
    assert len(again.trials) == 4
    np.testing.assert_array_equal(again.outputs(PLANS[0].key), numbers(0))
    again.look(looked_at(PLANS[1]), PLANS[1].to_dict(), numbers(1))
    assert [x["key"] for x in Study(tmp_path, ASKED).notes["looks"]] == [p.key for p in PLANS[:2]]


def test_old_pickles_are_not_opened_and_their_plans_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old(tmp_path, np.array(["a", "b", "c", "d"], object), sequence=[PLANS[0].key])
    again = Study(tmp_path, ASKED)
    assert not again.trials
    assert "sequence" not in again.notes
    assert "older version" in (said := capsys.readouterr().err)
    assert said.count("tried again") == 4
    old(tmp_path / "b", np.array(["a"] * 4, object), sequence=[PLANS[0].key], looks=[noted.plain(looked_at(PLANS[0]))])
    with pytest.raises(ArtefactError, match=r"do not belong to the stored answers.*--overwrite"):
        Study(tmp_path / "b", ASKED)


def unlink(file: Path) -> None:
    file.unlink()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "gone": unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "garbage": lambda file: file.write_bytes(b"\x00\xff" * 40),
    "a pickle": lambda file: file.write_bytes(pickle.dumps([1])),
    "other numbers": lambda file: np.save(file, numbers(77)),
    "a claim of 10^15 rows": lambda file: file.write_bytes(file.read_bytes().replace(b"(4, 3)", b"(9999999999999, 3)")),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_outputs_are_told_and_measured_again(
    how: str, version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if version == 1:
        old(tmp_path, numbers(0))
    else:
        made(tmp_path)
        (tmp_path / "notes.json").write_text(json.dumps({"hand": PLANS[2].key, "sequence": [p.key for p in PLANS]}))
    DAMAGE[how](tmp_path / "outputs" / f"{PLANS[2].key}.npy")
    again = Study(tmp_path, ASKED)
    if version == 1 and how == "other numbers":
        return  # nothing there tells that they are others
    assert PLANS[2].key not in again.trials
    assert PLANS[0].key in again.trials
    assert not {"hand", "sequence"} & again.notes.keys()
    assert PLANS[2].key in capsys.readouterr().err
    again.add(trial(PLANS[2]), numbers(2))
    assert PLANS[2].key in Study(tmp_path, ASKED).trials
    assert capsys.readouterr().err.count("tried again") == 0 or how != "gone"


def test_a_line_that_is_no_trial_is_told_and_the_others_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(tmp_path, ASKED)
    for at, plan in enumerate(PLANS):
        study.add(trial(plan), numbers(at))
    file = tmp_path / "trials.jsonl"
    lines = file.read_text().splitlines()
    other = {**json.loads(lines[1]), "plan": {"truncate": {"max_length": 9}}}
    file.write_text("\n".join([lines[0], "garbage", json.dumps(other), "[]", "", lines[2]]) + '\n{"torn')
    assert [t.key for t in read_trials(tmp_path)] == [PLANS[0].key, PLANS[2].key]
    assert file.read_text().endswith('{"torn')  # who only looks changes nothing: another process may be writing it
    said = capsys.readouterr().err
    assert [f"line {n} is no trial" in said for n in range(1, 7)] == [False, True, True, True, True, False]
    assert "its plan has the key" in said
    assert list(Study(tmp_path, ASKED).trials) == [PLANS[0].key, PLANS[2].key]
    assert file.read_bytes().endswith(b"\n")


def rewritten(folder: Path, **notes: Any) -> None:
    file = folder / "notes.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **notes}))


def exchanged(folder: Path) -> None:
    """The answers of both plans that were looked at, each as the other's, with the digests in their lines."""
    keys = [noted.answers_of(plan.key) for plan in PLANS[:2]]
    one, two = (folder / "outputs" / f"{key}.npy" for key in keys)
    raw = one.read_bytes(), two.read_bytes()
    one.write_bytes(raw[1])
    two.write_bytes(raw[0])
    digests = [answers.digest(x) for x in raw]
    text = (folder / "trials.jsonl").read_text()
    for at, marked in enumerate(("ONE", "TWO")):
        text = text.replace(digests[at], marked)
    (folder / "trials.jsonl").write_text(text.replace("ONE", digests[1]).replace("TWO", digests[0]))


def look_with(folder: Path, **changes: Any) -> None:
    looks = json.loads((folder / "notes.json").read_text())["looks"]
    rewritten(folder, looks=[looks[0], {**looks[1], **changes}])


def another_study(folder: Path) -> None:
    """Notes of a study whose outputs are other ones."""
    other = made(folder.with_name("other"))
    other.add(Trial({}, "certify", "original", "held out"), numbers(5))
    other.notes = {k: v for k, v in other.notes.items() if k not in ("looks", "judged")}
    for plan in PLANS[:2]:
        other.look(looked_at(plan), plan.to_dict(), numbers(6))
    (folder / "notes.json").write_bytes((folder.with_name("other") / "notes.json").read_bytes())


FORGED: dict[str, Callable[[Path], Any]] = {
    "a failed look that passes": lambda folder: look_with(folder, passed=True),
    "a smaller bound": lambda folder: look_with(folder, drop_high=0.001),
    "a look at another plan": lambda folder: look_with(folder, key=PLANS[2].key),
    "looks of another study": another_study,
    "answers exchanged": exchanged,
    "one look less": lambda folder: rewritten(folder, looks=[]),
    "no seals": lambda folder: rewritten(folder, judged=[]),
    "other answers of the original": lambda folder: np.save(folder / "outputs" / "certify.npy", numbers(1)),
    "no answers of the original": lambda folder: (folder / "outputs" / "certify.npy").unlink(),
    "no answers of a plan": lambda folder: (folder / "outputs" / f"certify-{PLANS[0].key}.npy").unlink(),
    "another order": lambda folder: rewritten(folder, sequence=[p.key for p in PLANS[::-1]]),
    "a plan of the order that was not tried": lambda folder: rewritten(
        folder, sequence=[*(p.key for p in PLANS[:2]), "0" * 16]
    ),
}


@pytest.mark.parametrize("how", FORGED)
def test_looks_that_do_not_belong_to_the_stored_answers_are_refused(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    made(folder)
    FORGED[how](folder)
    with pytest.raises(ArtefactError, match=r"do not belong to the stored answers.*--overwrite") as told:
        Study(folder, ASKED)
    assert told.value.exit_code == 2


@pytest.mark.parametrize("name", ["study.json", "notes.json"])
@pytest.mark.parametrize("text", ["", "[]", "5", "null", '{"looks": 5}', "{", "\x00", '{"a": "\\ud800"}', "[" * 20_000])
def test_a_damaged_study_is_refused_in_words(name: str, text: str, tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name.split(".")[0]):
        Study(tmp_path, ASKED)


def test_trials_without_their_question_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "study.json").unlink()
    with pytest.raises(ArtefactError, match=r"no study.json.*--overwrite"):
        Study(tmp_path, ASKED)


def test_every_note_has_its_type(tmp_path: Path) -> None:
    study = Study(tmp_path, ASKED)
    for name, value in {"layers": "two", "hand": 5, "rows": {"search": 1}, "stock_cost": {"stock": "fast"}}.items():
        with pytest.raises(DataError, match=name):
            study.note(name, value)


def held_to(monkeypatch: pytest.MonkeyPatch, quick: int, **changes: Any) -> None:
    """A search that tries one plan only, on a few rows first."""

    def run(search: Any) -> list[Trial]:
        plan = search.stock.plan.with_(**changes)
        search.try_plan(plan, "quick", lossless=True, rows=quick)
        return [search.try_plan(plan, "whole", lossless=True)]

    monkeypatch.setattr("llm_moments.improve.run.strategies.run", run)


def gone_on_with(pipe: Any, rows: list[Any], out: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study after `improve` was called, and called again with nothing left to compute."""
    asked: dict[str, Any] = {"max_drop": 0.9, "objective": "size", "budget": "300s", "out": out}
    first = lm.improve(pipe, rows, **asked)
    with monkeypatch.context() as patch:
        patch.setattr("llm_moments.core.Pipeline.outputs", lambda *_: pytest.fail("answered again"))
        again = lm.improve(pipe, rows, **asked)
    assert again.certificate.looks == first.certificate.looks == 1
    assert again.certificate.drop == first.certificate.drop
    study = Study(out / "study", json.loads((out / "study" / "study.json").read_text().replace('"format": 2,', "")))
    assert [study.outputs(key) for key in study.trials]
    return study


@pytest.mark.slow
def test_improve_for_speech_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transcripts are objects: an earlier version pickled them, and never opened them again."""
    folder = fakes_speech.make_whisper(tmp_path / "m")
    sounds = [fakes_speech.tone(0.4 + n / 50, 300 + 20 * n) for n in range(24)]
    rows = [
        {"audio": str(fakes_speech.write(tmp_path / f"{n}.wav", s)), "text": f"a {n}"} for n, s in enumerate(sounds)
    ]
    held_to(monkeypatch, 2, **{"decode.max_new_tokens": 3})
    pipe = lm.load(folder, plan={"decode.max_new_tokens": 4})
    study = gone_on_with(pipe, rows, tmp_path / "out", monkeypatch)
    assert all(study.outputs("certify")["language"].tolist())


def test_improve_for_rows_of_unlike_many_choices_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = lm.load(make_chat(tmp_path / "m"), task="text-generation", metric="accuracy")
    texts = ["good", "bad", "boring", "great"]
    rows = [
        Example(
            {"prompt": f"the movie {chr(97 + n // 20)}{chr(97 + n % 20)}", "choices": texts[: 2 + n % 7 // 3]}, n % 2, n
        )
        for n in range(40)
    ]
    held_to(monkeypatch, 1, **{"forward.threads": 1})
    study = gone_on_with(pipe, rows, tmp_path / "out", monkeypatch)
    assert set(study.outputs("certify")["logprob"].lengths.tolist()) <= {2, 3, 4}  # the first look's rows


@pytest.mark.parametrize("seed", range(8))
def test_no_damaged_byte_gives_a_traceback(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut anywhere, or with any byte changed: read, told and left out, or refused; never a look that was not made."""
    looks = json.loads(json.dumps(made(tmp_path).notes["looks"]))
    whole = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    rng = np.random.default_rng(seed)
    for file in whole:
        raw = bytearray(whole[file])
        if rng.random() < 0.3:
            raw = raw[: rng.integers(len(raw))]
        else:
            raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        file.write_bytes(raw)
        try:
            found = Study(tmp_path, ASKED)
            assert found.notes.get("looks") == looks
            for key in found.trials:
                found.outputs(key)
        except MomentsError as error:
            assert str(tmp_path) in str(error)
        for path, content in whole.items():
            path.write_bytes(content)
