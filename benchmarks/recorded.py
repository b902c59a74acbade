"""A recorded study: the plans of a real search and a grid round them, and what each scores on every row."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import studies

import llm_moments as lm
from llm_moments.base.atomic import write_atomic
from llm_moments.base.errors import EngineError
from llm_moments.core import Outputs, Plan
from llm_moments.core import outputs_file as answers
from llm_moments.evaluate.evaluation import evaluation
from llm_moments.evaluate.measure import measure
from llm_moments.improve.cascade import foretell
from llm_moments.improve.study import Trial, read_trials

ROOM = studies.ROOT / ".bench" / "sequences"
CLOSE, LOOKED = 1e-3, 96  # a search calls plans lossless whose probabilities move by no more than this on so many rows
ENGINES = 3  # with their precisions, round whose fastest plan the grid is filled


@dataclass(frozen=True)
class Recorded:
    """before: scores of the original [rows]; after: of each plan [plans, rows]; costs, stock: seconds a row.

    left_out: plans that there was no time to ask all rows, or that were slower than the stock plan. most: rows that
    `improve` searches and certifies on at most.
    """

    name: str
    words: str
    metric: str
    max_drop: float
    bounds: tuple[float, float] | None
    most: tuple[int, int]
    stock: float
    left_out: int
    seconds: float
    before: np.ndarray
    after: np.ndarray
    costs: np.ndarray
    lossless: np.ndarray
    kinds: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()

    @property
    def drops(self) -> np.ndarray:
        return self.before - self.after

    def save(self, folder: Path) -> None:
        """The arrays first: a study without its description is made again."""
        arrays = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        np.savez_compressed(folder / "study.npz", **arrays)
        plain = {k: v for k, v in vars(self).items() if k not in arrays}
        write_atomic(folder / "study.json", json.dumps(plain, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Recorded:
        plain = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        bounds, most = tuple(plain.pop("bounds") or ()) or None, tuple(plain.pop("most"))
        kinds, plans = tuple(plain.pop("kinds")), tuple(plain.pop("plans"))
        with np.load(folder / "study.npz") as arrays:
            return cls(bounds=bounds, most=most, kinds=kinds, plans=plans, **plain, **arrays)


def recorded(name: str, room: Path = ROOM) -> Recorded | None:
    folder = room / name
    return Recorded.load(folder) if (folder / "study.json").exists() else None


def record(kind: studies.Kind, room: Path, small: bool) -> Recorded:
    """Learns the model, lets `improve` search, and asks its plans, and a grid round them, all rows. What is done is not
    done again."""
    begin, folder = time.monotonic(), room / kind.name
    folder.mkdir(parents=True, exist_ok=True)
    model, rows = kind.made(folder, small)
    if small:  # few rows prove little
        kind = replace(kind, answering=20, max_drop=0.2)
    say(kind.name, f"{len(rows):,} rows; searching")
    # Without the linear model: it may answer better than the baseline, and then every order certifies the same plan.
    done = lm.improve(model, rows, max_drop=kind.max_drop, budget=kind.budget, out=folder / "improved", first="none")
    say(kind.name, done.certificate.words())
    trials = [t for t in read_trials(folder / "improved" / "study") if t.status == "ok" and t.cost and t.gain]
    if not trials:
        raise studies.Missing(f"the search tried nothing: {done.certificate.reason}")
    study = all_rows(kind, lm.load(model), rows, trials, folder)
    study = replace(study, seconds=time.monotonic() - begin)
    study.save(folder)
    return study


def all_rows(kind: studies.Kind, pipe: Any, rows: studies.Rows, trials: list[Trial], folder: Path) -> Recorded:
    part, place = evaluation(pipe, rows), folder / "answers"
    stock = float(np.median([t.cost * t.gain for t in trials if t.cost and t.gain]))  # all are held against one figure
    plans = tried(pipe, trials)
    plans += filled(pipe, plans, part.values)
    place.mkdir(exist_ok=True)
    say(kind.name, f"the original answers all rows; then {len(plans)} plans, for {kind.answering:g} s at most")
    outputs = answered(place / "original", pipe.with_(**pipe.task.sorts), part.values)[0]
    plans = [proved(pipe, p, part.values[:LOOKED], outputs) for p in plans]
    asked = [p for p in in_time(pipe, part, plans, place, kind.answering) if p.cost < stock]
    left = len(plans) - len(asked)
    asked = sorted([*asked, *foretold(pipe, part, asked)], key=lambda p: p.cost)
    told, most = pipe.task.bounds(), pipe.task.sizes.most
    return Recorded(
        kind.name, kind.words, part.metric, kind.max_drop, told,
        (most["search"], most["certify"]), stock, left, 0.0, part.scores(outputs, outputs),
        np.array([part.scores(p.outputs, outputs) for p in asked]), np.array([p.cost for p in asked]),
        np.array([p.lossless for p in asked], bool), tuple(p.kind for p in asked), tuple(p.words for p in asked),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- which plans


@dataclass(frozen=True)
class Asked:
    """A plan, and what it answers to all rows. kind: tried (in the search), filled (in, round those), foretold (a
    cascade of two of them, whose answers are exact and whose cost is modelled, as the search foretells it)."""

    kind: str
    plan: Plan
    cost: float
    lossless: bool
    outputs: Any = None
    words: str = ""


def tried(pipe: Any, trials: Iterable[Trial]) -> list[Asked]:
    """What the search measured, fastest first: of those that differ in lossless choices only, the fastest."""
    best: dict[str, Asked] = {}
    for trial in sorted(trials, key=lambda t: t.cost or 0.0):
        plan = Plan(trial.plan)
        best.setdefault(answers_by(pipe, plan), Asked("tried", plan, trial.cost or 0.0, trial.lossless))
        same = best[answers_by(pipe, plan)]
        if trial.lossless and not same.lossless:
            best[answers_by(pipe, plan)] = replace(same, lossless=True)
    free = [p for p in best.values() if p.lossless]
    return free[:1] + [p for p in best.values() if not p.lossless]


def answers_by(pipe: Any, plan: Plan) -> str:
    """The choices on which a plan's answers hang."""
    free = {f"{s}.{k.name}" for s, ks in pipe.task.knobs().items() for k in ks if k.lossless}
    free -= {"forward.engine"}
    kept = {s: {k: v for k, v in choices.items() if f"{s}.{k}" not in free} for s, choices in plan.to_dict().items()}
    if "cascade" in kept:
        kept["cascade"]["cheap"] = {k: v for k, v in kept["cascade"]["cheap"].items() if k not in free}
    return json.dumps(kept, sort_keys=True)


