"""`improve`: which cheaper plan keeps the answers? One artefact with a certificate, or the original."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.artefact import MANIFEST, is_artefact, save, verify, write_into
from llm_moments.atomic import sibling, writing
from llm_moments.budget import seconds
from llm_moments.core import WINDOW, Example, Pipeline, Plan
from llm_moments.data import example_key
from llm_moments.errors import ArtefactError, InputError, OutputExists
from llm_moments.evaluation import PARTS, Evaluation, gather, split
from llm_moments.improve import first as put_first
from llm_moments.improve import stages
from llm_moments.improve.certify import Certificate, Look, look
from llm_moments.improve.choices import weighed
from llm_moments.improve.heal import Healer, without
from llm_moments.improve.ledger import Ledger
from llm_moments.improve.search import Search
from llm_moments.improve.study import Study, Trial, Trials
from llm_moments.measure import FEWEST, OBJECTIVES, SHORTEST, blocks, interleaved, run_seconds
from llm_moments.model import load
from llm_moments.record.record import observe
from llm_moments.record.session import Session
from llm_moments.weigh.worth import Worths

Tick = Callable[[float | None, str], None]

STUDY = "study"  # the folder inside --out that holds the trials
SHARE = 0.3  # of the budget, for the original's answers
REPORT = 0.1  # of the budget, for recording both plans and weighing the choices
ROUNDS = 7  # of interleaved timing
TIMED = WINDOW  # examples that plans are timed on: as many as `run` holds at a time


@dataclass(frozen=True)
class Improvement:
    """The chosen pipeline, the certificate, and everything that was tried on the way to it."""

    pipeline: Pipeline
    certificate: Certificate
    study: Trials
    seconds: float
    folder: Path | None = None
    before: Session | None = None  # where the time went in the original, and goes now
    after: Session | None = None
    worths: Worths | None = None  # what each choice of the plan brings
    healing: Any = None  # seconds and examples of it, or why there was none; None where it was not asked for

    @property
    def certified(self) -> bool:
        return self.certificate.certified

    def to_dict(self) -> dict[str, Any]:
        c = self.certificate
        said = (
            "certified", "reason", "speedup", "speedup_low", "drop", "drop_high", "max_drop", "metric", "baseline_score",
            "score", "n_certify", "harmful", "beneficial", "lossless_speedup", "hand_speedup", "objective", "needs",
        )  # fmt: skip
        return {
            "kind": "improvement",
            "format": 1,
            **{name: getattr(c, name) for name in said},
            "trials": len(self.study),
            "seconds": round(self.seconds, 1),
            "plan": self.pipeline.plan.to_dict(),
            "artefact": str(self.folder) if self.folder else None,
            "certificate": c.to_dict(),
            "front": [asdict(t) for t in front(self.study)],
            "healing": self.healing,
            "choices": [w.to_dict() for w in self.worths or ()],
        }

    def report(self) -> str:
        from llm_moments.render.html import report

        return report(
            session=self.before, after=self.after, worths=self.worths, certificate=self.certificate, study=self.study,
            title=f"llm-moments: {self.certificate.model}",
        )  # fmt: skip

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        certificate = self.certificate.to_dict()
        return save(self.pipeline, path, certificate=certificate, report=self.report(), overwrite=overwrite)

    def _repr_html_(self) -> str:
        from llm_moments.render.notebook import improvement_html

        return improvement_html(self.to_dict())


def front(trials: list[Trial]) -> list[Trial]:
    """Plans that no other plan beats in both gain and drop, dearest first."""
    kept: list[Trial] = []
    done = [t for t in trials if t.status == "ok" and t.gain is not None and t.drop is not None]
    for trial in sorted(done, key=lambda t: (-(t.gain or 0), t.drop or 0)):
        if not kept or (trial.drop or 0) < (kept[-1].drop or 0):
            kept.append(trial)
    return kept[::-1]


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

    heal: also teach models of a third or half of the layers to answer as the original does, on a part of the examples, or,
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
        _make_way(folder, question, overwrite)
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


def _make_way(folder: Path, question: dict[str, Any], overwrite: bool) -> None:
    """Refuses a folder that is something else; a study of the same question may go on."""
    if overwrite and (is_artefact(folder) or (folder / STUDY).exists()):
        shutil.rmtree(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputExists(folder)
    strange = folder.is_dir() and any(folder.iterdir()) and not (folder / STUDY / "study.json").exists()
    if strange:
        raise OutputExists(folder)


class _Run:
    """One call of improve: baseline, search, certification, artefact."""

    def __init__(
        self, pipe: Pipeline, parts: dict[str, Evaluation], study: Study, max_drop: float, objective: str,
        budget: float, tick: Tick, source: str, folder: Path | None,
    ):  # fmt: skip
        self.begin = time.monotonic()
        self.pipe, self.study, self.tick, self.source, self.folder = pipe, study, tick, source, folder
        self.max_drop, self.objective, self.budget = max_drop, objective, budget
        self.parts = parts
        self.taught: list[Any] | None = None  # inputs that a smaller model may learn from
        self.apart: Evaluation | None = None  # examples that a model to put first may learn from
        self.looks: list[Look] = [Look(**x) for x in study.notes.get("looks", [])]

    def left(self) -> float:
        return self.begin + self.budget - time.monotonic()

    def finish(self) -> Improvement:
        if min(len(part) for part in self.parts.values()) == 0:
            return self.original(f"{sum(map(len, self.parts.values()))} examples are too few to split in three.", None)
        try:
            return self.searched()
        except KeyboardInterrupt:
            if self.folder is not None:
                self.original("interrupted; the same command goes on where it was.", None)
            raise

    def searched(self) -> Improvement:
        cost = self.time_stock()
        if why := self.affordable(cost["sorted"]):
            return self.original(why, None)
        search = self.search(cost)
        search.answer_as_stock()
        self.calibrate()
        if self.taught is not None:
            search.heal = Healer(self.pipe, self.study, self.taught, self.folder and self.folder / STUDY, self.tick)
        if self.apart is not None:
            judged = [self.parts[name] for name in ("search", "certify")]
            search.first = put_first.First(
                self.pipe, self.study, self.apart, judged, self.folder and self.folder / STUDY, self.tick
            )
        chosen = self.certified(search)
        if chosen is not None:
            return self.result(search, *chosen)
        why = "no plan that is faster was expected to keep the answers."
        if sum(t.status == "ok" for t in self.study.trials.values()) < 2:
            spent = time.monotonic() - self.begin
            why = (
                f"the original's own answers took so long ({spent:,.0f}s) that no time was left for another plan; about "
                f"{np.ceil(max(2 * self.budget, 4 * spent) / 60):.0f}m would do (--budget)."
            )
        if self.looks:
            last = self.looks[-1]
            why = f"the best plan's drop could be up to {last.drop_high:.4f}, over {self.max_drop:g}."
        return self.original(why, self.looks[-1] if self.looks else None)

    # -- how much the time allows

    def time_stock(self) -> dict[str, float]:
        """Seconds an example of the stock plan, and of the same sorted: a first figure, on few rows. The
        claim is timed anew, paired."""
        if "stock_cost" not in self.study.notes:
            self.tick(0.0, "timing the original")
            values = self.parts["search"].values
            block = self.pipe.task.pace.block
            self.pipe.outputs(values[: min(4, block // 4)])
            fast, few = self.pipe.with_(**self.pipe.task.sorts), blocks(values, 2 * block, 1, block)[0]
            cost = {"stock": run_seconds(self.pipe, few) / len(few)}
            one_a_call = hasattr(self.pipe.task, "tries") and self.pipe.plan.settings("forward").get("streams", 1) == 1
            cost["sorted"] = cost["stock"] if one_a_call else run_seconds(fast, few) / len(few)
            self.study.note("stock_cost", cost)
        return dict(self.study.notes["stock_cost"])

    def affordable(self, cost: float) -> str:
        """Takes as many rows of each split as the budget allows: the original must answer them all, and may
        take `SHARE` of it. The reason, if that is too few."""
        rows = self.study.notes.get("rows")
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
            timing = FEWEST * pace.block * cost if hasattr(self.pipe.task, "tries") else 0.0
            if need + timing > (0.6 if timing else 0.8) * self.budget:
                return (
                    f"the original answers {1 / cost:.1f} examples a second, so that a budget of {self.budget:.0f}s is "
                    f"too short for {rows['search']} to search with and {rows['certify']} to certify on; about "
                    f"{need / SHARE / 60:.0f}m would do (--budget)."
                )
            self.study.note("rows", rows)
        self.parts = {name: part.take(range(min(rows[name], len(part)))) for name, part in self.parts.items()}
        return ""

    def hopeless(self, rows: dict[str, int], cost: float) -> str:
        """The reason, if not even the original's own answers could be certified on so few examples: said at once where
        answers take seconds each."""
        n, task = rows["certify"], self.pipe.task
        if not hasattr(task, "tries") or getattr(task, "bounds", lambda model: None)(self.pipe.model) != (0.0, 1.0):
            return ""
        least = self.parts["certify"].drop(np.ones(n), np.ones(n)).high
        if least < self.max_drop:
            return ""
        needs = stats.needed_examples(self.max_drop, 0.0, 0.0) or 0
        minutes = (needs + rows["search"]) * cost / SHARE / 60
        return (
            f"{n} examples to certify on cannot prove a drop below {self.max_drop:g}, even of a plan that changes no answer: "
            f"they would show that it is below {least:.2g}. Take --max-drop {np.ceil(100 * least + 1) / 100:g}, or "
            f"{np.ceil(needs / PARTS['certify']):,.0f} examples in all and a budget of about {np.ceil(minutes):.0f}m (--budget)."
        )

    def search(self, cost: dict[str, float]) -> Search:
        """Its deadline leaves time for the certification, the interleaved timing and the report."""
        answers = len(self.parts["certify"]) * cost["sorted"]
        timing = ROUNDS * (self.pipe.task.pace.block * cost["stock"] + 3 * SHORTEST)
        reserve = min(answers + timing + REPORT * self.budget, 0.6 * self.budget)
        search = Search(
            self.pipe, self.parts["search"], self.study, max_drop=self.max_drop, n_certify=len(self.parts["certify"]),
            objective=self.objective, deadline=self.begin + self.budget - reserve, tick=self.tick,
        )  # fmt: skip
        if self.objective == "throughput":
            search.base_cost = cost["stock"]
        else:
            some = self.parts["search"].values
            search.base_cost = interleaved({"stock": self.pipe}, some, self.objective, costs=cost, rounds=1)["stock"][0]
        return search

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

    def certified(self, search: Search) -> tuple[Trial, Look] | None:
        """The last candidate that passes, in an order fixed before the first look; each look is noted
        before its result is used, and nothing after the first failure is looked at."""
        if "sequence" not in self.study.notes:
            self.study.note("sequence", [t.key for t in stages.run(search)])
        part, best = self.parts["certify"], None
        for at, key in enumerate(self.study.notes["sequence"]):
            trial = self.study.trials[key]
            if at == len(self.looks):
                self.tick(None, f"certifying on {len(part):,} examples: candidate {at + 1}")
                outputs = search.pipe(trial).outputs(part.values)
                self.looks.append(look(part, self.answers(part), outputs, key, self.max_drop))
                self.ledger().note(self.looks)
                self.study.look(self.looks[-1], trial.plan, outputs)
            if not self.looks[at].passed:
                break
            best = trial, self.looks[at]
        return best

    def ledger(self) -> Ledger:
        """What has been looked at before of these certification examples, whatever the folder."""
        part = self.parts["certify"]
        rows = [example_key(Example(value)) for value in part.values]
        return Ledger(self.pipe.model.digest, rows, max_drop=self.max_drop, metric=part.metric)

    def answers(self, part: Evaluation) -> np.ndarray:
        """The original's outputs on the certification split, kept in the study."""
        if "certify" not in self.study.trials:
            outputs = self.pipe.with_(**self.pipe.task.sorts).outputs(part.values)
            self.study.add(Trial({}, "certify", "original", "held out"), outputs)
            return outputs
        return self.study.outputs("certify")

    # -- results

    def result(self, search: Search, trial: Trial, seen: Look) -> Improvement:
        trials = {"chosen": trial, "lossless": search.best_lossless()}
        if "hand" in self.study.notes:
            trials["hand"] = self.study.trials[self.study.notes["hand"]]
        plans = {"stock": self.pipe} | {name: search.pipe(one) for name, one in trials.items()}
        rough = {"stock": search.base_cost or 1.0} | {name: one.cost or 1.0 for name, one in trials.items()}
        values = self.parts["certify"].values[:TIMED]
        costs = interleaved(
            plans, values, self.objective, costs=rough, rounds=ROUNDS, seconds=max(0.8 * (self.left() - REPORT * self.budget), 10.0),
            tick=lambda done: self.tick(None, f"timing original and improved, interleaved: {done:.0%}"),
        )  # fmt: skip
        speed = stats.ratio_interval(costs["stock"], costs["chosen"])
        lossless = stats.ratio_interval(costs["stock"], costs["lossless"]).estimate
        hand = stats.ratio_interval(costs["hand"], costs["chosen"]).estimate if "hand" in costs else None
        if speed.low <= 1:
            return self.original(f"the best plan is not certainly better: {speed.estimate:.2f} times.", seen)
        certificate = self.certificate(
            True, "", seen, speedup=speed.estimate, speedup_low=speed.low, lossless_speedup=lossless,
            hand_speedup=hand, plan=Plan(trial.plan),
        )  # fmt: skip
        self.tick(None, "recording where the time goes")
        pace = self.pipe.task.pace
        sessions = observe(plans["stock"], values[: pace.block]), observe(plans["chosen"], values[: pace.window])
        return self.kept(plans["chosen"], certificate, sessions, self.choices(search, plans["chosen"]))

    def choices(self, search: Search, chosen: Pipeline) -> Worths | None:
        """What each choice brings in throughput; other objectives are not weighed choice by choice."""
        if self.objective != "throughput":
            return None
        self.tick(None, "weighing each choice of the plan")
        part = self.parts["search"]
        return weighed(self.pipe, chosen, part.take(range(min(search.quick_rows, len(part)))), self.max_drop)

    def original(self, why: str, seen: Look | None) -> Improvement:
        return self.kept(self.pipe, self.certificate(False, why, seen, plan=self.pipe.plan))

    def certificate(self, certified: bool, reason: str, seen: Look | None, **more: Any) -> Certificate:
        from llm_moments.environment import fingerprint

        part = self.parts["certify"]
        needs = seen.needs if seen else stats.needed_examples(self.max_drop, 0.0, 0.0)
        if seen is None or (needs is not None and needs <= len(part) and not certified):
            needs = needs if needs and needs > len(part) else None
        speed = {k: more.get(k) for k in ("speedup", "speedup_low", "lossless_speedup", "hand_speedup")}
        return Certificate(
            certified=certified, reason=reason, metric=part.metric, max_drop=self.max_drop, confidence=0.95,
            drop=seen.drop if seen else None, drop_high=seen.drop_high if seen else None, baseline_score=seen.baseline_score if seen else None,
            score=seen.score if seen else None, n_certify=len(part), harmful=seen.harmful if seen else 0,
            beneficial=seen.beneficial if seen else 0, objective=self.objective, looks=len(self.looks),
            labelled=part.labelled, needs=needs, plan=more["plan"].to_dict(), baseline_plan=self.pipe.plan.to_dict(),
            model=self.pipe.model.name, model_digest=self.pipe.model.digest, data=self.source,
            environment=fingerprint(), created=datetime.now(UTC).isoformat(timespec="seconds"),
            assumes=" ".join(filter(None, (seen.assumes, self.ledger().words(self.looks)))) if seen else "", **speed,
        )  # fmt: skip

    def kept(
        self, pipe: Pipeline, certificate: Certificate, sessions: tuple[Session | None, Session | None] = (None, None),
        worths: Worths | None = None,
    ) -> Improvement:  # fmt: skip
        trials = Trials(t for t in self.study.trials.values() if t.status != "held out")
        done = Improvement(
            pipe, certificate, trials, time.monotonic() - self.begin, self.folder, *sessions, worths, self.healing()
        )
        if self.folder is not None:
            self.tick(None, f"saving {self.folder}")
            _place(done, self.folder, slim=self.objective == "size")
        return done


def _place(done: Improvement, folder: Path, *, slim: bool) -> None:
    """Puts the artefact's files beside the study, the manifest last; the old manifest goes first."""
    with sibling(folder / ".artefact") as made:
        write_into(done.pipeline, made, certificate=done.certificate.to_dict(), report=done.report(), slim=slim)
    made = folder / ".artefact"
    with writing(folder, "The study is kept; the same command goes on from there."):
        (folder / MANIFEST).unlink(missing_ok=True)
        for entry in sorted(made.iterdir(), key=lambda p: p.name == MANIFEST):
            target = folder / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
        made.rmdir()
    try:
        verify(folder)
    except ArtefactError as error:
        raise ArtefactError(f"{error} (the disk may be full)") from error
