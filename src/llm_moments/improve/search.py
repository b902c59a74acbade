"""The search: lossless gains first, then single lossy changes, then cascades; every plan measured whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.core import Pipeline, Plan
from llm_moments.engines.base import ENGINES, available, engine_class, put_on
from llm_moments.errors import EngineError
from llm_moments.evaluation import Evaluation
from llm_moments.improve.cascade import foretell
from llm_moments.improve.measure import Measured, measure
from llm_moments.improve.study import Study, Trial

Tick = Callable[[float | None, str], None]

SORTED = {"batch.order": "length", "batch.size": 64, "batch.tokens": 8192, "batch.reuse": True}
LADDER = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)
CAUTION = (0.6, 1.2, 2.0)  # standard errors of pessimism for the first, second and third candidate
LOSSLESS = 1e-3  # most that a probability may move under a change that is called lossless
QUICK = 96  # rows on which engines and lossless variants are timed before whole splits are


class Search:
    """One search over one search split. Every plan that is tried becomes a Trial of the study."""

    def __init__(
        self, stock: Pipeline, part: Evaluation, study: Study, *, max_drop: float, n_certify: int,
        objective: str, deadline: float, tick: Tick,
    ):  # fmt: skip
        self.stock, self.part, self.study = stock, part, study
        self.max_drop, self.n_certify, self.objective = max_drop, n_certify, objective
        self.deadline, self.tick = deadline, tick
        self.started = time.monotonic()
        self.baseline: np.ndarray = np.empty(0)
        self.base_scores: np.ndarray = np.empty(0)
        self.base_cost: float | None = None

    # -- one trial

    def late(self, reserve: float = 0.0) -> bool:
        return time.monotonic() + reserve > self.deadline

    def try_plan(self, plan: Plan, stage: str, *, lossless: bool = False, rows: int | None = None) -> Trial:
        """The trial of a plan, measured now or found in the study. Never raises for a plan's own fault."""
        wanted = len(self.part) if rows is None else min(rows, len(self.part))
        known = self.study.trials.get(plan.key)
        if known is not None and (known.status != "ok" or known.n >= wanted):
            return known
        used = time.monotonic() - self.started
        total = max(self.deadline - self.started, 1e-9)
        self.tick(min(used / total, 1.0), f"{stage}: {_short(self.stock.plan.changes(plan))}")
        part = self.part.take(range(wanted))
        try:
            measured = measure(self.stock.with_(plan), part.values, self.objective)
        except EngineError as error:
            return self.study.add(Trial(plan.to_dict(), plan.key, stage, "unavailable", str(error), lossless=lossless))
        return self.study.add(self._judged(plan, stage, part, measured, lossless), measured.outputs)

    def _judged(self, plan: Plan, stage: str, part: Evaluation, measured: Measured, lossless: bool) -> Trial:
        n = len(part)
        base = self.baseline[:n] if len(self.baseline) else measured.outputs
        before, after = part.scores(base, base), part.scores(measured.outputs, base)
        bound = stats.drop_bound(before, after)
        harmful, beneficial = stats.flips(before, after)
        gain = None if self.base_cost is None else self.base_cost / measured.cost
        return Trial(
            plan.to_dict(), plan.key, stage, n=n, seconds=measured.seconds, cost=measured.cost, gain=gain,
            score=float(after.mean()), drop=bound.estimate, drop_low=bound.low, drop_high=bound.high,
            harmful=harmful, beneficial=beneficial, lossless=lossless,
        )  # fmt: skip

    def pipe(self, trial: Trial) -> Pipeline:
        return self.stock.with_(Plan(trial.plan))

    def whole(self) -> list[Trial]:
        """Trials that answered the whole search split, fastest first."""
        done = [t for t in self.study.trials.values() if t.status == "ok" and t.n == len(self.part) and t.cost]
        return sorted(done, key=lambda t: t.cost or 0.0)

    # -- which plans would be certified

    def promising(self, scores: np.ndarray, caution: float = CAUTION[0]) -> bool:
        """Whether a plan with these scores is expected to pass the certification.

        The fastest of many plans is also the luckiest, so its flips are taken to be worse than they
        were seen here by `caution` standard errors, then held against the size of the other split.
        """
        diffs = self.base_scores - scores
        harmful, beneficial = float((diffs > 0).sum()), float((diffs < 0).sum())
        if set(np.unique(diffs)) <= {-1.0, 0.0, 1.0}:
            unlucky = caution * (harmful + beneficial + 1) ** 0.5 / 2
            grow = self.n_certify / len(scores)
            worse, better = int(np.ceil((harmful + unlucky) * grow)), int(max(beneficial - unlucky, 0) * grow)
            return stats.flip_pvalue(worse, better, max(self.n_certify, worse + better), self.max_drop) < 0.04
        spread = float(diffs.std(ddof=1))
        return (
            float(diffs.mean()) + caution * spread / len(diffs) ** 0.5 + 1.75 * spread / self.n_certify**0.5
            < self.max_drop
        )

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        return self.part.scores(outputs, self.baseline)

    # -- stages

    def run(self) -> list[Trial]:
        """All stages, as far as the time allows. The candidates, the one to certify first in front."""
        stages = (
            self.lossless_stage, self.lossy_stage, self.cascade_stage, self.tune_stage, self.sides_stage,
            self.skip_stage, self.cascade_stage, self.tune_stage,
        )  # fmt: skip
        for stage in stages:
            if self.late():
                break
            stage()
        return self.candidates()

    def answer_as_stock(self) -> None:
        """The original's answers, from a sorted run of the same engine: the same numbers, sooner."""
        fast = self.stock.plan.with_(**SORTED)
        trial = self.try_plan(fast, "original, sorted", lossless=True)
        if trial.status != "ok":
            raise EngineError(f"the original cannot be run: {trial.reason}")
        self.baseline = self.study.outputs(trial.key)
        self.base_scores = self.scores(self.baseline)

    def lossless_stage(self) -> None:
        base = self.stock.plan.with_(**SORTED)
        self.try_plan(base.with_(**{"precut.chars_per_token": 8}), "lossless", lossless=True, rows=QUICK)
        for engine in [e for e in ENGINES if e in available() and e not in ("torch", "torch.compile")]:
            if self.late():
                return
            precision = base.settings("forward").get("precision", "fp32")
            plan = base.with_(**put_on(engine, precision), **{"precut.chars_per_token": 8})
            self.try_plan(plan, "lossless", lossless=True, rows=QUICK)

    def best_lossless(self) -> Trial:
        """The fastest of the plans that gave the original's answers; checked on what they answered."""
        trials = [t for t in self.study.trials.values() if t.lossless and t.status == "ok" and self.same_answers(t)]
        return min(trials, key=lambda t: t.cost or float("inf"))

    def same_answers(self, trial: Trial) -> bool:
        task, model = self.stock.task, self.stock.model
        outputs = self.study.outputs(trial.key)
        base = self.baseline[: len(outputs)]
        near = np.abs(task.probabilities(outputs, model) - task.probabilities(base, model)).max() <= LOSSLESS
        return bool(near and task.argmax_equal(outputs, base, model).all())

    def lengths(self) -> list[int]:
        """Rungs below the model's limit that cut some rows of this data, shortest first."""
        values = self.part.values[:200]
        encoder = self.stock.steps[1].encoder  # type: ignore[attr-defined]
        texts = [v if isinstance(v, str) else " ".join(v) for v in values]
        longest = (
            max(map(len, encoder.encode(texts))) + encoder.template(not all(isinstance(v, str) for v in values)).extra
        )
        most = self.stock.model.max_length
        return sorted({n for n in LADDER if n < min(most, longest)} | {most})

    def lossy_stage(self) -> None:
        """Lengths, from the shortest up until more brings nothing, for the fastest engines and precisions."""
        for engine, precision in self.variants():
            saturated = 0
            for length in self.lengths():
                if self.late() or saturated == 2:
                    break
                trial = self.try_plan(self.plan_of(engine, precision, length), "lossy")
                if trial.status != "ok":
                    break
                saturated += (trial.drop or 0.0) <= 0.1 * self.max_drop

    def variants(self) -> list[tuple[str, str]]:
        """Engines and precisions by their time on some rows of a middling length; the two fastest, and
        any that is within a tenth of them."""
        lengths = self.lengths()
        middle = lengths[len(lengths) // 2]
        costs = {}
        for pair in self.pairs():
            if self.late():
                break
            trial = self.try_plan(self.plan_of(*pair, middle), "engines", rows=QUICK)
            if trial.status == "ok" and trial.cost:
                costs[pair] = trial.cost
        order = sorted(costs, key=costs.__getitem__)
        return [p for at, p in enumerate(order) if at < 2 or costs[p] <= 1.1 * costs[order[0]]]

    def pairs(self) -> list[tuple[str, str]]:
        """Precisions below the original's first; engines in fp32 are compared in the lossless stage."""
        order = ("bf16", "int8", "int8-dynamic", "fp16", "fp32")
        engines = [e for e in ("openvino", "onnxruntime", "torch") if e in available()]
        pairs = [(e, p) for p in order for e in engines if p in engine_class(e).precisions]
        if self.stock.engines.device in ("cpu", "auto"):
            pairs = [(e, p) for e, p in pairs if p != "fp16"]  # never ahead of bf16 on a CPU that has either
        return [(e, p) for e, p in pairs if p != "fp32" or e == "torch"]

    def plan_of(self, engine: str, precision: str, length: int) -> Plan:
        changes: dict[str, Any] = {**put_on(engine, precision), "precut.chars_per_token": 8}
        changes["forward.calibration"] = self.study.notes["calibration"] if precision == "int8" else ""
        return self.stock.plan.with_(**SORTED, **changes, **{"truncate.max_length": length})

    def good(self, caution: float = CAUTION[0]) -> list[Trial]:
        return [t for t in self.whole() if self.promising(self.scores(self.study.outputs(t.key)), caution)]

    def sides_stage(self) -> None:
        single = [t for t in self.good() if "cascade" not in t.plan]
        for trial in single[:2]:
            for side in ("head+tail", "tail"):
                if self.late() or trial.plan["truncate"]["max_length"] >= self.stock.model.max_length:
                    return
                self.try_plan(Plan(trial.plan).with_(**{"truncate.side": side}), "side")

    def skip_stage(self) -> None:
        """Each layer left out of the fastest good plan, judged by the eager engine; kept if it is free."""
        from llm_moments.engines.layers import layer_list
        from llm_moments.engines.torch_eager import load_module

        good = [t for t in self.good() if "cascade" not in t.plan]
        if not good or self.late():
            return
        module = load_module(self.stock.model)
        count = len(layer_list(module)[1])
        del module
        start = Plan(good[0].plan)  # judged in the eager engine: a graph would be built for each layer
        judged = start.with_(**put_on("torch", "fp32"), **{"forward.calibration": None})
        free = []
        for layer in range(count):
            if self.late():
                return
            trial = self.try_plan(judged.with_(**{"forward.skip_layers": [layer]}), "skip")
            if trial.status == "ok" and self.promising(self.scores(self.study.outputs(trial.key))):
                free.append((trial.drop or 0.0, layer))
        for many in range(1, len(free) + 1):
            layers = sorted(layer for _, layer in sorted(free)[:many])
            if self.late():
                return
            trial = self.try_plan(start.with_(**{"forward.skip_layers": layers}), "skip")
            if trial.status != "ok" or not self.promising(self.scores(self.study.outputs(trial.key))):
                return

    def cascade_stage(self) -> None:
        """Foretold for every pair of plans; the few best that promise to hold are measured as a whole."""
        task, model = self.stock.task, self.stock.model
        if self.objective in ("memory", "size") or not task.has_margins(model):
            return
        single = [t for t in self.whole() if "cascade" not in t.plan]
        front = _front(single)
        plans = [(t.key, t.cost or 0.0, self.study.outputs(t.key)) for t in front]
        foretold = sorted(foretell(plans, lambda outputs: task.margins(outputs, model)), key=lambda f: f.cost)
        tried = 0
        bar = min((t.cost or 0.0 for t in self.good()), default=float("inf"))
        for one in foretold:
            if tried >= 4 or self.late() or one.cost >= 0.97 * bar:
                return
            if not self.promising(self.scores(one.outputs)):
                continue
            cheap, dear = (Plan(self.study.trials[key].plan) for key in (one.cheap, one.dear))
            choices = {"threshold": one.threshold, "cheap": self.told(dear.changes(cheap))}
            self.try_plan(Plan({**dear.to_dict(), "cascade": choices}), "cascade")
            tried += 1

    def told(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Changes with a default said where a choice is taken back: a plan file has no word for None."""
        defaults = {f"{s}.{k.name}": k.default for s, ks in self.stock.task.knobs(self.stock.model).items() for k in ks}
        return {name: defaults[name] if value is None else value for name, value in changes.items()}

    def tune_stage(self) -> None:
        """Lossless knobs of the fastest good plans, one after the other, kept when they are faster."""
        options: list[tuple[str, tuple[Any, ...]]] = [
            ("forward.streams", (2,)),
            ("batch.tokens", (2048, 4096, 16384)),
            ("precut.chars_per_token", (6, 10)),
            ("batch.multiple", (8, 16)),
            ("forward.threads", (1,)),
        ]
        good = self.good()
        best = good[0] if good else None
        for name, values in options:
            for value in values:
                if best is None or self.late():
                    return
                trial = self.try_plan(
                    Plan(best.plan).with_(**{name: value}, **_in_cheap(best.plan, name, value)), "tune"
                )
                if trial.status == "ok" and (trial.cost or 9e9) < 0.98 * (best.cost or 0.0):
                    best = trial

    def candidates(self) -> list[Trial]:
        """The fastest promising plan, then ones chosen with more and more caution.

        A plan that answers as one before it did would fail as that one has; it is passed over.
        """
        chosen: list[Trial] = []
        for caution in CAUTION:
            fresh = (t for t in self.good(caution) if not any(self._alike(t, c) for c in chosen))
            chosen += list(islice(fresh, 1))
        return chosen

    def _alike(self, one: Trial, other: Trial) -> bool:
        a, b = self.study.outputs(one.key), self.study.outputs(other.key)
        return float(self.stock.task.argmax_equal(a, b, self.stock.model).mean()) > 0.998


def _in_cheap(plan: Any, name: str, value: Any) -> dict[str, Any]:
    """The same lossless knob in the cheap stage of a cascade, when the plan has one."""
    if "cascade" not in plan:
        return {}
    cascade = plan["cascade"]
    return {"cascade.cheap": {**cascade["cheap"], name: value}}


def _front(trials: list[Trial]) -> list[Trial]:
    """Plans that no other plan beats in both cost and score: of others no cascade is made."""
    front: list[Trial] = []
    best = -float("inf")
    for trial in sorted(trials, key=lambda t: (t.cost or 0.0, -(t.score or 0.0))):
        if (trial.score or 0.0) > best:
            front.append(trial)
            best = trial.score or 0.0
    return front


def _short(changes: dict[str, Any]) -> str:
    hidden = ("batch.", "precut.", "forward.calibration")
    shown = {k.partition(".")[2]: v for k, v in changes.items() if not k.startswith(hidden)}
    return ", ".join(f"{k}={v}" for k, v in shown.items() if k != "cheap")[:90] or "sorted"
