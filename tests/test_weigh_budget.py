"""What is weighed in the time there is: with a clock and engines that only say how long they take."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base import budget
from llm_moments.cli.main import main
from llm_moments.core.change import Change
from llm_moments.evaluate.evaluation import evaluation
from llm_moments.weigh import weigh as module
from llm_moments.weigh.changes import skips
from llm_moments.weigh.clock import Clock, in_words
from llm_moments.weigh.layers import weigh_layers
from llm_moments.weigh.price import ROUNDS, priced
from llm_moments.weigh.weigh import affordable
from llm_moments.weigh.weighing import Costs, Weighing
from llm_moments.weigh.worth import Interrupted, Worth
from tests.fakes import label_of, make_model, make_texts

BASE, ROWS, BLOCK = 0.01, 300, 32  # seconds an example


class Bench:
    """Changes that take `share` of the original's time; the clock goes on only while they are looked at or priced."""

    def __init__(self, allowed: float, shares: dict[str, float], stop: str = ""):
        self.now, self.shares, self.stop, self.priced, self.told = 0.0, shares, stop, list[str](), list[str]()
        self.clock = Clock(allowed, lambda done, said: self.told.append(said), now=lambda: self.now)
        costs = Costs(BASE, 0.1, BLOCK)
        self.weighing = Weighing(self.clock, costs, ROWS, self.look, self.price)

    def look(self, change: Change) -> tuple[float, float]:
        self.now += 0.1 + 2 * BLOCK * BASE * self.shares[change.name]
        return 0.1, BASE * self.shares[change.name]

    def price(self, change: Change) -> Worth:
        own = BASE * self.shares[change.name]
        if change.name == self.stop:
            raise KeyboardInterrupt
        self.now += 0.1 + (ROWS + ROUNDS * BLOCK) * own + BLOCK * BASE
        self.priced.append(change.name)
        return Worth(change.name, change.step, dict(change.choices), "free", saving=1 - self.shares[change.name])

    def all(self) -> list[Worth]:
        return self.weighing.all([Change(name, {f"truncate.{name}": 1}) for name in self.shares])


SHARES = {f"c{n}": share for n, share in enumerate([1.3, 0.9, 0.5, 1.5, 0.25, 1.0, 0.7, 1.1, 0.4, 1.6])}


def test_with_time_enough_all_is_measured_in_its_order() -> None:
    bench = Bench(600, SHARES)
    assert [w.name for w in bench.all()] == bench.priced == list(SHARES)
    assert bench.clock.summary() == {}
    assert "left" in bench.told[0]


@pytest.mark.parametrize("allowed", [20.0, 30.0, 45.0])
def test_with_less_what_saves_most_is_priced_first_and_the_budget_is_kept(allowed: float) -> None:
    bench = Bench(allowed, SHARES)
    worths = bench.all()
    assert [w.name for w in worths] == list(SHARES)
    assert 0.6 * allowed < bench.now <= 1.1 * allowed
    assert bench.priced == sorted(bench.priced, key=SHARES.__getitem__)
    assert bench.priced[0] == "c4"  # the fastest of all
    missing = [w for w in worths if w.verdict == "unavailable"]
    assert missing
    assert all(f"the budget of {allowed:.0f}s was used up" in w.reason for w in missing)
    said = bench.clock.summary()
    assert sorted(said["not_measured"]) == sorted(w.name for w in missing)
    enough = Bench(budget.seconds(said["budget_that_would_do"]), SHARES)
    assert all(w.verdict == "free" for w in enough.all())


def test_what_is_foretold_to_take_longer_than_is_left_is_not_begun() -> None:
    bench = Bench(4.0, {"long": 1.0})
    assert bench.all()[0].verdict == "unavailable"
    assert not bench.priced
    assert bench.now < 1  # a look, which told how long it would take


def test_after_an_interruption_nothing_is_begun_and_what_was_measured_stays() -> None:
    bench = Bench(600, SHARES, stop="c2")
    assert [w.verdict == "unavailable" for w in bench.all()] == [n > 1 for n in range(len(SHARES))]
    assert bench.clock.summary()["interrupted"]
    assert bench.clock.summary()["not_measured"][0] == "c2"


def test_as_many_examples_are_used_as_fit() -> None:
    costs = Costs(BASE, 0.1, BLOCK)
    assert affordable(costs, 1000, 20, 1000.0, 299) == 1000
    some = affordable(costs, 1000, 20, 120.0, 1)
    assert 2 * BLOCK < some < 1000
    assert (
        0.8 * 120
        < sum(costs.whole(Change("x", {"forward.x": 1}), some) + costs.look(Change("x", {})) for _ in range(20))
        < 120
    )
    assert affordable(costs, 1000, 20, 1.0, 299) == 2 * BLOCK
    assert affordable(costs, 10, 20, 1.0, 299) == 10
    few = affordable(costs, 1000, 20, 60.0, 299)  # of eight changes, where twenty would leave all of them open
    assert affordable(costs, 1000, 20, 60.0, 1) < few <= 299


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1s"), (59.2, "60s"), (91, "2m"), (3600, "60m"), (5401, "2h")])
def test_a_time_in_words_is_a_budget_that_is_no_shorter(seconds: float, said: str) -> None:
    assert in_words(seconds) == said
    assert budget.seconds(said) >= seconds


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("weigh") / "m", num_hidden_layers=10)


