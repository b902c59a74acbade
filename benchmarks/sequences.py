"""In which order candidates go to the certification: five levels against the whole front, replayed on recorded studies.

    python benchmarks/sequences.py record [r8 r52 …] [--small] [--budget SECONDS]
    python benchmarks/sequences.py replay [r8 r52 …] [--splits 300] [--draws 500] [--dry]

`record` learns a model, lets `improve` search, and asks every plan that it found all rows (recorded.py, studies.py);
what is there is not made again. `replay` draws splits of those rows, estimates each plan's chance to pass from the
search rows, puts candidates in order by each rule, and tests them on the certification rows as `improve` does.

Rows are split as `improve` splits them, and so that 1,000 are certified on. Worst case: rows are drawn with those
that a plan loses made as much commoner as makes its true drop just the budget; certified is that plan, or one that is
worse, in at most 5% of the draws if the claim holds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import recorded
import results
import studies
from orders import ALONE, ALPHA, BEFORE, GAIN, NOW, RULES, Draw, Replay
from scipy.stats import binom

from llm_moments.base.environment import usable_cores
from llm_moments.evaluate.evaluation import PARTS

MANY = 1000  # rows to certify on
USUAL = int(PARTS["search"] / PARTS["certify"] * MANY), MANY
TILTED = 8  # plans at most whose drop is made the budget
GOAL = {"gain": 1.4, "false": 0.05, "nothing": 0.02}


# ------------------------------------------------------------------------------------------------ many splits


@dataclass(frozen=True)
class Outcome:
    """Of many splits: geometric mean of the certified gain (1 where there is none), shares without a certificate and with a false one."""

    gain: float
    nothing: float
    false: float


def sizes(study: recorded.Recorded) -> list[tuple[int, int]]:
    """(search, certify) rows as `improve` splits all of them, and where there are enough with `MANY` to certify on."""
    rows = len(study.before)
    real = min(int(PARTS["search"] * rows), study.most[0]), min(int(PARTS["certify"] * rows), study.most[1])
    return [real, *([USUAL] if sum(USUAL) <= rows else [])]


def outcomes(replay: Replay, search: int, certify: int, splits: int, seed: int) -> dict[str, Outcome]:
    rng, true = np.random.default_rng(seed), replay.drops.mean(axis=1)
    rows = replay.drops.shape[1]
    gains: dict[str, list[float]] = {name: [] for name in RULES}
    false = dict.fromkeys(RULES, 0)
    for _ in range(splits):
        order = rng.permutation(rows)
        looked, held = np.zeros((2, rows), np.int64)
        looked[order[:search]] = held[order[search : search + certify]] = 1
        draw = Draw(replay, looked, held)
        for name, rule in RULES.items():
            passed = rule(draw)
            taken = max(passed, key=lambda p: replay.gains[p], default=None)
            gains[name].append(1.0 if taken is None else float(replay.gains[taken]))
            false[name] += taken is not None and true[taken] >= replay.max_drop
    return {
        name: Outcome(float(np.exp(np.log(some).mean())), float(np.mean(np.array(some) == 1)), false[name] / splits)
        for name, some in gains.items()
    }


def tilted(drops: np.ndarray, budget: float) -> np.ndarray | None:
    """Chances of rows to be drawn that make the mean of these drops the budget: rows that lose come more often, or
    less. None where no row loses enough."""
    lost = drops > 0
    room = drops[lost].sum() - budget * lost.sum()
    needed = budget * (~lost).sum() - drops[~lost].sum()
    if not lost.any() or room <= 0 or needed <= 0:
        return None
    weights = np.where(lost, needed / room, 1.0)
    return weights / weights.sum()


@dataclass(frozen=True)
class Worst:
    """Shares of draws in which a plan passed whose true drop is the budget or more: the worst plan's, and all draws'."""

    worst: float
    mean: float


def worst_cases(replay: Replay, draws: int, seed: int) -> tuple[dict[str, Worst], int]:
    """For the plans whose drop is nearest the budget, how many these were, too. Beside the rules: such a plan looked at
    alone, which is how often the bound itself fails."""
    near = np.argsort(np.abs(replay.drops.mean(axis=1) - replay.max_drop), kind="stable")
    weights = {int(p): tilted(replay.drops[p], replay.max_drop) for p in near if replay.gains[p] > GAIN}
    chosen = [(p, w) for p, w in weights.items() if w is not None][:TILTED]
    shares: dict[str, list[float]] = {name: [] for name in (*RULES, ALONE)}
    for plan, chances in chosen:
        rng = np.random.default_rng([seed, plan])
        bad = replay.drops @ chances >= replay.max_drop - 1e-9
        false = dict.fromkeys(shares, 0)
        for _ in range(draws):
            draw = Draw(replay, *(rng.multinomial(rows, chances) for rows in USUAL))
            for name, rule in RULES.items():
                false[name] += any(bad[p] for p in rule(draw))
            false[ALONE] += draw.pvalue(plan) < ALPHA
        for name, count in false.items():
            shares[name].append(count / draws)
    return {name: Worst(max(s, default=0.0), float(np.mean(s or [0]))) for name, s in shares.items()}, len(chosen)


# ------------------------------------------------------------------------------------------------ the tables


def best_possible(replay: Replay) -> float:
    able = replay.gains[replay.drops.mean(axis=1) < replay.max_drop]
    return float(max(able.max(initial=1.0), 1.0))


def said(outcome: Outcome) -> str:
    return f"{outcome.gain:.2f}; {outcome.nothing:.1%}; {outcome.false:.1%}"


@dataclass(frozen=True)
class Replayed:
    """What one study gives for the tables, and whether the whole front reaches the goals on it."""

    about: tuple[str, ...]
    gains: list[tuple[str, ...]]
    wrong: tuple[str, ...]
    met: dict[str, bool]


def replayed(study: recorded.Recorded, splits: int, draws: int, seed: int) -> Replayed:
    begin, replay = time.monotonic(), Replay(study)
    found = {split: outcomes(replay, *split, splits, seed) for split in sizes(study)}
    ratios = [one[NOW].gain / one[BEFORE].gain for one in found.values()]
    gains = [
        (study.name, f"{search:,} + {certify:,}", *(said(one[rule]) for rule in RULES), f"{ratio:.2f}")
        for ((search, certify), one), ratio in zip(found.items(), ratios, strict=True)
    ]
    many = draws if replay.flips else max(draws // 5, 1)  # the test of other scores takes milliseconds
    shares, plans = worst_cases(replay, many, seed)
    most = float(binom.ppf(1 - 0.001 / max(plans, 1), many, ALPHA)) / many
    told = (f"{one.worst:.1%}; {one.mean:.1%}" for one in shares.values())
    met = {"gain": min(ratios) >= GOAL["gain"]}
    if plans:
        met["false"] = shares[NOW].worst <= most
    if USUAL in found:
        met["nothing"] = found[USUAL][NOW].nothing <= GOAL["nothing"]
    recorded.say(study.name, f"replayed in {time.monotonic() - begin:.0f} s")
    return Replayed(described(replay), gains, (study.name, f"{plans} x {many:,}", *told, f"{most:.1%}"), met)


def described(replay: Replay) -> tuple[str, ...]:
    study = replay.study
    kinds = [f"{study.kinds.count(kind)} {kind}" for kind in dict.fromkeys(study.kinds)]
    plans = ", ".join(kinds) + (f" ({study.left_out} left out)" if study.left_out else "")
    keep = int((replay.drops.mean(axis=1) < replay.max_drop).sum())
    return (
        study.name, study.words, f"{study.metric} {study.before.mean():.4f}", f"{len(study.before):,}", plans, str(keep),
        f"{replay.max_drop:g}", f"{best_possible(replay):.2f}", f"{study.seconds:.0f}",
    )  # fmt: skip


def lines(all_: list[Replayed], left: list[str], splits: int) -> list[str]:
    def reached(goal: str) -> str:
        known = [one.met[goal] for one in all_ if goal in one.met]
        return f"{sum(known)} of {len(known)}"

    heads = (
        "study",
        "what",
        "score",
        "rows",
        "plans",
        "that keep the budget",
        "budget",
        "fastest of these",
        "recorded in s",
    )
    told = [
        *results.table(heads, [one.about for one in all_]), "",
        f"{splits} splits each. Geometric mean of the certified gain over the stock plan (1 where nothing is certified); "
        "share of splits with nothing; share certified falsely (the true drop on all rows is the budget or more).", "",
        *results.table(
            ("study", "rows: search + certify", *RULES, f"{NOW} / {BEFORE}"), [row for one in all_ for row in one.gains]
        ), "",
        f"Where a plan's true drop is just the budget ({MANY:,} rows to certify on): share of draws in which a plan with such "
        "a drop, or a larger one, passes: of the worst plan; of all.", "",
        *results.table(
            ("study", "plans x draws", *RULES, ALONE, "5% and Monte-Carlo error"), [one.wrong for one in all_]
        ), "",
        f"Goals of the whole front: {GOAL['gain']:g} times the gain of five levels, in every row: {reached('gain')} studies; "
        f"false in at most 5% (and Monte-Carlo error at 99.9%) of draws: {reached('false')}; nothing in at most "
        f"{GOAL['nothing']:.0%} of splits with {MANY:,} rows to certify on: {reached('nothing')}.",
    ]  # fmt: skip
    return [*told, "", f"Not recorded: {', '.join(left)}."] if left else told


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("record", "replay"))
    parser.add_argument("names", nargs="*", metavar="study", help=f"of {', '.join(studies.KINDS)}; default: all")
    parser.add_argument("--room", type=Path, default=recorded.ROOM)
    parser.add_argument("--small", action="store_true", help="record few rows: a try of the code, not a study")
    parser.add_argument("--budget", type=float, help="seconds of each search, where a study's own will not do")
    parser.add_argument("--splits", type=int, default=300)
    parser.add_argument("--draws", type=int, default=500, help="for each plan whose drop is made the budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    given = parser.parse_args()
    if unknown := set(given.names) - set(studies.KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(studies.KINDS)}")
    given.names = given.names or list(studies.KINDS)
    return given


def record_all(given: argparse.Namespace) -> None:
    for name in given.names:
        if recorded.recorded(name, given.room) is not None:
            recorded.say(name, "is recorded")
            continue
        kind = studies.KINDS[name]
        kind = replace(kind, budget=given.budget or kind.budget)
        try:
            study = recorded.record(kind, given.room, given.small)
        except studies.Missing as error:
            recorded.say(name, f"left out: {error}")
            continue
        recorded.say(name, f"{len(study.costs)} plans on {len(study.before):,} rows, {study.seconds:.0f} s")


def main() -> int:
    given = arguments()
    if given.verb == "record":
        record_all(given)
        return 0
    known = {name: recorded.recorded(name, given.room) for name in given.names}
    jobs = [(study, given.splits, given.draws, given.seed) for study in known.values() if study is not None]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has a study of its own
    with multiprocessing.get_context("spawn").Pool(min(usable_cores(), max(len(jobs), 1))) as pool:
        found = pool.starmap(replayed, jobs, chunksize=1)
    told = lines(found, [name for name, study in known.items() if study is None], given.splits)
    if given.dry:
        print("\n".join(told))
    else:
        results.write("Candidates in order: five levels and the whole front", told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
