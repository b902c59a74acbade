"""One answer of a classifier opened up: how long it takes, whether its order of words beats chance, and whether a word
that decides by construction is found.

    python benchmarks/explaining.py [--model .demo/model] [--data .samples/r8-test.csv] [--rows 100] [--dry]

Planted: the labels of the same texts are made anew, by which of as many made-up words was put into each at a random place;
the encoder learns those, and the word must come first. Timed: `explain` with depth 0, warm, on the engine of the plan.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import results

import llm_moments as lm
from llm_moments.data.readers import read

MARKS = ("quorvex", "blintar", "shomely", "drafnik")
GOAL_SECONDS, GOAL_BETTER, GOAL_PLANTED = 0.5, 0.95, 0.99
PLANS = {
    "torch fp32, as the model comes": {},
    "openvino fp32": {"forward.engine": "openvino", "forward.precision": "fp32"},
    "openvino int8-dynamic": {"forward.engine": "openvino", "forward.precision": "int8-dynamic"},
}


def planted(texts: list[str], seed: int) -> list[lm.Example]:
    rng = random.Random(seed)
    made = []
    for text in texts:
        words, mark = text.split()[:60], rng.choice(MARKS)
        at = rng.randint(0, len(words))
        made.append(lm.Example(" ".join([*words[:at], mark, *words[at:]]), mark))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--encoder", default=".samples/encoder")
    parser.add_argument("--data", default=".samples/r8-test.csv")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    texts = [str(example.input) for example in read(given.data, limit=given.rows)]
    rows = []
    for name, changes in PLANS.items():
        pipe = lm.load(given.model).with_(**changes)
        lm.explain(pipe, texts[0], depth=0)
        seconds, held, asked, lost = [], 0, [], []
        for text in texts:
            begin = time.perf_counter()
            found = lm.explain(pipe, text, depth=0)
            seconds.append(time.perf_counter() - begin)
            held += found.test.holds
            asked.append(found.asked)
            lost.append((found.test.lost, found.test.by_chance))
        ours, chance = np.mean(lost, axis=0)
        rows.append((
            name, f"{np.median(seconds):.2f}", f"{np.quantile(seconds, 0.95):.2f}", f"{np.mean(np.array(seconds) <= GOAL_SECONDS):.0%}",
            f"{held / len(texts):.0%}", f"{ours:.2f}", f"{chance:.2f}", f"{np.median(asked):.0f}",
        ))  # fmt: skip
    known = [str(example.input) for example in read(given.data)]
    with tempfile.TemporaryDirectory() as room:
        learn = planted(known[given.rows : given.rows + 1200], 1)
        model = lm.train(given.encoder, learn, Path(room) / "m", epochs=3, max_length=96, learning_rate=2e-4).folder
        pipe = lm.load(model)
        judged = planted(known[: given.rows], 2)
        right = [example for example in judged if pipe(example.input).label == example.reference]
        first = [lm.explain(pipe, e.input, depth=0).strongest(1)[0].name == e.reference for e in right]
    lines = [
        f"{len(texts)} texts of {given.data}; 19 orders by chance each, of 1, 2, 4 and 8 words left out.", "",
        *results.table(
            ("plan", "seconds, median", "95%", f"within {GOAL_SECONDS} s", "beat chance", "lost, nats", "by chance", "times asked"), rows
        ), "",
        f"Planted words: the model is right on {len(right)} of {len(judged)} texts; in {sum(first)} of these the planted word comes first.", "",
        f"Goals: {GOAL_SECONDS} s a text on the engine that answers; better than chance in {GOAL_BETTER:.0%} of rows; planted found in {GOAL_PLANTED:.0%}.",
    ]  # fmt: skip
    if given.dry:
        print("\n".join(lines))
    else:
        results.write("One answer opened up", lines)


if __name__ == "__main__":
    main()
