"""The search for slow models, on a made-up task whose costs and losses are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llm_moments.core import Change, Plan
from llm_moments.improve.strategies import greedy
from llm_moments.improve.study import Trial

# name -> (choice, times as fast, chance to pass, lossless)
CHANGES = {
    "together": ("forward.streams", 1.1, 1.0, True),
    "one beam": ("decode.beams", 3.0, 0.9, False),
    "short sounds": ("features.margin", 5.0, 0.8, False),
    "nothing": ("batch.order", 1.0, 1.0, True),
    "worse answers": ("chunk.length", 9.0, 0.0, False),
}
ROWS = 40


class Made:
    """A search whose time is counted in rows that were answered, each as long as its plan's cost says."""

    def __init__(self, time: float):
        self.left, self.asked = time, []  # type: ignore[var-annotated]
        self.part = SimpleNamespace(values=list(range(ROWS)), __len__=lambda: ROWS)
        self.part = _Part()
        task = SimpleNamespace(
            sorts={}, sizes=SimpleNamespace(block=4, warm=0), changes=self.changes, careful=lambda plan: {"batch.order": 1}
        )  # fmt: skip
        self.stock = SimpleNamespace(task=task, plan=Plan({}), objective="throughput")
        self.notes: dict[str, Any] = {}
        self.study = SimpleNamespace(trials={}, note=self.notes.__setitem__, add=lambda trial: None)
        self.told: list[str] = []
        self.max_drop, self.base_cost, self.built, self.objective = 0.1, 1.0, 0.0, "throughput"
        self.try_plan(Plan({}), "baseline", lossless=True)

    def changes(self, plan: Plan) -> list[Change]:
        return [
            Change(name, {choice: 1}, lossless)
            for name, (choice, _, _, lossless) in CHANGES.items()
            if plan.get_choice(choice) != 1
        ]

    def cost(self, plan: Any) -> float:
        gains = [gain for choice, gain, _, _ in CHANGES.values() if Plan(dict(plan)).get_choice(choice) == 1]
        cost = 1.0
        for gain in gains:
            cost /= gain
        return cost

    def late(self, seconds: float = 0.0) -> bool:
        return self.left - seconds <= 0

    def try_plan(self, plan: Plan, stage: str, *, lossless: bool = False, rows: int | None = None) -> Trial:
        n, known = ROWS if rows is None else rows, self.study.trials.get(plan.key)
        if known is not None and known.n >= n:
            return known  # type: ignore[no-any-return]
        self.left -= n * self.cost(plan)
        self.asked.append((stage, n))
        trial = Trial(
            plan.to_dict(), plan.key, stage, n=n, cost=self.cost(plan), drop=0.0, drop_low=0.0, lossless=lossless
        )
        self.study.trials[plan.key] = trial
        return trial

    def refused(self, plan: Plan) -> str:
        return "reads no such model" if plan.get_choice("forward.engine") == 3 else ""

    def to_open(self, plan: Plan) -> float:
        return 0.0

    def tick(self, done: float | None, said: str) -> None:
        self.told.append(said)

    def same_answers(self, trial: Trial) -> bool:
        return trial.lossless

    def odds(self, trial: Trial) -> float:
        chosen = [chance for choice, _, chance, _ in CHANGES.values() if Plan(trial.plan).get_choice(choice) == 1]
        return min(chosen, default=1.0)

    def good(self) -> list[Trial]:
        whole = [t for t in self.study.trials.values() if t.n == ROWS and self.odds(t) >= greedy.GOOD]
        return sorted(whole, key=lambda t: t.cost or 0.0)

    def pipe(self, trial: Trial) -> Any:
        return trial.plan


class _Part:
    values = list(range(ROWS))

    def __len__(self) -> int:
        return ROWS


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "measure", lambda plan, *_: SimpleNamespace(cost=Made(1e9).cost(plan)))


def whole(search: Made) -> list[str]:
    return [stage for stage, n in search.asked[1:] if n == ROWS]


def test_what_promises_much_gets_the_whole_split_at_once_and_the_rest_is_asked_on_top() -> None:
    search: Any = Made(1e9)
    greedy.Climb(search).go()
    assert whole(search)[:2] == ["one beam", "short sounds"]
    assert search.good()[0].plan.keys() == {
        "forward",
        "decode",
        "features",
    }  # without what loses too much or brings nothing
    assert "nothing" not in whole(search)


def test_with_little_time_a_large_gain_is_found_before_small_sure_ones() -> None:
    search: Any = Made(ROWS + 4 * len(CHANGES) + ROWS)  # the baseline, a look at each, and about one whole split
    greedy.Climb(search).go()
    assert search.good()[0].cost <= 1 / 5
    assert "together" not in whole(search)[:2]


def test_it_ends_where_nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANGES, "short sounds", ("features.margin", 0.5, 1.0, False))
    for name in ("together", "one beam", "worse answers"):
        monkeypatch.delitem(CHANGES, name)
    search: Any = Made(1e9)
    greedy.Climb(search).go()
    assert whole(search) == []


