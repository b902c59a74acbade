"""Goals 1 and 6: transformers' own pipeline, single-engine peers and the improved artefact, side by side.

    python benchmarks/speed.py [--model .demo/model] [--artefact .demo/improved] [--test .samples/r8-test.csv]

Peers are sorted and padded at the model's own limit. Blocks of rows are drawn by length, so that each has
the lengths of the whole; slow contenders take another block each round. All take turns, A B … then … B A.
Other tools' int8 models out of the box (`peers.py`: olive, neural-compressor, each in an environment of its
own) run in our sorted pipeline; one that has none gives its reason in the table. More with --onnx NAME=FILE.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import peers
import results

import llm_moments as lm
from llm_moments import stats
from llm_moments.base.errors import EngineError
from llm_moments.evaluate.evaluation import gather
from llm_moments.evaluate.measure import run_seconds

SORTED = {"batch.order": "length", "batch.tokens": 8192, "batch.size": 64}
PEERS = {
    "OpenVINO bf16": {"forward.engine": "openvino", "forward.precision": "bf16"},
    "OpenVINO int8 (NNCF weights)": {"forward.engine": "openvino", "forward.precision": "int8-dynamic"},
    "OpenVINO int8 (NNCF, calibrated)": {"forward.engine": "openvino", "forward.precision": "int8"},
    "ONNX Runtime int8": {"forward.engine": "onnxruntime", "forward.precision": "int8-dynamic"},
    "torch bf16": {"forward.precision": "bf16"},
    "torch.compile fp32": {"forward.engine": "torch.compile"},
}
STOCK, PEER, ROUNDS = 96, 730, 5  # rows of one turn


def stock(model: str, batch_size: int) -> Any:
    from transformers import pipeline

    pipe = pipeline("text-classification", model, truncation=True, batch_size=batch_size)
    return lambda texts: timed(lambda: list(pipe(list(texts))), texts)


def timed(work: Any, texts: list[str]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / len(texts)


def contenders(wanted: Any, calibration: list[str]) -> tuple[dict[str, tuple[Any, int | None]], dict[str, str]]:
    """Name -> (texts -> seconds an example, rows of one turn; None: all), and name -> why it does not run."""
    made: dict[str, tuple[Any, int | None]] = {}
    refused: dict[str, str] = {}
    for size in (32, 1):
        made[f"transformers pipeline, batch {size}"] = (stock(wanted.model, size), STOCK)
    pipes = {name: lm.load(wanted.model, plan={**SORTED, **changes}) for name, changes in PEERS.items()}
    for name, file in (one.split("=", 1) for one in wanted.onnx):
        pipes[name] = foreign(wanted.model, Path(file))
    for name in peers.PEERS if not wanted.no_peers else ():
        try:
            pipes[name] = foreign(wanted.model, peers.made(name, wanted.model))
        except (peers.Failed, OSError, RuntimeError) as why:
            refused[name] = str(why)
    for name, pipe in pipes.items():
        if pipe.plan.settings("forward").get("precision") == "int8":
            pipe.engines.calibration = lm.load(wanted.model, plan={"batch.size": 1}).arrays(calibration)
        try:
            pipe("warm")
        except EngineError as error:
            refused[name] = str(error)
            continue
        made[f"{name}, sorted"] = (lambda texts, p=pipe: run_seconds(p, texts) / len(texts), PEER)
    best = lm.load(wanted.artefact)
    made["improved"] = (lambda texts: run_seconds(best, texts) / len(texts), None)
    return made, refused


def foreign(model: str, file: Path) -> lm.Pipeline:
    """Another tool's ONNX model in our sorted pipeline: only the forward step is theirs."""
    import onnxruntime

    pipe = lm.load(model, plan={**SORTED, "forward.engine": "onnxruntime"})
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    engine = pipe.engines.get(pipe.plan.settings("forward"))
    engine.session, engine.names = session, [i.name for i in session.get_inputs()]
    return pipe


def blocks(texts: list[str], size: int | None, count: int) -> list[list[str]]:
    """count blocks of rows, each with the lengths of the whole, in no order of length."""
    if size is None or size >= len(texts):
        return [texts] * count
    ordered, every = sorted(texts, key=len), len(texts) / size
    found = []
    for turn in range(count):
        some = [ordered[int((at + turn / count) * every)] for at in range(size)]
        random.Random(turn).shuffle(some)
        found.append(some)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--artefact", default=".demo/improved")
    parser.add_argument("--test", default=".samples/r8-test.csv")
    parser.add_argument("--calibration", default=".samples/r8-improve.csv")
    parser.add_argument("--no-peers", action="store_true", help="without olive and neural-compressor")
    parser.add_argument("--onnx", action="append", default=[], metavar="NAME=FILE")
    wanted = parser.parse_args()
    texts = [e.input for e in gather(wanted.test)[0]]
    runners, refused = contenders(wanted, [e.input for e in gather(wanted.calibration)[0]][:200])
    rows = {name: blocks(texts, size, ROUNDS + 1) for name, (_, size) in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name in list(runners)[:: 1 if turn % 2 else -1]:
            seconds = runners[name][0](rows[name][turn])
            if turn:
                times[name].append(seconds)
        print(f"round {turn} of {ROUNDS}", file=sys.stderr)
    results.write("Speed: stock, peers, improved (goals 1 and 6)", lines(times, refused, wanted, len(texts)))


def lines(times: dict[str, list[float]], refused: dict[str, str], wanted: Any, count: int) -> list[str]:
    heads = ("", "examples/s (median)", "improved is faster by (95% bounds)")
    rows = []
    for name, seconds in times.items():
        ratio = stats.ratio_interval(seconds, times["improved"])
        median = sorted(seconds)[len(seconds) // 2]
        rows.append((name, f"{1 / median:,.1f}", f"{ratio.estimate:.1f} ({ratio.low:.1f} to {ratio.high:.1f})"))
    rows += [(name, "does not run", why.replace("|", "/")) for name, why in refused.items()]
    improved = lm.load(wanted.artefact)
    original = lm.load(wanted.model, plan=SORTED)  # sorted for time's sake: the same answers
    held = lm.compare(original, improved, wanted.test, max_drop=0.01, rounds=3)
    return [
        f"Reuters R8, MiniLM fine-tuned by `moments train`; {ROUNDS} rounds; {STOCK} rows a turn for transformers, {PEER} "
        f"for peers, all {count:,} for the improved one.",
        "",
        *results.table(heads, rows),
        "",
        f"On the {held.n:,} test rows: {held.metric} {held.score_a:.4f} (original) and {held.score_b:.4f} (improved); drop "
        f"{held.drop:+.4f}, between {held.drop_low:+.4f} and {held.drop_high:+.4f}; {held.harmful} answers changed for "
        f"worse, {held.beneficial} for better; within 0.01: {'yes' if held.within else 'no'}.",
        "",
        f"The plan: {improved.plan.to_dict()}",
        "",
        f"`moments --help`: {help_seconds():.2f} s (median of 7; goal 0.2 s).",
        "",
        "Goals: 120 times the pipeline at batch 32, 12 times it at batch 1, 4 times the best peer.",
    ]


def help_seconds() -> float:
    command, seconds = [sys.executable, "-m", "llm_moments.cli.main", "--help"], []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[3]


if __name__ == "__main__":
    main()
