"""Issue of training, goal 3: half the layers healed and certified, and `improve --heal` beside the plain `improve`.

    python benchmarks/healing.py [--model .demo/model] [--taught .samples/r8-train.csv] [--data .samples/r8-improve.csv]
                                 [--test .samples/r8-test.csv] [--seconds 300]

Three things: a student of 3 layers, its time from the command to the model, and the bound of its drop on the test rows;
one of 1 layer at 32 tokens, with its time; and both searches with the same budget, their artefacts
held beside each other on the test rows. The test rows serve as judges only; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import results

import llm_moments as lm
from llm_moments import stats
from llm_moments.evaluate.evaluation import evaluation, gather
from llm_moments.improve.heal import RATE, RATES, without
from llm_moments.train.distill import distill


def student(wanted: Any, taught: list[Any], layers: str, length: int, seconds: float, folder: Path) -> tuple[Any, ...]:
    """(what, seconds of all of it, accuracy, drop, its bound, layers kept)"""
    teacher = lm.load(wanted.model, plan={"truncate.max_length": wanted.tokens})
    start = time.perf_counter()
    done = distill(
        teacher, taught, folder, student=f"layers={layers}", max_length=length, seconds=seconds,
        learning_rate=RATES["one"] if layers == "1" else RATE,
    )  # fmt: skip
    spent = time.perf_counter() - start
    judged = evaluation(teacher, gather(wanted.test)[0])
    before, after = told(teacher, judged), told(lm.load(done.folder), judged)
    bound = stats.drop_bound(before, after)
    return (
        f"{layers} layers at {length} tokens",
        spent,
        after.mean(),
        bound.estimate,
        bound.high,
        done.settings["epochs"],
    )


def told(pipe: Any, part: Any) -> np.ndarray:
    outputs = pipe.with_(**{"batch.order": "length", "batch.size": 32}).outputs(part.values)
    return part.scores(outputs, outputs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--taught", default=".samples/r8-train.csv")
    parser.add_argument("--data", default=".samples/r8-improve.csv")
    parser.add_argument("--test", default=".samples/r8-test.csv")
    parser.add_argument("--tokens", type=int, default=96, help="that the teacher reads")
    parser.add_argument("--seconds", type=float, default=300)
    wanted = parser.parse_args()
    taught = without([e.input for e in gather(wanted.taught)[0]], [e.input for e in gather(wanted.test)[0]])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for layers, length, share in (("3", 96, 0.6), ("1", 32, 0.3)):
            seconds = share * wanted.seconds
            rows.append(student(wanted, taught, layers, length, seconds, Path(folder) / f"{layers}-{length}"))
            print(rows[-1], file=sys.stderr)
        made = {}
        for name, heal in (("plain", False), ("healed", taught)):
            out = Path(folder) / name
            done = lm.improve(wanted.model, wanted.data, budget=wanted.seconds, out=out, heal=heal)
            made[name] = out
            print(name, done.certificate.words(), done.healing, file=sys.stderr)
        found = lm.compare(made["plain"], made["healed"], wanted.test).to_dict()
    results.write("Healing", [
        f"R8, {len(taught):,} texts to learn from (no labels), {len(gather(wanted.test)[0]):,} to judge by; no more than "
        f"{wanted.seconds:.0f} s for each search. Goal: 3 layers within 1.0 point, certified, in 300 s.", "",
        *results.table(
            ("student", "seconds", "epochs", "accuracy", "drop", "drop at most (95%)"),
            [(n, f"{s:.0f}", str(e), f"{a:.4f}", f"{d:+.4f}", f"{h:+.4f}") for n, s, a, d, h, e in rows],
        ), "",
        f"`improve --heal` beside `improve`: {found['speedup']:.2f} times as fast ({found['speedup_low']:.2f} to "
        f"{found['speedup_high']:.2f}); accuracy {found['score_a']:.4f} (plain) and {found['score_b']:.4f} (healed). Goal: 1.3 times.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
