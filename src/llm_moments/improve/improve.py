"""`improve`: which cheaper plan keeps the answers? One artefact with a certificate, or the baseline."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.budget import seconds
from llm_moments.core import WINDOW, Pipeline, Plan
from llm_moments.errors import InputError
from llm_moments.evaluation import PARTS, Evaluation, gather, split
from llm_moments.improve import baseline, elsewhere, stages
from llm_moments.improve import first as put_first
from llm_moments.improve.baseline import StandIn
from llm_moments.improve.certify import Certificate, Look, look, named
from llm_moments.improve.choices import weighed
from llm_moments.improve.finals import ROUNDS, Timed, heats, timed
from llm_moments.improve.heal import Healer, without
from llm_moments.improve.improvement import Improvement
from llm_moments.improve.ledger import Ledger
from llm_moments.improve.looks import sequential_look
from llm_moments.improve.odds import thinned
from llm_moments.improve.place import STUDY, make_way, place, standing
from llm_moments.improve.search import Search
from llm_moments.improve.study import Study, Trial, Trials
from llm_moments.independent import input_key
from llm_moments.measure import FEWEST, OBJECTIVES, SHORTEST, blocks, interleaved, run_seconds
from llm_moments.model import load
from llm_moments.record.record import observe
from llm_moments.record.session import Session
from llm_moments.weigh.worth import Worths

Tick = Callable[[float | None, str], None]

SHARE = 0.3  # of the budget, for the baseline's answers
LOOKS = 0.1  # of the budget, for holding candidates against the certification split
REPORT = 0.1  # of the budget, for recording both plans and weighing the choices
TIMED = WINDOW  # examples that plans are timed on: as many as `run` holds at a time
WORTH = 0.04  # of the budget: a baseline that answers all rows in less needs nothing in its place
FINAL = 3  # of the plans that passed, the last ones, which are timed in turn
Passed = tuple[Trial, Look]


def improve(
    model: Any,
    data: Any,
    *,
    max_drop: float = 0.01,
    objective: str = "throughput",
    budget: float | str = "10m",
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Tick | None = None,
    device: str = "auto",
    heal: Any = False,
    first: str | None = None,
    **read: Any,
) -> Improvement:
    """Searches plans of a pipeline, model folder or artefact on the user's examples and certifies one.

    heal: also teach models of a third or half of the layers to answer as the baseline does, on a part of the examples, or,
    where heal is itself data (a path or examples, without labels if you like), on those.

    first: "linear" for a linear model of words, trained on the same part of the examples and offered to the search as
    the cheap stage of a cascade.

    max_drop: most that the mean score may drop (1 = all). budget: seconds, or "90s", "10m", "1h".
    out: folder for the artefact; the study in it is gone on with by the same call after an interruption.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"unknown objective {objective!r}; known are {', '.join(OBJECTIVES)}")
    if not 0 < max_drop < 1:
        raise InputError(f"max_drop is a share between 0 and 1, such as 0.01, not {max_drop!r}")
    pipe = load(model, device=device).settled()
    if heal is not False and not getattr(pipe.task, "heals", False):
        raise InputError(f"healing is for classifiers of texts and images that have layers, not for {pipe.task.name}")
    if first is not None:
        put_first.check(first, pipe)
    examples, source = gather(data, judge=pipe, **read)
    tick = progress or (lambda done, message: None)
    question = _question(pipe, examples, max_drop, objective)
    if heal is not False:
        question["heal"] = "a part of the data" if heal is True else str(getattr(heal, "path", heal))[:200]
    if first is not None:
        question["first"] = first
    folder = Path(out) if out is not None else None
    if folder is not None:
        make_way(folder, overwrite)
    study = Study(folder / STUDY if folder else None, question)
    parts = split(pipe, examples, heal=heal is True or first is not None)
    apart = parts.pop("heal", None)
    run = _Run(pipe, parts, study, max_drop, objective, seconds(budget), tick, source, folder)
    if heal is not False:
        taught = (
            apart.values
            if heal is True and apart is not None
            else [pipe.task.normalise(e.input) for e in gather(heal)[0]]
        )
        run.taught = without(taught, [*parts["search"].values, *parts["certify"].values])
    if first is not None:
        run.apart = apart
    return run.finish()


