"""One search over one search split: plans are tried, judged against the baseline, and put in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.environment import usable_cores
from llm_moments.base.errors import EngineError
from llm_moments.core import Outputs, Pipeline, Plan
from llm_moments.engines.base import STREAMS, engine_class, follows, put_on
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.evaluate.measure import measure
from llm_moments.improve.pass_probability import APART, chance, sequence
from llm_moments.improve.prefilter import alone
from llm_moments.improve.questions import guessed
from llm_moments.improve.study import Study, Trial

Tick = Callable[[float | None, str], None]

QUICK = 96  # most rows on which engines and lossless variants are timed before whole splits are
LOSSLESS = 1e-3  # most that a probability may move under a change that is called lossless
GAIN = 1.02  # times the baseline from which a plan is worth a certification: less is noise
BUILDING = 3  # times the baseline's opening, for a graph that was not built yet
GOOD = 0.6  # chance to pass the certification from which a plan is worth working on


class Search:
    """Every plan that is tried becomes a Trial of the study. What is tried is in `strategies/`."""

    def __init__(
        self, stock: Pipeline, part: Evaluation, study: Study, *, max_drop: float, n_certify: int,
        objective: str, deadline: float, tick: Tick,
    ):  # fmt: skip
        self.stock, self.part, self.study = stock, part, study
        self.max_drop, self.n_certify, self.objective = max_drop, n_certify, objective
        self.deadline, self.tick = deadline, tick
        self.started = time.monotonic()
        self.baseline: Outputs | None = None
        self.base_scores: np.ndarray = np.empty(0)
        self.base_cost: float | None = None
        self.quick_rows = QUICK
        self.built = 0.0  # seconds that the dearest graph so far took to build
        self.opening = 0.0  # seconds that the baseline took to open
        self.heal: Callable[[Pipeline, int, float, str], str] | None = None  # of improve.heal; gives a name of weights
        self.first: Callable[[Evaluation, Outputs, float], str] | None = None  # trains a model to put first
        self.asks = False  # whether what differs will be asked about: without labels, not all of it is harm then
        self._odds: dict[str, float] = {}

    # -- time

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def late(self, needed: float = 0.0) -> bool:
        """Whether there is less time left than `needed` seconds."""
        return self.left() < needed

    def _tell(self, stage: str, plan: Plan) -> None:
        total = max(self.deadline - self.started, 1e-9)
        done = min(max(1 - self.left() / total, 0.0), 1.0)
        self.tick(done, f"{stage}: {_short(self.stock.plan.changes(plan))}")

    def to_open(self, plan: Plan) -> float:
        """Seconds that the plan's engine may take to open; what is built already is not built again."""
        pipe = self.stock.with_(plan)
        settings = pipe.engine_settings
        builds = engine_class(settings.get("engine", "torch")).builds and pipe.engines.built(settings) is None
        return max(1.5 * self.built, BUILDING * self.opening) if builds else self.opening

    def refused(self, plan: Plan) -> str:
        """Why an engine of the plan cannot run it, as far as that is known before anything is loaded; else ''."""
        try:
            for part in self.stock.with_(plan).parts.values():
                part.engines.check(part.engine_settings)
        except EngineError as error:
            return str(error)
        return ""

    # -- one trial

    def try_plan(self, plan: Plan, stage: str, *, lossless: bool = False, rows: int | None = None) -> Trial:
        """The trial of a plan, measured now or found in the study. Never raises for a plan's own fault."""
        wanted = len(self.part) if rows is None else min(rows, len(self.part))
        known = self.study.trials.get(plan.key)
        if known is not None and (known.status != "ok" or known.n >= wanted):
            return known
        self._tell(stage, plan)
        part = self.part.take(range(wanted))
        try:
            measured = measure(self.stock.with_(plan), part.values, self.objective)
        except EngineError as error:
            return self.study.add(Trial(plan.to_dict(), plan.key, stage, "unavailable", str(error), lossless=lossless))
        self.built = max(self.built, measured.warm_seconds)
        return self.study.add(self._judged(plan, stage, part, measured, lossless), measured.outputs)

    def _judged(self, plan: Plan, stage: str, part: Evaluation, measured: Any, lossless: bool) -> Trial:
        n = len(part)
        base = measured.outputs if self.baseline is None else self.baseline[:n]
        before, after = part.scores(base, base), part.scores(measured.outputs, base)
        bound = part.drop(before, after)
        harmful, beneficial = stats.flips(before, after)
        gain = None if self.base_cost is None else self.base_cost / measured.cost
        return Trial(
            plan.to_dict(), plan.key, stage, n=n, seconds=measured.seconds, cost=measured.cost, gain=gain,
            score=float(after.mean()), drop=bound.estimate, drop_low=bound.low, drop_high=bound.high,
            harmful=harmful, beneficial=beneficial, lossless=lossless,
        )  # fmt: skip

    def pipe(self, trial: Trial) -> Pipeline:
        return self.stock.with_(Plan(trial.plan))

    def outputs(self, trial: Trial) -> Outputs:
        return self.study.outputs(trial.key)

    @property
    def known(self) -> Outputs:
        """The baseline's outputs on the search split."""
        assert self.baseline is not None, "nothing is judged before the baseline has answered"
        return self.baseline

    # -- what is known of the trials so far

    def whole(self) -> list[Trial]:
        """Trials that answered the whole search split, fastest first."""
        done = [t for t in self.study.trials.values() if t.status == "ok" and t.n == len(self.part) and t.cost]
        return sorted(done, key=lambda t: t.cost or 0.0)

    def odds(self, trial: Trial) -> float:
        """How likely the plan is to pass the certification, from its answers on the whole search split."""
        if trial.key not in self._odds:
            self._odds[trial.key] = self.odds_of(self.outputs(trial))
        return self._odds[trial.key]

    def odds_of(self, outputs: Outputs) -> float:
        return chance(self._drops(outputs), self.n_certify, self.max_drop)

    def drops(self, trial: Trial) -> np.ndarray:
        """float64 [n]: what each independent example of the search split loses under the plan."""
        return self._drops(self.outputs(trial))

    def differs(self, trial: Trial) -> np.ndarray:
        """bool [n]: where the plan answers otherwise than the baseline."""
        return self._differs(self.outputs(trial))

    def _differs(self, outputs: Outputs) -> np.ndarray:
        return ~np.asarray(self.stock.task.argmax_equal(outputs, self.known), bool)

    def _drops(self, outputs: Outputs) -> np.ndarray:
        if self.asks and not self.part.labelled:
            return guessed(self._differs(outputs))
        return self.part.drops(self.base_scores, self.part.scores(outputs, self.known))

    def good(self) -> list[Trial]:
        """Plans worth working on, fastest first."""
        return [t for t in self.whole() if self.odds(t) >= GOOD and not alone(t)]

    def same_answers(self, trial: Trial) -> bool:
        task = self.stock.task
        outputs = self.outputs(trial)
        base = self.known[: len(outputs)]
        return bool(task.close(outputs, base, LOSSLESS).all())

    def best_lossless(self) -> Trial | None:
        """The fastest of the plans that gave the baseline's answers; checked on what they answered."""
        trials = [t for t in self.study.trials.values() if t.lossless and t.status == "ok" and self.same_answers(t)]
        return min(trials, key=lambda t: t.cost or float("inf"), default=None)

    def candidates(self) -> list[Trial]:
        """Plans in the order of their certification: the lossless ones, then the front in chance to pass and cost."""
        keys = sequence((t.key, t.cost or 0.0, self.odds(t)) for t in self.whole() if self._gains(t))
        trials = [self.study.trials[key] for key in keys]
        safe = self.best_lossless()
        if safe is None or not self._gains(safe):
            return trials
        return [safe, *(t for t in trials if (t.cost or 0.0) < APART * (safe.cost or 0.0))]

    def _gains(self, trial: Trial) -> bool:
        faster = trial.gain is None or trial.gain > GAIN
        return faster and trial.plan != self.stock.plan.to_dict() and not alone(trial)

    # -- plans

    def plan_of(self, engine: str, precision: str, length: int, **more: Any) -> Plan:
        """The stock plan sorted and pre-cut, in that engine and precision, cut at that length (images: of that size)."""
        changes: dict[str, Any] = {
            **self.stock.task.sorts,
            **self.stock.task.ladder.before,
            **put_on(engine, precision),
        }
        if self.objective == "throughput" and follows(engine_class(engine), "streams", precision):
            changes["forward.streams"] = min(usable_cores(), STREAMS)
        if precision == "int8":
            changes["forward.calibration"] = self.study.notes.get("calibration")
        return self.stock.plan.with_(**{**changes, self.stock.task.ladder.knob: length, **more})

    def answer_as_stock(self) -> None:
        """The baseline's answers, from a sorted run of the same engine: the same numbers, sooner."""
        fast = self.stock.plan.with_(**self.stock.task.sorts)
        trial = self.try_plan(fast, "baseline, sorted", lossless=True)
        if trial.status != "ok":
            raise EngineError(f"the baseline cannot be run: {trial.reason}")
        self.judge_by(self.outputs(trial), trial.cost or 1.0)

    def judge_by(self, baseline: Outputs, cost: float) -> None:
        """The baseline's outputs on the search split, and seconds an example of the way they came about."""
        self.baseline = baseline
        self.base_scores = self.part.scores(baseline, baseline)
        self._odds.clear()
        if self.objective in ("throughput", "latency"):
            self.quick_rows = int(np.clip(0.015 * self.left() / cost, 16, QUICK))


def _short(changes: dict[str, Any]) -> str:
    hidden = ("batch.", "precut.", "forward.calibration")
    shown = {k.rpartition(".")[2]: v for k, v in changes.items() if not k.startswith(hidden)}
    return ", ".join(f"{k}={v}" for k, v in shown.items() if k != "cheap")[:90] or "sorted"