@pytest.fixture(scope="module")
def rows() -> list[lm.Example]:
    return [lm.Example(text, label_of(text), n) for n, text in enumerate(make_texts(200, seed=4))]


def test_layers_of_which_there_is_no_time_are_named(model: Path, rows: list[lm.Example]) -> None:
    pipe = lm.load(model)
    part = evaluation(pipe, rows)
    outputs, now = pipe.outputs(part.values), [0.0]

    def later() -> float:  # each look at the clock takes a second
        now[0] += 1.0
        return now[0]

    names = {change.name: 1.0 for change in skips(10)}
    bench = Bench(600, names)
    bench.weighing.clock = bench.clock = Clock(30.0, now=later)
    bench.weighing.costs.base = 1e-6
    found = weigh_layers(pipe, part, outputs, timed=False, weighing=bench.weighing)
    assert [w.name for w in found.worths] == list(names)
    missing = [w for w in found.worths if w.verdict == "unavailable"]
    assert 0 < len(missing) < 10
    assert {w.name for w in missing} <= set(bench.clock.missing)
    assert all(w.n == 32 and w.drop is not None for w in found.worths if w not in missing and not w.ablated)


def test_a_classifier_keeps_its_budget_and_says_what_would_do(model: Path, rows: list[lm.Example]) -> None:
    told, at = list[str](), [time.monotonic()]

    def progress(done: float | None, said: str) -> None:
        told.append(said)
        at.append(time.monotonic())

    found = lm.weigh(model, rows, budget="3s", progress=progress)
    longest = max(np.diff([*at, time.monotonic()]))  # one piece of work on this machine, as busy as it is now
    assert found.about["seconds"] < 3 + 2 * longest
    assert found.about["n"] < found.about["of_examples"]
    assert found.about["not_measured"]
    assert budget.seconds(found.about["budget_that_would_do"]) > 3
    assert all("left" in said for said in told)


def command(words: list[Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `moments weigh`, in this process."""
    monkeypatch.setattr(sys, "argv", ["moments", "weigh", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def data(rows: list[lm.Example], tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"{row.input},{row.reference}\n" for row in rows[:60]))
    return file


def test_ctrl_c_keeps_what_was_measured(
    model: Path, rows: list[lm.Example], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = module.priced, list[str]()

    def priced(base: Any, part: Any, outputs: np.ndarray, change: Change, **more: Any) -> Worth:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(change.name)
        return real(base, part, outputs, change, **more)

    monkeypatch.setattr(module, "priced", priced)
    with pytest.raises(Interrupted) as stopped:
        lm.weigh(model, rows[:40])
    assert [w.name for w in stopped.value.worths if w.verdict != "unavailable"] == seen
    seen.clear()
    assert command([model, "--data", data, "--out", tmp_path / "w.json", "--json"], monkeypatch) == 130
    found = json.loads((tmp_path / "w.json").read_text())
    assert [w["name"] for w in found["items"] if w["verdict"] != "unavailable"] == seen
    assert found["about"]["interrupted"]


def test_the_command_takes_a_budget_for_classifiers(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([model, "--data", data, "--budget", "1s", "--json"], monkeypatch) == 0
    told = capsys.readouterr()
    about = json.loads(told.out)["about"]
    assert about["not_measured"]
    assert f"--budget {about['budget_that_would_do']}" in told.err


def test_a_loss_beyond_doubt_spares_the_other_rows(model: Path, rows: list[lm.Example]) -> None:
    pipe = lm.load(model)
    references = [lm.Example(row.input, pipe(row.input).label, n) for n, row in enumerate(rows)]
    part = evaluation(pipe, references)
    outputs = pipe.outputs(part.values)
    spoilt = Change("nearly nothing", {"truncate.max_length": 4})
    whole = priced(pipe, part, outputs, spoilt, timed=False)
    soon = priced(pipe, part, outputs, spoilt, timed=False, first=100)
    same = priced(pipe, part, outputs, Change("sorted", {"batch.size": 8}), timed=False, first=100)
    assert (whole.harmful or 0) > 30
    assert (whole.n, soon.n, same.n) == (part.independent, part.take(range(100)).independent, part.independent)
    assert (soon.drop or 0) == pytest.approx(whole.drop or 0, abs=0.2)
