"""`tune --weigh`: what each block, each augmentation and the amount of data are worth to a training, by short real runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.budget import seconds
from llm_moments.base.errors import DataError, EngineError, InputError, OutputExists
from llm_moments.evaluate.evaluation import gather, opened
from llm_moments.train.augment import priced_images, priced_texts
from llm_moments.train.gradient_stats import BlockGradients, mean_gradients
from llm_moments.train.short_runs import LEAST_ROWS, Run, ShortRuns, room_for
from llm_moments.weigh.learning import LearningCurve, Point, TrainingWorth
from llm_moments.weigh.verdict import LEVEL
from llm_moments.weigh.worth import Worth, Worths

Tick = Callable[[float | None, str], None]
Changes = Mapping[str, Mapping[str, Any]]  # what it is called -> settings that differ

SEEDS = 3
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of the rows, for the learning curve; the whole is the base's own runs
EVALUATED = 1000  # examples that are judged at most
JUDGING = 0.35  # of the time
FEW = 8  # layers: with no more, each is frozen; of many only those that the cheap figures find
HELD = 0.2  # of the examples, where no others are given to judge by


def weigh_training(
    model: str | Path, data: Any, *, evaluate: Any = None, budget: float | str = "10m", max_drop: float = 0.01,
    exhaustive: bool = False, seeds: int = SEEDS, extra: Changes | None = None, out: str | Path | None = None,
    progress: Tick | None = None, device: str = "auto", read: Mapping[str, Any] | None = None, **settings: Any,
) -> TrainingWorth:  # fmt: skip
    """Trains a model on the user's examples many times, each time with one thing changed, within the budget.

    evaluate: examples to judge by; else a fifth of the data, by a hash, is kept out of the training. extra: further
    changes to be priced, `{"smoothed": {"label_smoothing": 0.1}}`. out: a folder for the runs; the same call goes on
    with them. A drop is what freezing costs; a negative one is a gain. All runs take as many rows and epochs as the
    budget allows, which `about` says: figures are true of trainings of that length.
    """
    if not 2 <= seeds <= 50:
        raise InputError(f"seeds are 2 to 50, for one tells nothing about the others, not {seeds!r}")
    tick = progress or (lambda done, message: None)
    begin, allowed = time.monotonic(), seconds(budget)
    data, evaluate = opened(data, **(read or {})), opened(evaluate, **(read or {}))
    examples, judged_by, name = _parts(data, evaluate)
    settings.setdefault("epochs", 1)
    folder = _folder(Path(out)) if out is not None else None
    course = ShortRuns(
        Path(model), examples, judged_by, settings, folder, device, name, (data, data if evaluate is None else evaluate)
    )
    study = _Study(course, allowed, begin, seeds, tick)
    study.plan(len(course.block_names) + 1 + len(augmentations(course)) + len(extra or {}))
    tick(0.0, "the training as it is")
    first = study.base(0)
    blocks = mean_gradients([list(first.blocks)])
    todo = {**freezes(blocks, exhaustive), **augmentations(course), **(extra or {})}
    study.all(todo)
    return study.result(todo, blocks, max_drop)


def _folder(out: Path) -> Path:
    try:
        return room_for(out)
    except OutputExists as error:
        raise InputError(f"{out} holds something else than an earlier tune --weigh; choose another --out") from error


def _parts(data: Any, evaluate: Any) -> tuple[list[Any], list[Any], str]:
    from llm_moments.data import readers

    examples, name = gather(data)
    if evaluate is not None:
        return examples, gather(evaluate)[0], name
    parts = readers.split(examples, fractions={"learn": 1 - HELD, "judge": HELD})
    if not parts["learn"] or not parts["judge"]:
        raise DataError(f"{name}: {len(examples)} examples are too few to learn from and to judge by; give --eval")
    return parts["learn"], parts["judge"], name


def freezes(blocks: Sequence[BlockGradients], exhaustive: bool = False) -> dict[str, dict[str, Any]]:
    """One block at a time, and the lower half of the model together. Of a deep model only the layers of the least
    Fisher information, with one in the middle of the order as a check on the screen."""
    names = [b.name for b in blocks]
    layers = [b for b in blocks if b.name.startswith("layer")]
    chosen = {b.name for b in layers}
    if len(layers) > FEW and not exhaustive:
        order = sorted(layers, key=lambda b: (b.fisher or 0.0) * b.parameters)
        chosen = {b.name for b in order[: FEW // 2]} | {order[(FEW // 2 + len(order)) // 2].name}
    single = [n for n in names if n in chosen or not n.startswith("layer")]
    made = {f"freeze {n}": {"freeze": [n]} for n in single}
    if len(layers) >= 2:
        lower = ["embeddings"] * ("embeddings" in names) + [b.name for b in layers[: len(layers) // 2]]
        if len(lower) > 1:  # else it is the first layer alone, which is there already
            made[f"freeze all up to {lower[-1]}"] = {"freeze": lower}
    return made


def augmentations(course: ShortRuns) -> dict[str, dict[str, Any]]:
    """Each augmentation that is usual for this task, and that can be had here, alone."""
    if course.problem == "regression":
        return {}
    images = course.task.modality == "image"
    height = course.task.shape(course.pipe.plan)[1] if images else 0
    known = priced_images(height) if images else priced_texts(course.back is not None)
    return {f"augment {name}": choices for name, choices in known.items()}


@dataclass
class _Study:
    """All runs of one call: planned for the budget, seed by seed, so that an early end leaves whole comparisons."""

    course: ShortRuns
    allowed: float
    begin: float
    seeds: int
    tick: Tick
    rows: int = 0
    judged: Any = None
    runs: dict[tuple[str, int], Run] = field(default_factory=dict)
    sized: dict[tuple[int, int], Run] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    longest: float = 0.0
    planned: int = 1

    def plan(self, changes: int) -> None:
        """How many rows a run takes, and how many examples it is judged by; kept, so that the same call goes on."""
        asked = {"changes": changes, "seeds": self.seeds, "budget": self.allowed}
        sizes = self.course.kept("weigh", asked, lambda: self._sizes(changes), ("rows", "judged", "runs"))
        self.rows, self.planned = sizes["rows"], sizes["runs"]
        self.judged = self.course.part.take(range(sizes["judged"]))

    def _sizes(self, changes: int) -> dict[str, int]:
        self.tick(None, "timing an update")
        opening, learning, judging = self.course.pace()
        count = self.seeds * (1 + changes + len(SHARES))
        left = 0.9 * (self.allowed - (time.monotonic() - self.begin)) - count * opening
        work = self.seeds * (1 + changes + sum(SHARES)) * self.course.base.epochs * learning
        work += self.seeds * self.course.translating()  # each seed has rows of its own
        some = int(JUDGING * max(left, 0.0) / (count * judging))
        part = self.course.part
        least = min(100, len(part))
        judged = min(max(some, least), len(part), EVALUATED)
        fits = int((left - count * judged * judging) / work)
        most = len(self.course.values)
        if min(fits, most) < min(LEAST_ROWS, most):
            need = self.allowed + LEAST_ROWS * work + count * judged * judging - left
            raise InputError(
                f"a budget of {self.allowed:.0f}s allows {count} runs of {max(fits, 0)} examples, which teach nothing; about "
                f"{np.ceil(need / 60):.0f}m would do (--budget), or fewer --epochs"
            )
        return {"rows": min(fits, most), "judged": judged, "runs": count}

    def base(self, seed: int) -> Run:
        return self._run("", {}, seed, self.rows, watch=True)

    def all(self, todo: Changes) -> None:
        for seed in range(self.seeds):
            self.base(seed)
            for name, choices in todo.items():
                if name not in self.failed and not self.late(seed):
                    self._try(name, choices, seed)
            for share in SHARES:
                rows = int(self.rows * share)
                if rows >= 8 and not self.late(seed, share):
                    self.sized[rows, seed] = self._run(f"{rows} rows", {}, seed, rows)

    def late(self, seed: int, share: float = 1.0) -> bool:
        """The first two seeds are always run: without them there is no figure at all."""
        return seed > 1 and time.monotonic() - self.begin + share * self.longest > self.allowed

    def _try(self, name: str, choices: Mapping[str, Any], seed: int) -> None:
        try:
            self.runs[name, seed] = self._run(name, choices, seed, self.rows)
        except (EngineError, InputError, DataError) as error:
            self.failed[name] = str(error)

    def _run(self, name: str, choices: Mapping[str, Any], seed: int, rows: int, *, watch: bool = False) -> Run:
        if (name, seed) in self.runs:
            return self.runs[name, seed]
        said = f"seed {seed + 1} of {self.seeds}: {name or 'as it is'}"
        start = time.monotonic()
        done = self.course.run(
            choices, seed, rows, self.judged, watch=watch, tick=lambda _, message: self.tick(None, f"{said}, {message}")
        )
        self.longest = max(self.longest, time.monotonic() - start)
        self.runs[name, seed] = done
        self.tick(min(len(self.runs) / self.planned, 1.0), said)
        return done

    # -- results

    def pairs(self, name: str) -> list[tuple[Run, Run]]:
        """(as it is, changed) of the same seed."""
        known = [seed for seed in range(self.seeds) if (name, seed) in self.runs and ("", seed) in self.runs]
        return [(self.runs["", seed], self.runs[name, seed]) for seed in known]

    def result(self, todo: Changes, blocks: list[BlockGradients], max_drop: float) -> TrainingWorth:
        base = [self.runs["", seed] for seed in range(self.seeds) if ("", seed) in self.runs]
        blocks = mean_gradients([list(run.blocks) for run in base])
        paired = {name: self.pairs(name) for name in todo}
        arrays = {name: _arrays(some) for name, some in paired.items() if len(some) > 1}
        variance, degrees = stats.pooled_seed_variance(list(arrays.values()))
        worths = [
            Worth(name, _step(choices), dict(choices), "unavailable", reason=self.failed.get(name, "the budget was used up"))
            if name not in arrays
            else _priced(name, choices, paired[name], arrays[name], variance, degrees, blocks)
            for name, choices in todo.items()
        ]  # fmt: skip
        known = [b for b in blocks if b.fisher is not None]
        drops = {w.name: w.drop for w in worths}
        both = [(b.fisher * b.parameters, drops.get(f"freeze {b.name}")) for b in known if b.fisher is not None]
        both = [(f, d) for f, d in both if d is not None]
        trust = stats.rank_correlation([f for f, _ in both], [d for _, d in both]) if len(both) > 2 else None
        about = {
            "metric": self.judged.metric, "baseline_score": round(float(np.mean([r.score for r in base])), 4),
            "baseline_loss": round(float(np.mean([r.loss for r in base])), 4), "rows": self.rows,
            "of_rows": len(self.course.values), "epochs": self.course.base.epochs, "updates": base[0].updates,
            "n": len(self.judged), "seeds": len(base), "seeds_spread": round(variance**0.5, 4),
            "rank_correlation": None if trust is None else round(trust, 3),
            "screen": "trace of the Fisher information of a block, against the drop when it is frozen",
            "seconds": round(time.monotonic() - self.begin, 1),
        }  # fmt: skip
        return TrainingWorth(tuple(blocks), Worths(_verdicts(worths, max_drop), **about), self.curve(base), about)

    def curve(self, base: Sequence[Run]) -> LearningCurve:
        runs = {**self.sized, **{(self.rows, run.seed): run for run in base}}
        amounts = sorted({rows for rows, _ in runs})
        full = [s for s in range(self.seeds) if all((rows, s) in runs for rows in amounts)]
        points = tuple(_point(rows, [r for (n, _), r in sorted(runs.items()) if n == rows]) for rows in amounts)
        if len(amounts) < 3 or len(full) < 2:
            return LearningCurve(
                points, reason=f"{len(amounts)} amounts of data and {len(full)} whole seeds are too few."
            )
        scores = np.array([[runs[rows, seed].scores for seed in full] for rows in amounts])
        if scores.min() < 0 or scores.max() > 1:
            return LearningCurve(points, reason="the score is not between 0 and 1.")
        bound = stats.extrapolated_gain(amounts, scores)
        return LearningCurve(points, 2.0, bound.estimate, bound.low, bound.high, bound.method)


def _point(rows: int, runs: Sequence[Run]) -> Point:
    scores = [run.score for run in runs]
    return Point(rows, float(np.mean(scores)), min(scores), max(scores), len(scores))


def _arrays(pairs: Sequence[tuple[Run, Run]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a.scores for a, _ in pairs]), np.array([b.scores for _, b in pairs])


def _step(choices: Mapping[str, Any]) -> str:
    return "backward" if "freeze" in choices else "augment" if {"augment", "balance"} & set(choices) else "train"


def _priced(
    name: str, choices: Mapping[str, Any], pairs: Sequence[tuple[Run, Run]], arrays: tuple[np.ndarray, np.ndarray],
    variance: float, degrees: int, blocks: Sequence[BlockGradients],
) -> Worth:  # fmt: skip
    bound = stats.seeded_drop_bound(*arrays, variance=variance, degrees=degrees)
    harmful, beneficial = stats.flips(arrays[0].mean(0), arrays[1].mean(0))
    speed = stats.ratio_interval([a.update_s for a, _ in pairs], [b.update_s for _, b in pairs])
    frozen = choices.get("freeze", ())
    screened = next((b.fisher for b in blocks if frozen == [b.name]), None)
    return Worth(
        name, _step(choices), dict(choices), "unclear", saving=1 - 1 / speed.estimate, saving_low=1 - 1 / speed.low,
        saving_high=1 - 1 / speed.high, drop=bound.estimate, drop_low=bound.low, drop_high=bound.high, harmful=harmful,
        beneficial=beneficial, n=bound.n, screened=screened,
    )  # fmt: skip


def _verdicts(worths: list[Worth], max_drop: float) -> list[Worth]:
    """By the bounds, which know of the seeds; p-values from them as from a normal distribution, corrected (Holm)."""
    known = [w for w in worths if w.drop is not None]
    if not known:
        return worths
    loses, gains = (stats.holm([_p(w, side) for w in known]) for side in (1, -1))
    corrected = {w.name: (loss, gain) for w, loss, gain in zip(known, loses, gains, strict=True)}
    return [w if w.drop is None else _judged(w, *corrected[w.name], max_drop) for w in worths]


def _judged(worth: Worth, loses: float, gains: float, max_drop: float) -> Worth:
    drop, high = worth.drop or 0.0, worth.drop_high or 0.0
    if gains < LEVEL:
        return replace(worth, verdict="helps", p=gains)
    if high < max_drop:
        return replace(worth, verdict="free" if loses >= LEVEL else "cheap", p=loses)
    if loses < LEVEL:
        return replace(worth, verdict="needed" if drop >= max_drop else "cheap", p=loses)
    return replace(worth, verdict="unclear", p=loses)


def _p(worth: Worth, side: int) -> float:
    """Of no loss (side 1) or no gain (-1); the bounds are 1.645 standard errors away."""
    from scipy.special import ndtr

    drop, low, high = worth.drop or 0.0, worth.drop_low or 0.0, worth.drop_high or 0.0
    near = (drop - low) if side > 0 else (high - drop)
    return float(ndtr(-1.645 * side * drop / max(near, 1e-12)))
