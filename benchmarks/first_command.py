"""The first command that a stranger runs, again and again: does `make demo` certify each time, and how much faster?

    python benchmarks/first_command.py [--runs 10] [--busy] [--dry]

The commands are those of the Makefile's `demo`. Each run is that of a fresh user: an empty cache, so that every graph
is built anew, and another folder for the artefact; only the model is the same, which the first run trains where it
is not there. `moments record` is run once, for the time of the whole. --busy: with another process that keeps one core busy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import results

ROOT = Path(__file__).parent.parent
MODEL, OUT = ".demo/model", ".demo/improved"
GOAL = {"stock": 40.0, "hand": 3.0, "minutes": 6.0}


@dataclass(frozen=True)
class Run:
    certified: bool
    stock: float | None  # times as fast as the stock plan
    hand: float | None  # times as fast as the plan set by hand
    seconds: float
    reason: str

    @property
    def good(self) -> bool:
        return self.certified and (self.stock or 0.0) >= GOAL["stock"] and (self.hand or 0.0) >= GOAL["hand"]


def commands() -> tuple[list[str], list[str]]:
    """(record, improve) as `make demo` would run them now."""
    told = subprocess.run(
        ["make", "--dry-run", f"--old-file={MODEL}", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in told.splitlines():
        words = shlex.split(line)
        if len(words) > 1 and words[0].endswith("moments"):
            found[words[1]] = words[: words.index("||")] if "||" in words else words
    return found["record"], found["improve"]


def trained() -> float | None:
    """Seconds that the model took to train; None where it was there."""
    if (ROOT / MODEL / "config.json").exists():
        return None
    start = time.monotonic()
    subprocess.run(["make", MODEL], cwd=ROOT, check=True, stdout=sys.stderr)
    return time.monotonic() - start


def timed(words: list[str], cache: Path) -> tuple[float, int]:
    start = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "MOMENTS_CACHE": str(cache)}, stdout=subprocess.DEVNULL)
    return time.monotonic() - start, done.returncode


def run(improve: list[str], room: Path, cache: Path) -> Run:
    seconds, code = timed([str(room / "improved") if word == OUT else word for word in improve], cache)
    if code not in (0, 3):
        raise SystemExit(f"{shlex.join(improve)} ended with {code}")
    told = json.loads((room / "improved" / "certificate.json").read_text(encoding="utf-8"))
    return Run(told["certified"], told["speedup"], told["hand_speedup"], seconds, told["reason"])


@contextlib.contextmanager
def busy(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def cells(at: int, one: Run) -> tuple[str, ...]:
    stock, hand = (f"{value:.1f}" if value else "" for value in (one.stock, one.hand))
    return str(at), "yes" if one.certified else f"no: {one.reason}", stock, hand, f"{one.seconds:.0f}"


def lines(runs: list[Run], whole: str) -> list[str]:
    certified, good = sum(one.certified for one in runs), sum(one.good for one in runs)
    heads = ("run", "certified", "times the stock plan", "times the plan set by hand", "s")
    return [
        *results.table(heads, [cells(at, one) for at, one in enumerate(runs, 1)]), "",
        f"Certified in {certified} of {len(runs)}; certified, {GOAL['stock']:g} times the stock plan and {GOAL['hand']:g} times "
        f"the plan set by hand or more in {good} of {len(runs)}. {whole} Goals: each run both (with a busy core: certified), "
        f"the whole in {GOAL['minutes']:g} minutes after the downloads.",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--busy", action="store_true", help="another process keeps one core busy")
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    wanted = parser.parse_args()
    record, improve = commands()
    runs: list[Run] = []
    with busy(wanted.busy):
        learning = trained()
        for at in range(wanted.runs):
            with tempfile.TemporaryDirectory() as name:
                room, cache = Path(name), Path(name) / "cache"
                if not at:
                    recording, code = timed(record, cache)
                    if code:
                        raise SystemExit(f"{shlex.join(record)} ended with {code}")
                runs.append(run(improve, room, cache))
            print(", ".join(cells(at + 1, runs[-1])), flush=True)
    learnt = "the model was there" if learning is None else f"training {learning:.0f}"
    whole = f"The first in seconds: {learnt}, recording {recording:.0f}, improving {runs[0].seconds:.0f}."
    told = lines(runs, whole)
    if wanted.dry:
        print("\n".join(told))
    else:
        results.write("The first command" + (" beside a busy process" if wanted.busy else ""), told)


if __name__ == "__main__":
    main()
