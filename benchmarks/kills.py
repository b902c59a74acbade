"""Issue of training, goal 5: 200 kills at random moments, no checkpoint lost or corrupted, no run that ends differently.

    python benchmarks/kills.py [--kills 200] [--seed 0]

A training of a tiny model is killed with SIGKILL again and again, the same call made anew until it is done, then
begun from nothing, until there were so many kills. After each kill every checkpoint must be what was written, and
none that was there may have gone but for a later one. Each run that ends must have the weights of one that nobody
killed. Training runs in forks of a process that has torch loaded already, so that a kill costs a second, not ten.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "epochs": 2, "batch_size": 8, "checkpoint_every": 2, "augment": {"word-dropout": 0.1}, "precision": "fp32",
}  # fmt: skip


@dataclass
class Campaign:
    kills: int = 0
    before: int = 0  # of them before the first checkpoint
    saving: int = 0  # of them while something was half-written
    ended: int = 0  # runs that came to their end
    different: int = 0
    corrupted: int = 0
    lost: int = 0
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.different or self.corrupted or self.lost) and self.ended > 0


def campaign(model: Path, data: list[Any], judged: list[Any], folder: Path, kills: int, seed: int = 0) -> Campaign:
    """Kills until there were `kills`, and lets the last run end. Must be called where torch has run nothing yet:
    its threads do not live on in a fork."""
    from llm_moments.assembly.load import load
    from llm_moments.train import checkpoints
    from llm_moments.train.place import CHECKPOINTS, run_folder

    found, rng, begin = Campaign(), random.Random(seed), time.monotonic()
    start = time.monotonic()
    if _wait(_begun(model, data, judged, folder / "whole"), 600) != 0:
        raise RuntimeError("the run that nobody kills failed")
    whole, digest = time.monotonic() - start, load(folder / "whole").model.digest
    out, last, seen = folder / "killed", 0, set[Path]()
    while found.kills < kills or out.exists() or run_folder(out).exists():
        child = _begun(model, data, judged, out)
        status = _wait(child, rng.uniform(0.0, 1.1 * whole) if found.kills < kills else 600)
        saved = run_folder(out) / CHECKPOINTS
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            found.kills += 1
            halves = {*saved.glob(".step-*"), *out.parent.glob(f".{out.name}.*")}
            found.saving += bool(halves - seen)
            seen |= halves
        elif status != 0:
            found.said.append("a run failed")
            found.different += 1
            break
        for path in checkpoints.found(saved):
            try:
                checkpoints._verified(path, Any)
            except Exception as error:
                found.corrupted += 1
                found.said.append(str(error))
        now = max((int(path.name[5:]) for path in checkpoints.found(saved)), default=0)
        if out.exists():
            found.ended += 1
            found.different += load(out).model.digest != digest
            last = 0
            _remove(out, run_folder(out))
            continue
        found.lost += now < last
        found.before += now == 0
        last = now
    found.seconds = time.monotonic() - begin
    return found


def _begun(model: Path, data: list[Any], judged: list[Any], out: Path) -> int:
    """The process id of a fork that trains."""
    from llm_moments.train.train import train

    child = os.fork()
    if child:
        return child
    status = 1
    try:
        train(model, data, out, evaluate=judged, device="cpu", **SETTINGS)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, seconds: float) -> int | None:
    """The exit status, or None if it runs after so many seconds still."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def _remove(*folders: Path) -> None:
    import shutil

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print what was found; leave RESULTS.md alone")
    wanted = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(Path(__file__).parent.parent))
    with tempfile.TemporaryDirectory() as name:
        found = made_and_killed(Path(name), wanted.kills, wanted.seed)
    print(found, file=sys.stderr)
    if wanted.dry:
        sys.exit(0 if found.clean else 1)
    import results

    results.write("Kills at random moments", [
        f"{found.kills} kills (SIGKILL) of a training with a checkpoint every {SETTINGS['checkpoint_every']} updates: {found.before} "
        f"before the first checkpoint, {found.saving} while something was being written; {found.ended} runs came to their end.", "",
        f"{found.corrupted} checkpoints corrupted, {found.lost} lost, {found.different} runs that ended with other weights; goal: 0. "
        f"{found.seconds:.0f} s.",
    ])  # fmt: skip
    sys.exit(0 if found.clean else 1)


def made_and_killed(folder: Path, kills: int, seed: int) -> Campaign:
    """The campaign on a tiny model, which another process makes."""
    from tests.fakes import label_of, make_texts

    from llm_moments.core import Example

    rows = [Example(text, label_of(text)) for text in make_texts(96)]
    make = "import sys; from pathlib import Path; from tests.fakes import make_model; make_model(Path(sys.argv[1]))"
    root = Path(__file__).parent.parent
    paths = os.pathsep.join([str(root), *sys.path])
    subprocess.run(
        [sys.executable, "-c", make, str(folder / "model")], check=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    _imported()
    return campaign(folder / "model", rows[:72], rows[72:], folder, kills, seed)


def _imported() -> None:
    """What a training imports, once, before any fork; nothing is computed."""
    import torch  # noqa: F401
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_scheduler  # noqa: F401
    from transformers.models.bert import modeling_bert  # noqa: F401

    import llm_moments.train.train  # noqa: F401


if __name__ == "__main__":
    main()
