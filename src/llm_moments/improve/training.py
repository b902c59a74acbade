"""`tune`: the fastest training plan that reaches the validation loss of the usual one, certified by repeats."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.atomic import write_atomic
from llm_moments.base.budget import seconds
from llm_moments.base.environment import fingerprint
from llm_moments.base.errors import DataError, EngineError, InputError
from llm_moments.evaluate.evaluation import evaluation, gather, opened
from llm_moments.improve.training_certificate import CONFIDENCE, TrainingCertificate, TrainingLook
from llm_moments.improve.training_space import BASELINE, Move, moves, toml
from llm_moments.train import linear
from llm_moments.train.settings import fast_bf16, settings_of
from llm_moments.train.short_runs import LEAST_ROWS, Run, ShortRuns, room_for

Tick = Callable[[float | None, str], None]

SEARCH_SEED, FIRST = 0, 100  # of the search, and of the repeats that certify
SEEDS = 4
EQUIVALENTS = 14.0  # runs of the usual plan that all of it takes: 1 + SEEDS of its own, the rest of cheaper ones
JUDGING = 0.25  # of the time
CLEAR = 1.2  # times faster, below which a repeat or four seldom tell
WORTH = 1.03  # times faster, from which a change that costs nothing is kept
SPARE = 0.5  # of the allowed rise, which a change may use up in the search
TIMED = 64  # rows of one timing
_NONE = np.empty((0, 0))
Plan = tuple[str, dict[str, Any], float]
MOST = 3  # plans that are held against the usual one


def improve_training(
    model: str | Path, data: Any, *, evaluate: Any, out: str | Path, budget: float | str = "10m", max_rise: float = 0.05,
    overwrite: bool = False, progress: Tick | None = None, device: str = "auto", read: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TrainingCertificate:  # fmt: skip
    """Changes the usual plan (transformers' defaults, but for the settings that are given) one thing at a time.

    Each change is timed by a few updates in turn with the plan as it is; what is faster trains on one seed, and stays if
    its validation loss does. The plans found go through SEEDS new seeds beside the usual one, on the other half of
    evaluate, the surest first. max_rise: share of the usual plan's loss by which the loss may rise. out: a folder with
    `train.toml`, `certificate.json`, `report.html` and the runs, with which the same call goes on.
    """
    if not 0 < max_rise < 1:
        raise InputError(f"the loss may rise by a share between 0 and 1, such as 0.05, not {max_rise!r}")
    if linear.is_linear(model):
        raise InputError("a linear model trains in seconds; tune is for networks")
    begin, allowed = time.monotonic(), seconds(budget)
    tick = progress or (lambda done, message: None)
    data, evaluate = opened(data, **(read or {})), opened(evaluate, **(read or {}))
    examples, name = gather(data)
    judged = gather(evaluate)[0]
    length = {} if "max_length" in settings else {"max_length": 512}
    course = ShortRuns(
        Path(model), examples, judged, {**BASELINE, **length, **settings}, room_for(Path(out), overwrite), device, name,
        (data, evaluate),
    )  # fmt: skip
    run = _Run(course, begin, allowed, max_rise, tick)
    certificate = run.finish()
    words = certificate.words()
    write_atomic(Path(out) / "train.toml", toml(certificate.settings, words))
    write_atomic(Path(out) / "certificate.json", json.dumps(certificate.to_dict(), indent=1))
    write_atomic(Path(out) / "report.html", certificate.report())
    return certificate


class _Run:
    """One call: sizes, search, certification."""

    def __init__(self, course: ShortRuns, begin: float, allowed: float, max_rise: float, tick: Tick):
        self.course, self.begin, self.allowed, self.max_rise, self.tick = course, begin, allowed, max_rise, tick
        self.base = asdict(course.base)
        if course.task.ladder.unit == "pixels":
            self.base["image_size"] = course.task.shape(course.pipe.plan)[1]
        if course.task.ladder.unit == "tokens":
            self.base["max_length"] = min(self.base["max_length"], course.described.max_length)
        self.tried: list[dict[str, Any]] = []
        self.looks: list[TrainingLook] = []
        sizes = course.kept("improve", {"budget": allowed, "max_rise": max_rise}, self.sizes, ("rows", "judged"))
        self.rows, self.judged = int(sizes["rows"]), int(sizes["judged"])
        search, certify = self.halves()
        self.search, self.certify = (p.take(range(min(self.judged, len(p)))) for p in (search, certify))

    def halves(self) -> Sequence[Any]:
        """The evaluation data by a hash: what the search may look at, and what it may not."""
        from llm_moments.data import readers

        parts = readers.split(self.course.judged, fractions={"search": 0.5, "certify": 0.5})
        if not all(parts.values()):
            raise DataError(f"{len(self.course.judged)} evaluation examples are too few to split in two")
        return [evaluation(self.course.pipe, part) for part in parts.values()]

    def sizes(self) -> dict[str, Any]:
        """Rows of one run and examples that judge it, so that all runs fit into the budget."""
        self.tick(0.0, "timing the usual plan")
        opening, learning, judging = self.course.pace()
        runs = 1 + SEEDS + 8 + MOST * SEEDS
        left = 0.85 * self.allowed - (time.monotonic() - self.begin) - runs * opening - 20 * TIMED * learning
        most = max(len(self.course.judged) // 2, 1)
        judged = int(np.clip(JUDGING * max(left, 0.0) / (runs * judging), min(100, most), min(1000, most)))
        work = EQUIVALENTS * self.course.base.epochs * learning
        rows = int((left - runs * judged * judging) / work)
        count = len(self.course.values)
        if rows < min(LEAST_ROWS, count):
            need = (self.allowed + LEAST_ROWS * work + runs * judged * judging - left) / 0.85
            raise InputError(
                f"a budget of {self.allowed:.0f}s is too short for {runs} trainings of {LEAST_ROWS} examples; about "
                f"{np.ceil(need / 60):.0f}m would do (--budget)"
            )
        return {"rows": min(rows, count), "judged": judged}

    def left(self) -> float:
        return self.begin + self.allowed - time.monotonic()

    def finish(self) -> TrainingCertificate:
        first = self.trained({}, SEARCH_SEED, self.search, "the usual plan")
        plans = self.searched(first)
        if not plans:
            return self.told("no change made the training certainly faster at the same loss.")
        for name, changes in sequence(plans, MOST):
            if self.left() < SEEDS * self.cost(changes, first):
                if not self.looks:
                    return self.told("the budget was used up before the first plan could be certified.")
                break
            self.looks.append(self.look(name, changes))
            if not self.looks[-1].passed:
                break
        if any(look.passed for look in self.looks):
            return self.told("")
        last = self.looks[-1]
        slow = (
            f"it is {last.speedup:.2f} times as fast, at least {last.speedup_low:.2f} only"
            if last.speedup_low <= 1
            else ""
        )
        rise = f"the loss could rise by up to {last.rise_high:.4f}, and {last.allowed:.4f} is allowed"
        return self.told(f"of the surest plan ({last.name}) {slow or rise}.")

    # -- search

    def searched(self, first: Run) -> list[Plan]:
        """Plans from the surest to the boldest, as changes of the usual one, and how many times faster they look."""
        changes: dict[str, Any] = {}
        found: list[Plan] = []
        self.tried.append({"name": "the usual plan", "faster": 1.0, "loss": first.loss, "kept": True})
        times = 1.0
        reserve = SEEDS * (first.seconds + self.rough(first)) * 1.6
        done: set[str] = set()
        while True:
            group = self.next_group({**self.base, **changes}, done)
            if group is None or self.left() < reserve:
                return found
            kept = self.first_that_holds(group, changes, first)
            if kept is not None:
                changes = {**changes, **kept.changes}
                times *= self.tried[-1]["faster"]
                found.append((kept.name, dict(changes), times))

    def next_group(self, now: Mapping[str, Any], done: set[str]) -> list[Move] | None:
        """The first group of moves of which none has been tried."""
        course = self.course
        embeddings = "embeddings" in course.block_names
        for group in moves(now, self.lengths(), fast_bf16(course.device), embeddings, self.smaller()):
            kind = ",".join(sorted({name for move in group for name in move.changes if name != "learning_rate"}))
            if group and kind not in done:
                done.add(kind)
                return group
        return None

    def first_that_holds(self, group: list[Move], changes: dict[str, Any], first: Run) -> Move | None:
        for move in group:
            trial = {**changes, **move.changes}
            faster = self.timed(changes, trial, move.name)
            entry: dict[str, Any] = {"name": move.name, "faster": faster, "loss": None, "kept": False}
            self.tried.append(entry)
            if faster is None or faster < WORTH:
                continue
            if move.lossless:
                entry["kept"] = True
                return move
            run = self.trained(trial, SEARCH_SEED, self.search, move.name)
            entry["loss"] = run.loss
            if run.loss <= first.loss * (1 + SPARE * self.max_rise):
                entry["kept"] = True
                return move
        return None

    def timed(self, now: dict[str, Any], trial: dict[str, Any], name: str) -> float | None:
        """How many times faster an epoch is, by the same rows in turn; None for a change that cannot be made."""
        self.tick(None, f"timing: {name}")
        rows = self.course.rows(SEARCH_SEED, max(TIMED, 2 * trial.get("batch_size", 0)))
        try:
            loops = [self.course.trainer({**c, "epochs": 1}, SEARCH_SEED, rows) for c in (now, trial)]
        except (EngineError, InputError):
            return None
        groups = [list(loop.groups(0)) for loop in loops]
        times: list[list[float]] = [[], []]
        for loop, some in zip(loops, groups, strict=True):
            loop.module.train()
            loop.update(some[0], 0)
        for turn in range(3):
            for at in (0, 1) if turn % 2 == 0 else (1, 0):
                start = time.perf_counter()
                for group in groups[at]:
                    loops[at].update(group, 0)
                times[at].append(time.perf_counter() - start)
        epochs = {**self.base, **now}["epochs"] / {**self.base, **trial}["epochs"]
        return float(stats.ratio_interval(*times).estimate * epochs)

    def smaller(self) -> list[int]:
        """Sizes of images below the usual one, of those that the model can be given: half of it and three quarters."""
        course = self.course
        if course.task.ladder.unit != "pixels":
            return []
        size = course.task.shape(course.pipe.plan)[1]
        knob = next(k for k in course.task.knobs()["resize"] if k.name == "size")
        near = (max((n for n in knob.values if n <= share * size), default=size) for share in (0.5, 0.75))
        return sorted({n for n in near if n < size})

    def lengths(self) -> list[int]:
        if self.course.task.ladder.unit == "pixels":
            return []
        if not hasattr(self, "_lengths"):
            pipe = self.course.pipe
            self._lengths = [
                int(n) for a in pipe.arrays(self.course.values[:200]) for n in a.get("attention_mask", _NONE).sum(1)
            ]
        return self._lengths

    def rough(self, first: Run) -> float:
        """Seconds beside the updates of one run."""
        return 0.3 * first.seconds

    def cost(self, changes: Mapping[str, Any], first: Run) -> float:
        """Seconds of one more pair of runs, the usual plan's own only for the first plan."""
        own = first.seconds if not self.looks else 0.0
        return own + 0.7 * first.seconds + self.rough(first)

    # -- certification

    def look(self, name: str, changes: dict[str, Any]) -> TrainingLook:
        pairs: list[tuple[Run, Run]] = []
        for at in range(SEEDS):
            seed, said = FIRST + at, f"repeat {at + 1} of {SEEDS}"
            order = [("the usual plan", {}), (name, changes)]
            made = {
                n: self.trained(c, seed, self.certify, f"{said}: {n}") for n, c in order[:: 1 if at % 2 == 0 else -1]
            }
            pairs.append((made["the usual plan"], made[name]))
        losses = [np.array([r.losses for r in side]) for side in zip(*pairs, strict=True)]
        variance, degrees = stats.pooled_seed_variance([(-losses[0], -losses[1])])
        rise = stats.seeded_drop_bound(
            -losses[0], -losses[1], variance=variance, degrees=degrees, confidence=CONFIDENCE
        )
        speed = stats.ratio_interval([a.seconds for a, _ in pairs], [b.seconds for _, b in pairs])
        before = float(losses[0].mean())
        allowed = self.max_rise * before
        return TrainingLook(
            name, {**self.base, **changes}, rise.high < allowed and speed.low > 1, float(losses[1].mean()), before,
            rise.estimate, rise.high, allowed, speed.estimate, speed.low, float(np.mean([b.score for _, b in pairs])),
            float(np.mean([a.score for a, _ in pairs])), SEEDS, len(self.certify),
        )  # fmt: skip

    def trained(self, changes: Mapping[str, Any], seed: int, part: Any, said: str) -> Run:
        done = min(1 - self.left() / self.allowed, 1.0)
        return self.course.run(changes, seed, self.rows, part, tick=lambda _, m: self.tick(done, f"{said}, {m}"))

    def told(self, reason: str) -> TrainingCertificate:
        passed = [look for look in self.looks if look.passed]
        settings = passed[-1].settings if passed else self.base
        return TrainingCertificate(
            bool(passed), reason, self.max_rise, self.rows, self.base["epochs"], _plain(settings), _plain(self.base),
            tuple(self.looks), tuple(self.tried), self.search.metric, self.course.name, Path(self.course.model).name,
            fingerprint(), round(time.monotonic() - self.begin, 1), datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip


def sequence(plans: list[Plan], most: int) -> list[tuple[str, dict[str, Any]]]:
    """What is held against the usual plan, in an order fixed before the first look: the surest, the boldest, and those
    between. What looks hardly faster would fail by its speed and end the sequence; it is left out if there is more."""
    named = [("; ".join(name for name, *_ in plans[: at + 1]), changes, t) for at, (_, changes, t) in enumerate(plans)]
    clear = [plan for plan in named if plan[2] >= CLEAR] or named[-1:]
    chosen = list(range(len(clear)))
    if len(clear) > most:
        chosen = [round(at * (len(clear) - 1) / (most - 1)) for at in range(most)]
    return [clear[at][:2] for at in chosen]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(settings_of(dict(settings)).__dict__)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}