@pytest.mark.parametrize(("time", "keeps"), [(1e9, 1.0), (1e9, 0.0), (ROWS + 4 + 4 * 2 + 12, 1.0)])
def test_an_engine_gets_no_whole_split_of_its_own_where_a_change_on_top_is_kept(
    time: float, keeps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("together", "nothing", "worse answers", "short sounds"):
        monkeypatch.delitem(CHANGES, name)
    monkeypatch.setitem(CHANGES, "one beam", ("decode.beams", 3.0, keeps, False))
    monkeypatch.setitem(CHANGES, "engine", ("forward.engine", 1.5, 1.0, True))
    search: Any = Made(time)
    greedy.search_by_changes(search)
    found = search.good()[0].plan
    assert found["forward"] == {"engine": 1}
    assert ("decode" in found) == bool(keeps)
    back = ["without one beam"] if time > 1e6 else []  # a surer plan, where there is time for it
    assert whole(search) == (["one beam", *back] if keeps else ["one beam", "engine"])


def test_an_engine_is_settled_before_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHANGES:
        monkeypatch.setitem(CHANGES, name, (CHANGES[name][0], 1.01, 1.0, True))
    monkeypatch.setitem(CHANGES, "engine", ("forward.engine", 1.5, 1.0, True))
    search: Any = Made(
        ROWS + 4 + 1.2 * 1.2 * ROWS / 1.5 + 4
    )  # the baseline, a look at the engine, its whole split, one more look
    greedy.search_by_changes(search)
    assert search.good()[0].plan == {"forward": {"engine": 1}}


def test_surer_plans_than_the_best_are_there_for_the_certification(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nothing", "worse answers"):
        monkeypatch.delitem(CHANGES, name)
    search: Any = Made(1e9)
    greedy.Climb(search).go()
    found = {tuple(sorted(t.plan)): t for t in search.study.trials.values() if t.n == ROWS or t.lossless}
    assert ("decode", "features", "forward") in found  # the best of them
    assert found["forward",].lossless  # what changes no answer
    assert {("decode", "forward"), ("features", "forward")} <= set(found)  # and without one change each


ENGINES = {  # name -> (engine, precision), times as fast, chance to pass, lossless
    "quick fp32": ((1, "fp32"), 3.0, 1.0, True),
    "quick int8": ((1, "int8"), 6.0, 0.0, False),
    "slow bf16": ((2, "bf16"), 1.5, 0.8, False),
    "another": ((3, "fp32"), 9.0, 1.0, True),
}


class WithEngines(Made):
    """Engines in precisions, and decoding many together on top of any of them."""

    def changes(self, plan: Plan) -> list[Change]:
        found = [
            Change(name, {"forward.engine": engine, "forward.precision": precision}, lossless)
            for name, ((engine, precision), _, _, lossless) in ENGINES.items()
        ]
        together = [] if plan.get_choice("forward.streams") else [Change("together", {"forward.streams": 8}, True)]
        return [*found, *together]

    def _of(self, plan: Any) -> Any:
        now = tuple(Plan(dict(plan)).get_choice(f"forward.{name}") for name in ("engine", "precision"))
        return next((one for one in ENGINES.values() if one[0] == now), (None, 1.0, 1.0, True))

    def cost(self, plan: Any) -> float:
        together = 2.0 if Plan(dict(plan)).get_choice("forward.streams") else 1.0
        return 1.0 / (self._of(plan)[1] * together)

    def same_answers(self, trial: Trial) -> bool:
        return bool(self._of(trial.plan)[3])

    def odds(self, trial: Trial) -> float:
        return float(self._of(trial.plan)[2])


def made(time: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    search: Any = WithEngines(time)
    monkeypatch.setattr(greedy, "measure", lambda plan, *_: SimpleNamespace(cost=search.cost(plan)))
    greedy.search_by_changes(search)
    return search


@pytest.mark.parametrize("time", [1e9, ROWS + 45])
def test_the_fastest_engine_that_keeps_the_answers_is_carried_on(time: float, monkeypatch: pytest.MonkeyPatch) -> None:
    search = made(time, monkeypatch)
    kept = [t for t in search.study.trials.values() if t.lossless and search.same_answers(t)]
    best = min(kept, key=lambda trial: trial.cost or 9.9)
    assert best.plan == {"forward": {"engine": 1, "precision": "fp32", "streams": 8}}
    assert search.left > 0


def test_what_cannot_run_is_told_at_once_and_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    search = made(1e9, monkeypatch)
    assert search.told == ["not available here: another (reads no such model)"]
    assert not any(stage == "another" for stage, _ in search.asked)


def test_the_plan_set_by_hand_is_the_best_float_engine_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    search = made(1e9, monkeypatch)
    assert search.study.trials[search.notes["hand"]].plan["forward"]["precision"] == "fp32"
    assert ("by hand", 4) in search.asked


def test_where_no_lossy_engine_holds_it_goes_on_from_the_lossless_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the baseline, as it once did: many together on top of that were a third as fast."""
    search = WithEngines(1e9)
    climb = greedy.Climb(search, greedy.engines(search))  # type: ignore[arg-type]
    assert climb.best.plan["forward"]["precision"] == "int8"
    monkeypatch.setattr(search, "late", lambda seconds=0.0: seconds > 0)  # no time for any whole split
    climb.settle()
    assert climb.best.plan == {"forward": {"engine": 1, "precision": "fp32"}}
