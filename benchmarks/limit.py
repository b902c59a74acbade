"""Goal 2: how near the classify-everything path comes to what the machine can do in its precision.

    python benchmarks/limit.py [--model .demo/model] [--artefact .demo/improved] [--test .samples/r8-test.csv]

The forward step's counted operations over its time, by the measured peak of that precision (`moments doctor`).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import results

import llm_moments as lm
from llm_moments.evaluate.evaluation import gather
from llm_moments.record.record import observe

SORTED = {"batch.order": "length", "batch.tokens": 8192, "batch.size": 64, "batch.reuse": True, "forward.streams": 2}
OPENVINO = {**SORTED, "forward.engine": "openvino"}
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--artefact", default=".demo/improved")
    parser.add_argument("--test", default=".samples/r8-test.csv")
    wanted = parser.parse_args()
    texts = [e.input for e in gather(wanted.test)[0]]
    pipes = {"improved": lm.load(wanted.artefact)}
    for length in (32, 96, 256):
        for precision in ("bf16", "fp32"):
            plan = {**OPENVINO, "forward.precision": precision, "truncate.max_length": length}
            pipes[f"OpenVINO {precision}, {length} tokens"] = lm.load(wanted.model, plan=plan)
    shares: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {name: [] for name in pipes}
    for turn in range(ROUNDS + 1):
        for name, pipe in pipes.items():
            session = observe(pipe, texts if "fp32" not in name else texts[turn::8], 0)
            for _, step in session.root.walk():
                if turn and step.limit and step.limit.value is not None:
                    shares.setdefault(_named(name, step, session), []).append(step.limit.value)
            if turn:
                rates[name].append(session.figures["throughput"].value or 0.0)
        print(f"round {turn} of {ROUNDS}", file=sys.stderr)
    rows = [
        (name, f"{np.median(values):.0%} ({min(values):.0%} to {max(values):.0%})", f"{np.median(rates[name.split(':')[0]]):,.0f}")
        for name, values in shares.items()
    ]  # fmt: skip
    heads = ("", "of the limit (median, least to most)", "examples/s")
    results.write("Distance from the machine's limit (goal 2)", [
        f"Forward step over {len(texts):,} rows of R8 (fp32: an eighth of them), {ROUNDS} rounds. Goal: 60%.", "",
        *results.table(heads, rows),
    ])  # fmt: skip


def _named(name: str, step: object, session: lm.Session) -> str:
    first = next((c for c in session.root.children if c.name == "cascade"), None)
    cheap = first is not None and any(s is step for _, s in first.walk())
    return f"{name}: first stage" if cheap else f"{name}: second stage" if first is not None else name


if __name__ == "__main__":
    main()
