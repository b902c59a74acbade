"""Issue of training, goal 4: a small CNN on Fashion-MNIST, and what `improve` makes of it.

    python benchmarks/images.py [--folder /usr/share/datasets/fashion-mnist] [--seconds 300]

The network learns the first 50,000 training images; the last 10,000 of them, which it never saw, are the user's
examples that `improve` searches and certifies on; the 10,000 test images judge both. Then, in turn, over the test
images as arrays of bytes: a bare eager loop of 32 images, the stock plan of the same size, and the improved artefact.
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
from llm_moments.data.readers import read
from llm_moments.evaluate.evaluation import evaluation
from llm_moments.evaluate.measure import run_seconds

SETTINGS: dict[str, Any] = {
    "epochs": 8, "batch_size": 128, "learning_rate": 2e-3, "schedule": "cosine", "augment": {"flip": 0.5},
}  # fmt: skip
KEPT_BACK, ROUNDS = 10_000, 15


def rows(folder: Path, name: str) -> list[Any]:
    return list(read(folder / f"{name}-images-idx3-ubyte.gz"))


def eager(model: Path) -> Any:
    """The loop that stands in every tutorial: 32 arrays, scaled and normalised, into the module, the largest logit."""
    import torch

    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.open import open_model
    from llm_moments.models.preprocessing import preprocessing

    opened = open_model(model)
    module, wanted = load_module(opened).eval(), preprocessing(opened)
    mean, std = float(wanted.mean[0]), float(wanted.std[0])

    def loop(images: list[Any]) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for at in range(0, len(images), 32):
                pixels = torch.from_numpy(np.stack(images[at : at + 32])).unsqueeze(1).float()
                module((pixels * wanted.rescale - mean) / std).logits.argmax(1)
        return time.perf_counter() - start

    return loop


def accuracy(pipe: Any, judges: list[Any]) -> np.ndarray:
    part = evaluation(pipe, judges)
    outputs = pipe.outputs(part.values)
    return np.asarray(part.scores(outputs, outputs))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--seconds", type=float, default=300)
    wanted = parser.parse_args()
    known, test = rows(wanted.folder, "train"), rows(wanted.folder, "t10k")
    with tempfile.TemporaryDirectory() as name:
        model, better = Path(name) / "model", Path(name) / "better"
        start = time.perf_counter()
        lm.train("cnn", known[:-KEPT_BACK], model, **SETTINGS)
        learning = time.perf_counter() - start
        print(f"learnt in {learning:.0f} s", file=sys.stderr)
        done = lm.improve(model, known[-KEPT_BACK:], max_drop=0.005, budget=wanted.seconds, out=better)
        print(done.certificate.words(), file=sys.stderr)
        stock, best, bare = lm.load(model), lm.load(better), eager(model)
        before, after = accuracy(stock, test), accuracy(best, test)
        images = [e.input.array for e in test]
        spent: dict[str, list[float]] = {"bare": [], "stock": [], "improved": []}
        ways = {
            "bare": bare, "stock": lambda some: run_seconds(stock, some), "improved": lambda some: run_seconds(best, some)
        }  # fmt: skip
        for turn in range(ROUNDS + 1):
            for which in list(ways)[:: 1 if turn % 2 else -1]:
                seconds = ways[which](images)
                if turn:
                    spent[which].append(seconds)
        plan = best.plan.to_dict()
    certificate, lost = done.certificate, stats.drop_bound(before, after)
    told = {"bare": "bare eager loop, batch 32", "stock": "stock plan, batch 32", "improved": "improved"}
    lines = results.table(
        ("", "images/s (median, least to most)", "improved is faster by (95%)"),
        [
            (
                told[which],
                f"{len(images) / np.median(times):,.0f} ({len(images) / max(times):,.0f} to {len(images) / min(times):,.0f})",
                "" if which == "improved" else faster(times, spent["improved"]),
            )
            for which, times in spent.items()
        ],
    )
    results.write("Images: a small CNN on Fashion-MNIST", [
        f"Learning 50,000 images: {learning:.0f} s; accuracy on the 10,000 test images {before.mean():.4f}. Goal: 0.92 in 600 s.", "",
        f"`improve` on 10,000 other images, {done.seconds:.0f} s: {certificate.words()}", "",
        *lines, "",
        f"On the test images: {before.mean():.4f} before, {after.mean():.4f} after; drop {lost.low:+.4f} to {lost.high:+.4f}. "
        "Goal: 3 times the eager loop at a certified drop of 0.005 at most.", "", f"Improved: {plan}",
    ])  # fmt: skip


def faster(slow: list[float], fast: list[float]) -> str:
    bound = stats.ratio_interval(slow, fast)
    return f"{bound.estimate:.2f} times ({bound.low:.2f} to {bound.high:.2f})"


if __name__ == "__main__":
    main()
