"""Goal 6, second half: peak memory of `moments run` on a million rows against ten thousand.

    python benchmarks/memory.py [--rows 1000000] [--small 10000]

The model is a small one with random weights, made on the spot: what is measured is the way of the rows.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fakes import WORDS, make_model


def peak(model: Path, rows: int, folder: Path) -> tuple[float, float, int]:
    """MiB, seconds and answers of one `moments run` in a process of its own."""
    data, out = folder / f"{rows}.csv", folder / f"{rows}.jsonl"
    rng = random.Random(0)
    with data.open("w") as file:
        file.write("text\n")
        file.writelines(" ".join(rng.choices(WORDS, k=8)) + "\n" for _ in range(rows))
    command = [sys.executable, "-m", "llm_moments.cli.main", "run", str(model), "--data", str(data), "--out", str(out)]
    plan = ("batch.order=length", "batch.size=256", "truncate.max_length=16")
    command += [word for one in plan for word in ("--set", one)] + ["--format", "quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"moments run failed on {rows} rows")
    with out.open() as file:
        return used.ru_maxrss / 1024, time.perf_counter() - start, sum(1 for _ in file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model")
        found = {rows: peak(model, rows, folder) for rows in (wanted.small, wanted.rows)}
    rows = [(f"{n:,}", f"{m:,.0f}", f"{s:,.0f}", f"{done:,}") for n, (m, s, done) in found.items()]
    ratio = found[wanted.rows][0] / found[wanted.small][0]
    lines = [*results.table(("rows", "peak MiB", "seconds", "answers"), rows), ""]
    results.write("Memory of a long run (goal 6)", [*lines, f"{ratio - 1:+.1%}; goal: within 10%."])


if __name__ == "__main__":
    main()
