"""Certificates that hold: synthetic studies whose true drop is just the budget.

    python benchmarks/certificates.py [--studies 4000] [--seed 0] [--only flips,scores,…] [--out FILE] [--dry]

Each cell of the table is a way in which data may come: a number of examples, a rate of flips or a
distribution of scores, one to three candidates. Printed is the share of studies that is falsely certified.
Of flips of one candidate it is summed over all outcomes there can be, exactly, and may be 5%. Of all else
so many studies are drawn, and it may be 5% and what Monte-Carlo error explains at 99.9%, corrected for the
number of cells (Bonferroni); the exit code is 1 if any cell is above that. The candidates of a study are
chosen on a search split, which shares no example with the certification split. Every core works on cells.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import results
from scipy.stats import binom

from llm_moments import stats
from llm_moments.base.environment import usable_cores

ALPHA = 0.05
Rng = np.random.Generator


@dataclass(frozen=True)
class Cell:
    """One setting: the share of studies that were certified though the drop was the whole budget. studies: 0 where the
    share is exact."""

    family: str
    name: str
    n: int
    candidates: int
    studies: int
    share: float
    seconds: float

    def above(self, most: float) -> bool:
        return self.share > (most if self.studies else ALPHA)


@dataclass(frozen=True)
class Setting:
    """`study` draws one study and says whether it was falsely certified; `exact`, where it is given, is the share itself."""

    family: str
    name: str
    n: int
    candidates: int
    study: Callable[[Rng], bool] | None
    exact: Callable[[], float] | None = None

    def run(self, studies: int, seed: int) -> Cell:
        start = time.perf_counter()
        if self.exact is not None:
            studies, share = 0, self.exact()
        else:
            assert self.study is not None
            rng = np.random.default_rng([seed, self.n, self.candidates, len(self.name)])
            share = sum(self.study(rng) for _ in range(studies)) / studies
        took = time.perf_counter() - start
        return Cell(self.family, self.name, self.n, self.candidates, studies, share, took)


# ------------------------------------------------------------------------- right and wrong answers


def flips(drop: float, beneficial: float, n: int) -> Callable[[], float]:
    """Summed over the counts of flips: for so many beneficial ones, every count of harmful ones up to a limit certifies."""

    def passes(harmful: int, gained: int) -> bool:
        return harmful >= 0 and harmful + gained <= n and stats.flip_pvalue(harmful, gained, n, drop) <= ALPHA

    def exact() -> float:
        first, last = (int(count) for count in binom.ppf([1e-9, 1 - 1e-9], n, beneficial))
        share, most = 0.0, -1
        for gained in range(first, last + 1):
            while passes(most + 1, gained):
                most += 1
            while most >= 0 and not passes(most, gained):
                most -= 1
            harmful = binom.cdf(most, n - gained, (beneficial + drop) / (1 - beneficial))
            share += float(binom.pmf(gained, n, beneficial) * harmful)
        return share

    return exact


def flip_settings() -> Iterator[Setting]:
    for n in (20, 50, 100, 300, 1000, 2000, 5000):
        for drop in (0.005, 0.01, 0.02, 0.05, 0.1):
            for beneficial in (0.0, 0.001, 0.01, 0.05, 0.2):
                name = f"drop {drop:g}, beneficial {beneficial:g}"
                yield Setting("flips", name, n, 1, None, flips(drop, beneficial, n))


# -------------------------------------------------------------------------------- scores of examples


def rarely(rng: Rng, n: int, share: float) -> np.ndarray:
    return (rng.random(n) < share).astype(float)


# Paired differences with mean 0.05, and the range of scores of a baseline that scores 0 throughout, or
# None: a range that is not known, to be guessed from the scores.
DROPS: dict[str, tuple[Callable[[Rng, int], np.ndarray], tuple[float, float] | None]] = {
    "uniform": (lambda rng, n: rng.uniform(-0.25, 0.35, n), (-0.35, 0.25)),
    "all or nothing": (lambda rng, n: rarely(rng, n, 0.05), (-1, 0)),
    "rare harm in noise": (
        lambda rng, n: 0.9 * rarely(rng, n, 0.05 / 0.9) + rng.normal(0, 0.01, n),
        (-1, 0.1),
    ),
    "small gains, large losses": (lambda rng, n: 0.92 * rarely(rng, n, 0.07 / 0.92) - 0.02, (-0.9, 0.02)),
    "large gains, small losses": (lambda rng, n: 0.1 - 0.9 * rarely(rng, n, 0.05 / 0.9), (-0.1, 0.8)),
    "sparse, any size": (lambda rng, n: rarely(rng, n, 0.1) * rng.uniform(0, 1, n), (-1, 0)),
    "thirds and halves": (
        lambda rng, n: rarely(rng, n, 0.3) * rng.choice([-0.5, -1 / 3, 1 / 3, 0.5, 0.5, 0.5], n),
        (-0.5, 0.5),
    ),
    "beta, skewed": (lambda rng, n: rng.beta(0.1, 1.9, n), (-1, 0)),
    "normal, range unknown": (lambda rng, n: rng.normal(0.05, 0.1, n), None),
    "exponential, range unknown": (lambda rng, n: rng.exponential(0.05, n), None),
    "log-normal, range unknown": (lambda rng, n: 0.05 * rng.lognormal(-0.5, 1, n), None),
    "t3, range unknown": (lambda rng, n: 0.05 + 0.05 * rng.standard_t(3, n), None),
    "squared normal, range unknown": (lambda rng, n: 0.05 * rng.normal(0, 1, n) ** 2, None),
    "sparse exponential, range unknown": (
        lambda rng, n: rarely(rng, n, 0.2) * rng.exponential(0.25, n),
        None,
    ),
}


def scores(name: str, n: int) -> Callable[[Rng], bool]:
    draw, bounds = DROPS[name]
    before = np.zeros(n)

    def study(rng: Rng) -> bool:
        return stats.drop_pvalue(before, -draw(rng, n), 0.05, bounds=bounds) <= ALPHA

    return study


def score_settings() -> Iterator[Setting]:
    for n in (5, 10, 30, 100, 300, 1000):
        for name in DROPS:
            yield Setting("scores", name, n, 1, scores(name, n))


# --------------------------------------------------------------------------------- several candidates


def chosen(drops: np.ndarray, candidates: int) -> np.ndarray:
    """The candidates that lost least on the search split; drops: [plans, examples]."""
    return np.argsort(drops.mean(axis=1), kind="stable")[:candidates]


def certified(drops: np.ndarray, pvalue: Callable[[np.ndarray], float]) -> bool:
    """Whether any of the candidates passes, tested in this order up to the first that fails."""
    return stats.fixed_sequence(map(pvalue, drops), ALPHA) > 0


def related_flips(rng: Rng, plans: int, n: int, drop: float, kinship: float) -> np.ndarray:
    """Drops [plans, n] of -1, 0, 1: plans with the same rates that flip much the same examples."""
    mine, shared = rng.random((plans, n)), rng.random(n)
    u = np.where(rng.random((plans, n)) < kinship, shared, mine)
    return np.where(u < 0.02 + drop, 1.0, np.where(u > 0.98, -1.0, 0.0))


def searched_flips(candidates: int, n: int, kinship: float) -> Callable[[Rng], bool]:
    def pvalue(one: np.ndarray) -> float:
        return stats.flip_pvalue(int((one > 0).sum()), int((one < 0).sum()), n, 0.02)

    def study(rng: Rng) -> bool:
        drops = related_flips(rng, 12, 2 * n, 0.02, kinship)
        return certified(drops[chosen(drops[:, :n], candidates), n:], pvalue)

    return study


def searched_scores(candidates: int, n: int) -> Callable[[Rng], bool]:
    def pvalue(one: np.ndarray) -> float:
        return stats.drop_pvalue(np.full(n, 0.0), -one, 0.05, bounds=(-1, 0.1))

    def study(rng: Rng) -> bool:
        shared, drops = rarely(rng, 2 * n, 0.03), np.empty((12, 2 * n))
        for row in drops:
            row[:] = 0.9 * np.maximum(shared, rarely(rng, 2 * n, (0.05 / 0.9 - 0.03) / 0.97))
        drops += rng.uniform(-0.05, 0.05, drops.shape)
        return certified(drops[chosen(drops[:, :n], candidates), n:], pvalue)

    return study


def candidate_settings() -> Iterator[Setting]:
    for candidates in (1, 2, 3):
        for n in (50, 200, 600):
            for kinship in (0.0, 0.5, 0.95):
                name = f"flips, 12 plans searched, {kinship:.0%} shared"
                yield Setting("candidates", name, n, candidates, searched_flips(candidates, n, kinship))
            name = "scores, 12 plans searched, rare harm"
            yield Setting("candidates", name, n, candidates, searched_scores(candidates, n))


# ---------------------------------------------------------------------------------------- paired times

NOISE: dict[str, tuple[Callable[[Rng, int], np.ndarray], float]] = {  # of log ratios, and its median
    "normal": (lambda rng, n: rng.normal(0, 0.05, n), 0.0),
    "slow spells on both sides": (
        lambda rng, n: rng.normal(0, 0.05, n) + rarely(rng, n, 0.1) - rarely(rng, n, 0.1),
        0.0,
    ),
    "t2": (lambda rng, n: 0.05 * rng.standard_t(2, n), 0.0),
    "exponential, slow baseline": (lambda rng, n: rng.exponential(0.1, n), float(np.log(2)) / 10),
    "exponential, slow candidate": (lambda rng, n: -rng.exponential(0.1, n), -float(np.log(2)) / 10),
}


def speedups(name: str, n: int) -> Callable[[Rng], bool]:
    draw, median = NOISE[name]

    def study(rng: Rng) -> bool:
        ratio = 3 * np.exp(draw(rng, n) - median)
        return stats.ratio_interval(ratio, np.ones(n), seed=int(rng.integers(2**31))).low > 3

    return study


def speed_settings() -> Iterator[Setting]:
    for n in (3, 5, 7, 9, 12, 20):
        for name in NOISE:
            if n >= 5 or "exponential" not in name:  # 3 skewed pairs prove nothing, as its docstring says
                yield Setting("speed-up", name, n, 1, speedups(name, n))


# ------------------------------------------------------------------------------------------- the table

FAMILIES = {
    "flips": flip_settings,
    "scores": score_settings,
    "candidates": candidate_settings,
    "speed-up": speed_settings,
}


def allowed(studies: int, cells: int) -> int:
    """False certificates that chance explains at 99.9% if each is 5% likely, for all cells together."""
    return int(binom.ppf(1 - 0.001 / cells, studies, ALPHA))


def line(cell: Cell, most: float) -> str:
    flag = "  ABOVE 5%" if cell.above(most) else ""
    what = f"{cell.family:<11}{cell.name:<45}{cell.n:>6}{cell.candidates:>6}"
    return f"{what}{cell.studies or 'all':>9}{cell.share:>9.2%}{cell.seconds:>8.1f}{flag}"


def section(cells: list[Cell], most: float, seconds: float) -> list[str]:
    rows = []
    for family in dict.fromkeys(cell.family for cell in cells):
        mine = [cell for cell in cells if cell.family == family]
        worst = max(mine, key=lambda cell: cell.share)
        drawn = f"{mine[0].studies:,} drawn" if mine[0].studies else "all outcomes"
        limit = most if mine[0].studies else ALPHA
        rows.append(
            (family, f"{len(mine)}", drawn, f"{worst.share:.2%}", f"{worst.name}, n = {worst.n:,}", f"{limit:.2%}",
             str(sum(cell.above(most) for cell in mine)))
        )  # fmt: skip
    heads = ("", "cells", "studies a cell", "worst share", "where", "may be", "cells above that")
    return [
        "Share of synthetic studies that are certified though the true drop is the whole budget (speed-up: though it is less).",
        "", *results.table(heads, rows), "",
        f"{seconds:.0f} s. Goal: 5%, and where studies are drawn what Monte-Carlo error explains at 99.9% for all cells together.",
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Share of false certificates at a true drop of the budget.")
    parser.add_argument("--studies", type=int, default=4000, help="studies a cell (default 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(FAMILIES), help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    parsed = parser.parse_args()
    unknown = set(parsed.only.split(",")) - set(FAMILIES)
    if unknown or parsed.studies < 1:
        parser.error(f"unknown: {', '.join(sorted(unknown))}" if unknown else "--studies must be at least 1")
    return parsed


def settings_of(families: str) -> list[Setting]:
    return [one for family in families.split(",") for one in FAMILIES[family]()]


def worked(job: tuple[str, int, int, int]) -> Cell:
    """A cell in a process of its own: what draws studies is made there, since functions do not travel."""
    families, at, studies, seed = job
    return settings_of(families)[at].run(studies, seed)


def all_cells(given: argparse.Namespace, most: float) -> list[Cell]:
    jobs = [(given.only, at, given.studies, given.seed) for at in range(len(settings_of(given.only)))]
    print(f"{'family':<11}{'setting':<45}{'n':>6}{'looks':>6}{'studies':>9}{'false':>9}{'s':>8}")
    cells = []
    with multiprocessing.get_context("spawn").Pool(usable_cores()) as pool:
        for cell in pool.imap(worked, jobs):
            cells.append(cell)
            print(line(cell, most), flush=True)
    return cells


def main() -> int:
    given = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has a cell of its own
    start = time.perf_counter()
    most = allowed(given.studies, len(settings_of(given.only))) / given.studies
    cells = all_cells(given, most)
    told = section(cells, most, time.perf_counter() - start)
    if given.dry:
        print("\n".join(told))
    else:
        results.write("Certificates that hold", told)
    if given.out:
        rows = [{**asdict(cell), "above": cell.above(most)} for cell in cells]
        limits = {"alpha": ALPHA, "studies": given.studies, "seed": given.seed, "allowed": most}
        given.out.write_text(json.dumps({**limits, "cells": rows}, indent=1) + "\n")
    return 1 if any(cell.above(most) for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