def _question(pipe: Pipeline, examples: Any, max_drop: float, objective: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.input, example.reference], default=str).encode("utf-8", "surrogatepass"))
    return {
        "model": pipe.model.digest, "plan": pipe.plan.key, "data": digest.hexdigest()[:32], "n": len(examples),
        "max_drop": max_drop, "objective": objective,
    }  # fmt: skip


class _Run:
    """One call of improve: the baseline's answers, search, certification, timing, artefact."""

    def __init__(
        self, pipe: Pipeline, parts: dict[str, Evaluation], study: Study, max_drop: float, objective: str,
        budget: float, tick: Tick, source: str, folder: Path | None,
    ):  # fmt: skip
        self.begin = time.monotonic()
        self.pipe, self.study, self.tick, self.source, self.folder = pipe, study, tick, source, folder
        self.max_drop, self.objective, self.budget = max_drop, objective, budget
        self.parts = parts
        self.slow = hasattr(pipe.task, "tries")  # an answer takes seconds
        self.taught: list[Any] | None = None  # inputs that a smaller model may learn from
        self.apart: Evaluation | None = None  # examples that a model to put first may learn from
        self.looks: list[Look] = [Look(**x) for x in study.notes.get("looks", [])]
        self.told: dict[
            tuple[str, str], np.ndarray
        ] = {}  # outputs on a split that are known already, by the plan's key
        self.else_where: list[elsewhere.Elsewhere] = []
        self.nearly = ""

    def left(self) -> float:
        return self.begin + self.budget - time.monotonic()

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
        self.calibrate()
        if self.taught is not None:
            search.heal = Healer(self.pipe, self.study, self.taught, self.folder and self.folder / STUDY, self.tick)
        if self.apart is not None:
            judged = [self.parts[name] for name in ("search", "certify")]
            search.first = put_first.First(
                self.pipe, self.study, self.apart, judged, self.folder and self.folder / STUDY, self.tick
            )
        passed = self.certified(search)
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

    # -- the baseline, and how much the time allows

    def stand_in(self) -> StandIn:
        """Times the baseline, warm, and finds what may answer in its place: a first figure, on few rows. The claim is
        timed anew, in turn."""
        if "stand_in" not in self.study.notes:
            self.tick(0.0, "timing the baseline")
            values, block = self.parts["search"].values, self.pipe.task.pace.block
            turns = blocks(values, block, 3, block)
            self.pipe.outputs(turns[0][: min(4, block // 4) if self.slow else block])
            costs = [run_seconds(self.pipe, some) / len(some) for some in turns[1:]]
            cost = {"stock": float(np.mean(costs)), "sorted": self.sorted_cost(float(np.mean(costs)))}
            self.study.note("stock_cost", cost)
            self.study.note("stand_in", baseline.noted(self.in_its_place(cost["sorted"])))
        return StandIn(**self.study.notes["stand_in"])

    def sorted_cost(self, stock: float) -> float:
        """Seconds an example where rows of like length go together."""
        if self.slow and self.pipe.plan.settings("forward").get("streams", 1) == 1:
            return stock  # one a call: there is nothing to sort
        block = self.pipe.task.pace.block
        some = blocks(self.parts["search"].values, 2 * block, 1, block)[0]
        return run_seconds(baseline.sorted_(self.pipe), some) / len(some)

    def in_its_place(self, cost: float) -> StandIn:
        pace = self.pipe.task.pace
        rows = sum(min(len(self.parts[name]), pace.most[name]) for name in ("search", "certify"))
        if self.slow or rows * cost < WORTH * self.budget:
            return StandIn(cost=cost)
        self.tick(0.0, "holding graph engines against the baseline")
        held = self.parts["calibrate"].values
        every = max(len(held) // baseline.HELD, 1)
        return baseline.stand_in(self.pipe, sorted(held, key=lambda v: len(str(v)))[::every][: baseline.HELD], cost)

    def affordable(self, by: StandIn) -> str:
        """Takes as many rows of each split as the budget allows: the baseline's answers to them all may
        take `SHARE` of it. The reason, if that is too few."""
        rows, cost = self.study.notes.get("rows"), by.cost
        if rows is None:
            pace = self.pipe.task.pace
            total = sum(min(len(self.parts[name]), pace.most[name]) for name in ("search", "certify"))
            share = min(SHARE * self.budget / cost / total, 1.0)
            rows = {name: min(len(part), pace.most[name]) for name, part in self.parts.items()}
            for name in ("search", "certify"):
                rows[name] = max(int(rows[name] * share), min(pace.few[name], rows[name]))
            if why := self.hopeless(rows, cost):
                return why
            need = sum(rows[name] for name in ("search", "certify")) * cost
            timing = FEWEST * pace.block * cost if self.slow else 0.0
            if need + timing > (0.6 if timing else 0.8) * self.budget:
                return (
                    f"the baseline answers {1 / cost:.1f} examples a second, so that a budget of {self.budget:.0f}s is "
                    f"too short for {rows['search']} to search with and {rows['certify']} to certify on; about "
                    f"{need / SHARE / 60:.0f}m would do (--budget)."
                )
            self.study.note("rows", rows)
        self.parts = {name: part.few(rows[name]) for name, part in self.parts.items()}
        return ""

    def hopeless(self, rows: dict[str, int], cost: float) -> str:
        """The reason, if not even the baseline's own answers could be certified on so few examples: said at once where
        answers take seconds each."""
        n, task = rows["certify"], self.pipe.task
        if not self.slow or getattr(task, "bounds", lambda model: None)(self.pipe.model) != (0.0, 1.0):
            return ""
        few = self.parts["certify"].few(n)
        least = few.drop(np.ones(n), np.ones(n)).high
        if least < self.max_drop:
            return ""
        needs = stats.needed_examples(self.max_drop, 0.0, 0.0) or 0
        minutes = (needs + rows["search"]) * cost / SHARE / 60
        return (
            f"{few.independent} independent examples to certify on cannot prove a drop below {self.max_drop:g}, even of a plan that changes no answer: "
            f"they would show that it is below {least:.2g}. Take --max-drop {np.ceil(100 * least + 1) / 100:g}, or "
            f"{np.ceil(needs / PARTS['certify']):,.0f} examples in all and a budget of about {np.ceil(minutes):.0f}m (--budget)."
        )

    def search(self, by: StandIn) -> Search:
        """Its deadline leaves time for the certification, the interleaved timing and the report."""
        reserve = min(LOOKS * self.budget + self.timing() + REPORT * self.budget, 0.6 * self.budget)
        if self.slow:
            reserve = min(len(self.parts["certify"]) * by.cost + reserve, 0.6 * self.budget)
        search = Search(
            self.pipe, self.parts["search"], self.study, max_drop=self.max_drop, n_certify=self.parts["certify"].independent,
            objective=self.objective, deadline=self.begin + self.budget - reserve, tick=self.tick,
        )  # fmt: skip
        if self.objective == "throughput":
            search.base_cost = self.study.notes["stock_cost"]["stock"]
        else:
            some, costs = self.parts["search"].values, {"stock": self.study.notes["stock_cost"]["stock"]}
            search.base_cost = interleaved({"stock": self.pipe}, some, self.objective, costs=costs, rounds=1)["stock"][
                0
            ]
        return search

    def timing(self) -> float:
        """Seconds that the timing in turn takes, about."""
        return ROUNDS * (self.pipe.task.pace.block * self.study.notes["stock_cost"]["stock"] + 4 * SHORTEST)

    def answer_as_baseline(self, search: Search, by: StandIn) -> None:
        """The baseline's answers to both splits, before any lossy plan is searched: the time for them is never missing."""
        if not by.engine:
            search.answer_as_stock()
        else:
            fast = search.try_plan(baseline.on(self.pipe, by.engine).plan, "lossless", lossless=True)
            search.judge_by(self.answers("search", by, search.outputs(fast)), by.cost)
        if not self.slow:
            self.answers("certify", by)

    def answers(self, name: str, by: StandIn, told: np.ndarray | None = None) -> np.ndarray:
        """The baseline's outputs on a split, kept in the study. told: the stand-in's, where they are known."""
        key, part = name, self.parts[name]
        if key in self.study.trials:
            return self.study.outputs(key)
        self.tick(None, f"the baseline's answers to {len(part):,} examples")
        if by.engine:
            graph = baseline.on(self.pipe, by.engine)
            told = graph.outputs(part.values) if told is None else told
            self.told[name, graph.plan.key] = told
            outputs, asked = baseline.settled(self.pipe, by, told, part.values)
            self.study.note("asked", {**self.study.notes.get("asked", {}), name: asked})
        else:
            outputs = baseline.sorted_(self.pipe).outputs(part.values)
        self.study.add(Trial({}, key, "baseline", "held out"), outputs)
        return outputs

    def calibrate(self) -> None:
        """Arrays that int8 engines are calibrated with: one row at a time, so that no padding counts."""
        changes = self.pipe.task.calibrating(self.pipe.model) if hasattr(self.pipe.task, "calibrating") else None
        if changes is None:
            return  # nothing that would be calibrated
        values = self.parts["calibrate"].values
        self.pipe.engines.calibration = self.pipe.with_(**changes).arrays(values)
        said = json.dumps([changes, *values], default=str)
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.study.note("calibration", digest)

    def healing(self) -> Any:
        if self.taught is None:
            return None
        return self.study.notes.get("heal", "not healed: the budget was used up before")

    # -- certification

    def certified(self, search: Search) -> list[Passed]:
        """The candidates that pass, in an order fixed before the first look; each look is noted before its result is
        used, and nothing after the first failure is looked at."""
        if "sequence" not in self.study.notes:
            self.study.note("sequence", self.in_time(stages.run(search)))
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

    def looked(self, pipe: Pipeline, at: int) -> tuple[Look, np.ndarray]:
        """One candidate held against the split; of a model that answers slowly, in thirds."""
        part, key = self.parts["certify"], pipe.plan.key
        said = f"certifying on {len(part):,} examples: candidate {at + 1}"
        if self.slow:
            found = sequential_look(
                part, self.base_rows, lambda rows: pipe.outputs([part.values[i] for i in rows]), key, self.max_drop,
                told=lambda seen, of: self.tick(None, f"{said}, {seen:,} of them"),
            )  # fmt: skip
            return found.look, found.outputs
        self.tick(None, said)
        outputs = self.told.get(("certify", key))
        outputs = pipe.outputs(part.values) if outputs is None else outputs
        before = self.answers("certify", StandIn(**self.study.notes["stand_in"]))
        return look(part, before, outputs, key, self.max_drop), outputs

    def base_rows(self, rows: list[int], at: int) -> np.ndarray:
        """The baseline's outputs for the rows of one look at the certification split: no more of them than it takes."""
        key, part = f"certify+{at}" if at else "certify", self.parts["certify"]
        if key not in self.study.trials:
            outputs = baseline.sorted_(self.pipe).outputs([part.values[i] for i in rows])
            self.study.add(Trial({}, key, "baseline", "held out"), outputs)
        return self.study.outputs(key)

    def in_time(self, candidates: list[Trial]) -> list[str]:
        """The candidates that there is time to look at: all, or some of them spread over the whole order."""
        n = len(self.parts["certify"])
        left = max(self.left() - self.timing() - REPORT * self.budget, LOOKS * self.budget)
        cost = [(t.seconds or 0.0) / max(t.n, 1) * n for t in candidates]
        return [candidates[at].key for at in thinned(cost, left)]

    def expected(self, search: Search) -> None:
        """What else could be had, on the scale of the search's own timing until the plans are timed in turn."""
        said, have = elsewhere.command(self.pipe.model.name, self.source), len(self.parts["certify"])
        found = [(t.plan, t.gain or 0.0, search.drops(t)) for t in search.whole() if t.gain and t.gain > 1]
        self.else_where = elsewhere.elsewhere(found, have, {*elsewhere.BUDGETS, self.max_drop}, said)
        if self.looks and not self.looks[-1].passed:
            failed = self.study.trials[self.looks[-1].key]
            self.nearly = elsewhere.nearly(self.looks[-1], failed.gain or 0.0, self.max_drop, have, said)

    def ledger(self) -> Ledger:
        """What has been looked at before of these certification examples, whatever the folder."""
        part = self.parts["certify"]
        rows = (input_key(value) for value in part.values)
        return Ledger(self.pipe.model.digest, rows, max_drop=self.max_drop, metric=part.metric)

    # -- results

    def result(self, search: Search, passed: list[Passed]) -> Improvement:
        """The fastest, as timed in turn, of those that passed and are certainly faster than the baseline."""
        rest, slowest = passed[::-1], 0.0
        while rest:
            some, rest = rest[:FINAL], rest[FINAL:]
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
        seconds = min(max(0.25 * (self.left() - REPORT * self.budget), 5.0), 30.0)
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
        found = timed(
            plans, self.parts["certify"].values[:TIMED], self.objective, costs,
            max(0.8 * (self.left() - REPORT * self.budget), 10.0),
            lambda done: self.tick(None, f"timing baseline and improved, in turn: {done:.0%}"),
        )  # fmt: skip
        return found

    def given(self, search: Search, chosen: Pipeline, trial: Trial, seen: Look, found: Timed) -> Improvement:
        self.rescale(trial, found.speed.estimate)
        self.expected(search)
        certificate = self.certificate(
            True, "", seen, speedup=found.speed.estimate, speedup_low=found.speed.low, lossless_speedup=found.lossless,
            hand_speedup=found.hand, plan=Plan(trial.plan),
        )  # fmt: skip
        self.tick(None, "recording where the time goes")
        pace, values = self.pipe.task.pace, self.parts["certify"].values[:TIMED]
        sessions = observe(self.pipe, values[: pace.block]), observe(chosen, values[: pace.window])
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
        return weighed(self.pipe, chosen, part.take(range(min(search.quick_rows, len(part)))), self.max_drop)

    def kept_baseline(self, why: str, seen: Look | None) -> Improvement:
        return self.kept(self.pipe, self.certificate(False, why, seen, plan=self.pipe.plan))

    def certificate(self, certified: bool, reason: str, seen: Look | None, **more: Any) -> Certificate:
        from llm_moments.environment import fingerprint

        part = self.parts["certify"]
        needs = seen.needs if seen else stats.needed_examples(self.max_drop, 0.0, 0.0)
        if seen is None or (needs is not None and needs <= part.independent and not certified):
            needs = needs if needs and needs > part.independent else None
        speed = {k: more.get(k) for k in ("speedup", "speedup_low", "lossless_speedup", "hand_speedup")}
        by = StandIn(**self.study.notes.get("stand_in", {}))
        asked = self.study.notes.get("asked", {}).get("certify", 0)
        return Certificate(
            certified=certified, reason=reason, metric=part.metric, max_drop=self.max_drop, confidence=0.95,
            drop=seen.drop if seen else None, drop_high=seen.drop_high if seen else None, baseline_score=seen.baseline_score if seen else None,
            score=seen.score if seen else None, n_certify=len(part), harmful=seen.harmful if seen else 0,
            beneficial=seen.beneficial if seen else 0, objective=self.objective, looks=len(self.looks),
            labelled=part.labelled, needs=needs, plan=more["plan"].to_dict(), baseline_plan=self.pipe.plan.to_dict(),
            model=self.pipe.model.name, model_digest=self.pipe.model.digest, data=self.source,
            environment=fingerprint(), created=datetime.now(UTC).isoformat(timespec="seconds"),
            assumes=" ".join(filter(None, (seen.assumes, self.ledger().words(self.looks)))) if seen else "", baseline=named(self.pipe), answers=by.words(asked, len(part)),
            independent=part.independent, counted=part.told if part.independent < len(part) else "", **speed,
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
            [one.to_dict() for one in self.else_where], self.nearly,
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
