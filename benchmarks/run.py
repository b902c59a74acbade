"""Side by side in one run: transformers' own pipeline, single-engine peers, and the improved artefact.

    python benchmarks/run.py [--model .demo/model] [--artefact .demo/improved] [--test .samples/r8-test.csv]

Peers are sorted and padded at the model's own limit. Slow ones are timed on another block of rows each
round, all in turn; ratios are of paired times with 95% intervals. Writes benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import llm_moments as lm
from llm_moments import stats
from llm_moments.environment import fingerprint, peaks
from llm_moments.errors import EngineError
from llm_moments.evaluation import gather
from llm_moments.improve.measure import run_seconds

SORTED = {"batch.order": "length", "batch.tokens": 8192, "batch.size": 64}
PEERS = {
    "OpenVINO bf16": {"forward.engine": "openvino", "forward.precision": "bf16"},
    "OpenVINO int8 (NNCF weights)": {"forward.engine": "openvino", "forward.precision": "int8-dynamic"},
    "ONNX Runtime int8": {"forward.engine": "onnxruntime", "forward.precision": "int8-dynamic"},
    "OpenVINO int8 (NNCF, calibrated)": {"forward.engine": "openvino", "forward.precision": "int8"},
    "torch bf16": {"forward.precision": "bf16"},
    "torch.compile fp32": {"forward.engine": "torch.compile"},
}
BLOCK, ROUNDS = 96, 5


def stock(model: str, batch_size: int) -> Any:
    from transformers import pipeline

    pipe = pipeline("text-classification", model, truncation=True, batch_size=batch_size)
    return lambda texts: list(pipe(list(texts)))


def timed(work: Any, texts: list[str]) -> float:
    start = time.perf_counter()
    work(texts)
    return (time.perf_counter() - start) / len(texts)


def contenders(model: str, artefact: str, calibration: list[str]) -> dict[str, tuple[Any, bool]]:
    """Name -> (texts -> seconds an example, whether it is fast enough to take all rows)."""
    made: dict[str, tuple[Any, bool]] = {}
    for size in (32, 1):
        run = stock(model, size)
        made[f"transformers pipeline, batch {size}"] = (lambda texts, run=run: timed(run, texts), False)
    for name, changes in PEERS.items():
        pipe = lm.load(model, plan={**SORTED, **changes})
        if changes.get("forward.precision") == "int8":
            pipe.engines.calibration = pipe.with_(**{"batch.size": 1}).arrays(calibration)
        try:
            pipe("warm")
        except EngineError as error:
            print(f"{name}: not available ({error})")
            continue
        made[f"{name}, sorted"] = (lambda texts, p=pipe: run_seconds(p, texts) / len(texts), False)
    best = lm.load(artefact)
    made["improved"] = (lambda texts: run_seconds(best, texts) / len(texts), True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    parser.add_argument("--artefact", default=".demo/improved")
    parser.add_argument("--test", default=".samples/r8-test.csv")
    parser.add_argument("--out", default=str(Path(__file__).parent / "RESULTS.md"))
    wanted = parser.parse_args()
    examples, _ = gather(wanted.test)
    texts = [e.input for e in examples]
    runners = contenders(wanted.model, wanted.artefact, texts[-100:])
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(-1, ROUNDS):  # the round before the first warms up
        block = texts[(turn + 1) * BLOCK : (turn + 2) * BLOCK]
        for name in list(runners)[:: 1 if turn % 2 == 0 else -1]:
            run, fast = runners[name]
            seconds = run(texts if fast else block)
            if turn >= 0:
                times[name].append(seconds)
        print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr)
    Path(wanted.out).write_text(results(times, wanted), encoding="utf-8")
    print(Path(wanted.out).read_text(encoding="utf-8"))


def results(times: dict[str, list[float]], wanted: Any) -> str:
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}. Reuters R8, MiniLM fine-tuned by `moments train`.",
        "",
    ]
    lines += [
        "Machine: " + ", ".join(f"{k} {v}" for k, v in fingerprint().items()),
        f"Measured peaks (GFLOP/s, GB/s): {peaks()}",
        "",
    ]
    lines += [
        f"{ROUNDS} rounds in turn; slow ones on {BLOCK} other rows each round, the improved one on all test rows.",
        "",
    ]
    lines += ["| | examples/s (median) | improved is faster by (95% bounds) |", "|---|---|---|"]
    for name, seconds in times.items():
        ratio = stats.ratio_interval(seconds, times["improved"])
        median = sorted(seconds)[len(seconds) // 2]
        lines.append(f"| {name} | {1 / median:,.1f} | {ratio.estimate:.1f} ({ratio.low:.1f} to {ratio.high:.1f}) |")
    certificate = lm.load(wanted.artefact)
    original = lm.load(wanted.model, plan=SORTED)  # sorted for time's sake: the same answers
    held = lm.compare(original, certificate, wanted.test, max_drop=0.01, rounds=3)
    lines += [
        "",
        f"On the {held.n:,} test rows: {held.metric} {held.score_a:.4f} (original) and {held.score_b:.4f} (improved); drop "
        f"{held.drop:+.4f}, between {held.drop_low:+.4f} and {held.drop_high:+.4f}; {held.harmful} answers changed for worse, "
        f"{held.beneficial} for better; within 0.01: {'yes' if held.within else 'no'}.",
        "",
        f"`moments --help`: {help_seconds():.2f} s (median of 7).",
        "",
    ]
    return "\n".join(lines)


def help_seconds() -> float:
    command, seconds = [sys.executable, "-m", "llm_moments.cli.main", "--help"], []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[3]


if __name__ == "__main__":
    main()