def filled(pipe: Any, known: list[Asked], values: Sequence[Any]) -> list[Asked]:
    """Round the fastest single plans of some engines: every length or size, or every other lossy choice of decoding."""
    seen = {answers_by(pipe, p.plan) for p in known}
    singles: dict[tuple[str, str], Asked] = {}
    for one in sorted(known, key=lambda p: p.cost):
        forward = one.plan.settings("forward")
        if "cascade" not in one.plan and not one.lossless:
            singles.setdefault((forward.get("engine", ""), forward.get("precision", "")), one)
    found = []
    for one in list(singles.values())[:ENGINES]:
        for changes, share in round_it(pipe, one.plan, values):
            plan = one.plan.with_(**changes)
            if (key := answers_by(pipe, plan)) not in seen:
                seen.add(key)
                found.append(Asked("filled", plan, one.cost * share, False))
    return sorted(found, key=lambda p: p.cost)


def round_it(pipe: Any, plan: Plan, values: Sequence[Any]) -> Iterable[tuple[dict[str, Any], float]]:
    """Changes, and about how many times the plan's time they take."""
    if pipe.task.strategy == "greedy":
        return [
            (one.choices, 1.0)
            for one in pipe.task.changes(plan)
            if not one.lossless and "forward.engine" not in one.choices
        ]
    extent = pipe.task.extent
    return [({extent.knob: n}, n / extent.of(plan)) for n in pipe.task.rungs(pipe, values[:200])]


def in_time(pipe: Any, part: Any, plans: list[Asked], place: Path, seconds: float) -> Iterable[Asked]:
    """Those that there is time for, fastest first; the lossless one answers as the original did."""
    begin = time.monotonic()
    for at, one in enumerate(sorted(plans, key=lambda p: p.cost)):
        if one.lossless:
            yield replace(one, words=json.dumps(one.plan.to_dict()))
            continue
        file = place / hashlib.sha256(one.plan.key.encode()).hexdigest()[:16]
        if not file.with_suffix(".json").exists() and time.monotonic() - begin + one.cost * len(part) > seconds:
            continue
        say(place.parent.name, f"plan {at + 1} of {len(plans)}, {one.kind}")
        try:
            outputs, cost = answered(file, pipe.with_(one.plan), part.values)
        except EngineError as error:
            say(place.parent.name, f"left out: {error}")
            continue
        yield replace(one, outputs=outputs, cost=cost, words=json.dumps(one.plan.to_dict()))


def answered(file: Path, pipe: Any, values: Sequence[Any]) -> tuple[Outputs, float]:
    """Outputs and seconds a row."""
    if not file.with_suffix(".json").exists():
        measured = measure(pipe, values, "throughput")
        suffix, raw = answers.write(measured.outputs)
        file.with_suffix(suffix).write_bytes(raw)
        write_atomic(file.with_suffix(".json"), json.dumps(measured.cost))
    kept = next(file.with_suffix(s) for s in (answers.NUMBERS, answers.ROWS) if file.with_suffix(s).exists())
    return answers.read(kept), json.loads(file.with_suffix(".json").read_text())


def proved(pipe: Any, one: Asked, some: Sequence[Any], original: Outputs) -> Asked:
    """A plan that is meant to be lossless, held against the original on some rows as the search does; if it is, its
    answers are the original's."""
    if not one.lossless:
        return one
    told = pipe.with_(one.plan).outputs(some)
    if not pipe.task.close(told, original[: len(told)], CLOSE).all():
        return replace(one, lossless=False)
    return replace(one, outputs=original)


def foretold(pipe: Any, part: Any, asked: list[Asked]) -> list[Asked]:
    """Every cascade that the search would foretell of the front of the single plans."""
    if not pipe.task.has_margins():
        return []
    singles = [(p, float(part.scores(p.outputs, p.outputs).mean())) for p in asked if "cascade" not in p.plan]
    front: list[Asked] = []
    best = -np.inf
    for one, score in sorted(singles, key=lambda s: (s[0].cost, -s[1])):
        if score > best:
            front.append(one)
            best = score
    plans = [(str(at), one.cost, one.outputs) for at, one in enumerate(front)]
    return [
        Asked("foretold", front[int(f.dear)].plan, f.cost, False, f.outputs, f"{f.cheap} before {f.dear} below {f.threshold:g}")
        for f in foretell(plans, pipe.task.margins)
    ]  # fmt: skip


def say(name: str, words: str) -> None:
    print(f"{name}: {words}", file=sys.stderr, flush=True)
