"""One run of `improve`: the baseline's answers, search, certification, timing, artefact."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.assembly.load import load
from llm_moments.core import WINDOW, Outputs, Pipeline, Plan
from llm_moments.data.independent import input_key
from llm_moments.evaluate.measure import interleaved
from llm_moments.evaluate.stand_in import StandIn, sorted_
from llm_moments.improve import elsewhere, prefilter, strategies
from llm_moments.improve.asks import Asks
from llm_moments.improve.beginning import Beginning
from llm_moments.improve.certify import Certificate, Look, look, named
from llm_moments.improve.choices import weighed
from llm_moments.improve.finals import FEW_ROUNDS, HEATS, ROUNDS, Timed, heats, timed
from llm_moments.improve.heal import Healer
from llm_moments.improve.improvement import Improvement
from llm_moments.improve.ledger import Ledger
from llm_moments.improve.looks import sequential_look
from llm_moments.improve.noted import answers_of
from llm_moments.improve.pass_probability import thinned
from llm_moments.improve.place import STUDY, place, standing
from llm_moments.improve.questions import Questions
from llm_moments.improve.search import Search
from llm_moments.improve.study import Trial, Trials
from llm_moments.record.record import observe
from llm_moments.record.session import Session
from llm_moments.weigh.worth import Worths

LOOKS = 0.1  # of the budget, for holding candidates against the certification split
BACK = 3  # choices whose taking back costs about the baseline's time
REPORT = 0.1  # of the budget, for recording both plans and weighing the choices
LEAST = 0.2  # of the budget, for the search, whatever was spent before
RECORDED = 3.0  # seconds of the chosen plan that are recorded
TIMED = WINDOW  # examples that plans are timed on: as many as `run` holds at a time
RIVALS = 1.5  # times the fastest's time, by the search's timing: what is slower is not timed against it
FINAL = 3  # of the plans that passed, the last ones, which are timed in turn
Passed = tuple[Trial, Look]


class Run(Beginning):
    """One call of improve."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.taught: list[Any] | None = None  # inputs that a smaller model may learn from
        self.first: prefilter.First | None = None  # a model to put first
        self.asks: Asks | None = None  # where the certification rows have no labels and questions may be asked
        self.looks: list[Look] = [Look(**x) for x in self.study.notes.get("looks", [])]
        self.else_where: list[elsewhere.Elsewhere] = []
        self.nearly = ""

    def finish(self) -> Improvement:
        if min(len(part) for part in self.parts.values()) == 0:
            return self.kept_baseline(
                f"{sum(map(len, self.parts.values()))} examples are too few to split in three.", None
            )
        try:
            return self.searched()
        except KeyboardInterrupt:
            if self.folder is not None:
                self.kept_baseline("interrupted; the same command goes on where it was.", None)
            raise

    def searched(self) -> Improvement:
        by = self.stand_in()
        if why := self.affordable(by):
            return self.kept_baseline(why, None)
        search = self.search(by)
        self.answer_as_baseline(search, by)
        if not self.slow:  # a baseline that took longer than was thought must not leave the search without time
            search.deadline = max(search.deadline, time.monotonic() + LEAST * self.budget)
        self.calibrate()
        if self.taught is not None:
            search.heal = Healer(self.pipe, self.study, self.taught, self.folder and self.folder / STUDY, self.tick)
        search.first = self.first
        passed = self.certified(search)
        if self.asks is not None and self.asks.waiting and not passed:
            return self.waits(self.asks)
        self.expected(search)
        if passed:
            return self.result(search, passed)
        return self.kept_baseline(self.why_none(), self.looks[-1] if self.looks else None)

    def why_none(self) -> str:
        if self.looks:
            last = self.looks[-1]
            return f"the surest plan's drop could be up to {last.drop_high:.4f}, over {self.max_drop:g}."
        if sum(t.status == "ok" for t in self.study.trials.values()) < 2:
            spent = time.monotonic() - self.begin
            return (
                f"the baseline's own answers took so long ({spent:,.0f}s) that no time was left for another plan; about "
                f"{np.ceil(max(2 * self.budget, 4 * spent) / 60):.0f}m would do (--budget)."
            )
        return "no plan that is faster was expected to keep the answers."

    def search(self, by: StandIn) -> Search:
        """Its deadline leaves time for the certification, the interleaved timing and the report."""
        reserve = min(LOOKS * self.budget + self.timing() + REPORT * self.budget, 0.6 * self.budget)
        if self.slow:
            reserve = min(len(self.parts["certify"]) * by.cost + reserve, 0.6 * self.budget)
        search = Search(
            self.pipe, self.parts["search"], self.study, max_drop=self.max_drop, n_certify=self.parts["certify"].independent,
            objective=self.objective, deadline=self.begin + self.budget - reserve, tick=self.tick,
        )  # fmt: skip
        search.asks, search.opening = self.asks is not None, self.opening
        if self.objective == "throughput":
            search.base_cost = self.study.notes["stock_cost"]["stock"]
        else:
            some, costs = self.parts["search"].values, {"stock": self.study.notes["stock_cost"]["stock"]}
            search.base_cost = interleaved({"stock": self.pipe}, some, self.objective, costs=costs, rounds=1)["stock"][
                0
            ]
        return search

    def healing(self) -> Any:
        if self.taught is None:
            return None
        return self.study.notes.get("heal", "not healed: the budget was used up before")

    def certified(self, search: Search) -> list[Passed]:
        """The candidates that pass, in an order fixed before the first look; each look is noted before its result is
        used, and nothing after the first failure is looked at."""
        if "sequence" not in self.study.notes:
            keys = self.in_time(strategies.run(search))
            if self.asks is not None:
                keys = self.asks.within(search, keys, len(self.parts["certify"]))
            self.study.note("sequence", keys)
        if self.asks is not None:
            return self.by_answers(search, self.asks)
        passed = []
        for at, key in enumerate(self.study.notes["sequence"]):
            trial = self.study.trials[key]
            if at == len(self.looks):
                found, outputs = self.looked(search.pipe(trial), at)
                self.looks.append(found)
                self.ledger().note(self.looks)
                self.study.look(found, trial.plan, outputs)
            if not self.looks[at].passed:
                break
            passed.append((trial, self.looks[at]))
        return passed

    def by_answers(self, search: Search, asks: Asks) -> list[Passed]:
        """The candidates that pass by the questions that were answered; the others may pass once more are."""
        part, keys = self.parts["certify"], self.study.notes["sequence"]
        before = self.answers("certify", StandIn(**self.study.notes["stand_in"]))
        outputs = {key: self.held_out(search.pipe(self.study.trials[key])) for key in keys}
        asked = Questions(self.pipe, part.values, before, outputs, asks.most)
        self.looks = asks.judged(part, asked, self.max_drop)
        self.ledger().note(self.looks)
        return [(self.study.trials[one.key], one) for one in self.looks if one.passed]

    def held_out(self, pipe: Pipeline) -> Outputs:
        """A candidate's outputs on the certification rows, kept in the study: answering questions may take days."""
        key, part = answers_of(pipe.plan.key), self.parts["certify"]
        if key not in self.study.trials:
            self.tick(None, f"a candidate's answers to {len(part):,} examples")
            known = self.told.get(("certify", pipe.plan.key))
            self.study.add(
                Trial(pipe.plan.to_dict(), key, "certify", "held out", n=len(part)),
                pipe.outputs(part.values) if known is None else known,
            )
        return self.study.outputs(key)

    def waits(self, asks: Asks) -> Improvement:
        """Nothing is decided before the questions are answered; the study is kept, and the artefact that was there."""
        why = f"{asks.waiting} questions wait for answers in {asks.file}."
        trials = Trials(t for t in self.study.trials.values() if t.status != "held out")
        certificate = self.certificate(False, why, None, plan=self.pipe.plan)
        spent = time.monotonic() - self.begin
        return Improvement(
            self.pipe, certificate, trials, spent, self.folder, waiting=asks.waiting, questions=asks.file
        )

    def looked(self, pipe: Pipeline, at: int) -> tuple[Look, Outputs]:
        """One candidate held against the split; of a model that answers slowly, in thirds."""
        part, key = self.parts["certify"], pipe.plan.key
        said = f"certifying on {len(part):,} examples: candidate {at + 1}"
        if self.slow:
            own = pipe.plan == sorted_(self.pipe).plan
            answer = None if own else lambda rows: pipe.outputs([part.values[i] for i in rows])
            found = sequential_look(
                part, self.base_rows, answer, key, self.max_drop,
                told=lambda seen, of: self.tick(None, f"{said}, {seen:,} of them"),
            )  # fmt: skip
            return found.look, found.outputs
        self.tick(None, said)
        outputs = self.told.get(("certify", key))
        outputs = pipe.outputs(part.values) if outputs is None else outputs
        before = self.answers("certify", StandIn(**self.study.notes["stand_in"]))
        return look(part, before, outputs, key, self.max_drop), outputs

    def in_time(self, candidates: list[Trial]) -> list[str]:
        """The candidates that there is time to look at: all, or some of them spread over the whole order."""
        n = len(self.parts["certify"])
        # Without its looks a search is worth nothing: they may take more than was kept for them.
        left = max(self.left() - self.timing() - REPORT * self.budget, LOOKS * self.budget)
        cost = [0.0 if ("certify", t.key) in self.told else (t.seconds or 0.0) / max(t.n, 1) * n for t in candidates]
        return [candidates[at].key for at in thinned(cost, left)]

    def expected(self, search: Search) -> None:
        """What else could be had, on the scale of the search's own timing until the plans are timed in turn."""
        said, have = elsewhere.command(self.pipe.model.name, self.source), len(self.parts["certify"])
        found = [
            (t.plan, t.gain or 0.0, search.drops(t))
            for t in search.whole()
            if t.gain and t.gain > 1 and not prefilter.alone(t)
        ]
        self.else_where = elsewhere.elsewhere(found, have, {*elsewhere.BUDGETS, self.max_drop}, said)
        if self.looks and not self.looks[-1].passed:
            failed = self.study.trials[self.looks[-1].key]
            self.nearly = elsewhere.nearly(self.looks[-1], failed.gain or 0.0, self.max_drop, have, said)

    def ledger(self) -> Ledger:
        """What has been looked at before of these certification examples, whatever the folder."""
        part = self.parts["certify"]
        rows = (input_key(value) for value in part.values)
        return Ledger(self.pipe.model.digest, rows, max_drop=self.max_drop, metric=part.metric)

    def result(self, search: Search, passed: list[Passed]) -> Improvement:
        """The fastest, as timed in turn, of those that passed and are certainly faster than the baseline."""
        rest, slowest = passed[::-1], 0.0
        while rest:
            near = RIVALS * (rest[0][0].cost or 0.0)
            some = [one for one in rest[:FINAL] if (one[0].cost or 0.0) <= near]
            rest = rest[len(some) :]
            for trial, seen in self.in_turn(search, some):
                plans = self.contenders(search, trial)
                found = self.timed(search, plans, trial)
                if found.speed.low > 1:
                    return self.given(search, plans["chosen"], trial, seen, found)
                slowest = max(slowest, found.speed.estimate)
        why = f"none of the {len(passed)} plans that keep the answers is certainly faster: {slowest:.2f} times at best."
        return self.kept_baseline(why, passed[-1][1])

    def in_turn(self, search: Search, some: list[Passed]) -> list[Passed]:
        self.tick(None, f"timing the {len(some)} fastest that passed, in turn")
        plans = {trial.key: search.pipe(trial) for trial, _ in some}
        costs = {trial.key: trial.cost or 1.0 for trial, _ in some}
        seconds = min(max(0.25 * (self.left() - self.timing() - REPORT * self.budget), 5.0), 30.0)
        if self.slow and self.left() < self.timing() + HEATS * sum(costs.values()) * self.pipe.task.sizes.block:
            return some  # as the search has timed them
        order = heats(plans, self.parts["certify"].values[:TIMED], self.objective, costs, seconds)
        return [next(one for one in some if one[0].key == key) for key in order]

    def contenders(self, search: Search, trial: Trial) -> dict[str, Pipeline]:
        trials = {"chosen": trial}
        if (safe := search.best_lossless()) is not None:
            trials["lossless"] = safe
        if "hand" in self.study.notes:
            trials["hand"] = self.study.trials[self.study.notes["hand"]]
        return {"baseline": self.pipe} | {name: search.pipe(one) for name, one in trials.items()}

    def timed(self, search: Search, plans: dict[str, Pipeline], trial: Trial) -> Timed:
        known = self.study.trials
        costs = {name: known[p.plan.key].cost or 1.0 for name, p in plans.items() if name != "baseline"}
        costs["baseline"] = search.base_cost or 1.0
        rounds = ROUNDS if not self.slow or self.left() > self.timing() else FEW_ROUNDS
        found = timed(
            plans, self.parts["certify"].values[:TIMED], self.objective, costs,
            min(max(self.left() - REPORT * self.budget, 10.0), max(2 * self.timing(), 20.0)),
            lambda done: self.tick(None, f"timing baseline and improved, in turn: {done:.0%}"), rounds,
        )  # fmt: skip
        return found

    def given(self, search: Search, chosen: Pipeline, trial: Trial, seen: Look, found: Timed) -> Improvement:
        self.rescale(trial, found.speed.estimate)
        self.expected(search)
        certificate = self.certificate(
            True, "", seen, speedup=found.speed.estimate, speedup_low=found.speed.low, lossless_speedup=found.lossless,
            hand_speedup=found.hand, plan=Plan(trial.plan),
        )  # fmt: skip
        if self.slow and self.left() < 2 * self.pipe.task.sizes.block * found.baseline:
            return self.kept(chosen, certificate)  # what is certified is kept within its time; `record` tells the rest
        self.tick(None, "recording where the time goes")
        pace, values = self.pipe.task.sizes, self.parts["certify"].values[:TIMED]
        rows = max(int(RECORDED * found.speed.estimate / found.baseline), pace.block)
        sessions = observe(self.pipe, values[: pace.block]), observe(chosen, values[: min(rows, pace.window)])
        return self.kept(chosen, certificate, sessions, self.choices(search, chosen))

    def rescale(self, chosen: Trial, speed: float) -> None:
        """All gains on the scale of the timing in turn: the search's own figure of the baseline was a first one."""
        for trial in list(self.study.trials.values()):
            if trial.gain is not None and trial.cost and chosen.cost:
                gain = speed * chosen.cost / trial.cost
                if abs(gain - trial.gain) > 1e-3 * gain:
                    self.study.add(replace(trial, gain=gain))

    def choices(self, search: Search, chosen: Pipeline) -> Worths | None:
        """What each choice brings in throughput; other objectives are not weighed choice by choice."""
        if self.objective != "throughput":
            return None
        self.tick(None, "weighing each choice of the plan")
        part = self.parts["search"]
        seconds = max(self.left(), 0.5 * REPORT * self.budget)
        rows = int(seconds / (BACK * (search.base_cost or 1.0)))
        few = part.take(range(min(search.quick_rows, len(part), max(rows, 1))))
        return weighed(self.pipe, chosen, few, self.max_drop, seconds)

    def kept_baseline(self, why: str, seen: Look | None) -> Improvement:
        return self.kept(self.pipe, self.certificate(False, why, seen, plan=self.pipe.plan))

    def certificate(self, certified: bool, reason: str, seen: Look | None, **more: Any) -> Certificate:
        from llm_moments.base.environment import fingerprint

        part = self.parts["certify"]
        failed = not certified and bool(self.looks) and not self.looks[-1].passed
        last = self.looks[-1] if failed else seen  # what ended the sequence says how many rows would be enough
        needs = last.needs if last else stats.needed_examples(self.max_drop, 0.0, 0.0)
        if last is None or (needs is not None and needs <= part.independent and not certified):
            needs = needs if needs and needs > part.independent else None
        speed = {k: more.get(k) for k in ("speedup", "speedup_low", "lossless_speedup", "hand_speedup")}
        by = StandIn(**self.study.notes.get("stand_in", {}))
        metric, labelled = part.metric, part.labelled
        if self.asks is not None:
            metric, labelled = self.pipe.task.metric(), True
        asked = self.study.notes.get("asked", {}).get("certify", 0)
        return Certificate(
            certified=certified, reason=reason, metric=metric, max_drop=self.max_drop, confidence=0.95,
            drop=seen.drop if seen else None, drop_high=seen.drop_high if seen else None, baseline_score=seen.baseline_score if seen else None,
            score=seen.score if seen else None, n_certify=len(part), harmful=seen.harmful if seen else 0,
            beneficial=seen.beneficial if seen else 0, objective=self.objective, looks=len(self.looks),
            labelled=labelled, needs=needs, plan=more["plan"].to_dict(), baseline_plan=self.pipe.plan.to_dict(),
            model=self.pipe.model.name, model_digest=self.pipe.model.digest, data=self.source,
            environment=fingerprint(), created=datetime.now(UTC).isoformat(timespec="seconds"),
            assumes=" ".join(filter(None, (seen.assumes, self.ledger().words(self.looks)))) if seen else "", baseline=named(self.pipe), answers=by.words(asked, len(part)),
            asked=self.asks.words if self.asks is not None else "",
            independent=part.independent, counted=part.told if part.independent < len(part) else "",
            busy=self.watch.words(), **speed,
        )  # fmt: skip

    def kept(
        self, pipe: Pipeline, certificate: Certificate, sessions: tuple[Session | None, Session | None] = (None, None),
        worths: Worths | None = None,
    ) -> Improvement:  # fmt: skip
        """Saves the result, unless a certified one that is as good lies there: noise, Ctrl-C or a short budget in a second
        run must not lose it."""
        trials = Trials(t for t in self.study.trials.values() if t.status != "held out")
        done = Improvement(
            pipe, certificate, trials, time.monotonic() - self.begin, self.folder, *sessions, worths, self.healing(),
            [one.to_dict() for one in self.else_where], self.nearly, waiting=self.asks.waiting if self.asks else 0,
            questions=self.asks.file if self.asks else None, first=prefilter.words(self.study.notes.get("first"), self.max_drop),
        )  # fmt: skip
        if self.folder is None:
            return done
        before = standing(self.folder)
        if before is not None and not (
            certificate.certified and (certificate.speedup_low or 0) >= (before.speedup_low or 0)
        ):
            why = (
                certificate.reason
                or f"timed again, it was {certificate.speedup:.1f} times at least {certificate.speedup_low:.1f}."
            )
            return replace(
                done,
                pipeline=load(self.folder),
                certificate=before,
                stands=f"The certificate that was there stays ({why})",
            )
        self.tick(None, f"saving {self.folder}")
        place(done, self.folder, slim=self.objective == "size")
        return done
