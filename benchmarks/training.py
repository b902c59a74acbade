"""Issue of training, goals 1 and 2: examples a second beside transformers' Trainer, and what recording costs.

    python benchmarks/training.py [--encoder .samples/encoder] [--train .samples/r8-train.csv] [--test .samples/r8-test.csv]

Both learn the same rows for the same epochs, cut at the same length; the Trainer with its defaults (8 rows a
batch at a rate of 5e-5, float32, rows in random order, padded to the batch), ours with batches of 16 rows of like
length at a rate of 2e-4, bf16 where the machine has it, and the recording on. After each, the loss on the same validation rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch

import llm_moments as lm
from llm_moments.evaluate.evaluation import gather
from llm_moments.record.overhead import median_interval
from llm_moments.record.recorder import Recorder
from llm_moments.train.feed import Rows
from llm_moments.train.lesson import labels_of, targets_of, with_head
from llm_moments.train.losses import loss_for
from llm_moments.train.observers import watch_layers
from llm_moments.train.settings import Settings
from llm_moments.train.train import train
from llm_moments.train.trainer import Trainer

# Twice the batch makes half the updates; with the rate grown by as much as the batch squared they reach at least as far.
OURS: dict[str, Any] = {"batch_size": 16, "learning_rate": 2e-4}


def ours(wanted: Any, rows: list[Any], seed: int, folder: Path) -> tuple[float, Path]:
    start = time.perf_counter()
    done = train(
        wanted.encoder, rows, folder, epochs=wanted.epochs, max_length=wanted.tokens, seed=seed, **OURS,
    )  # fmt: skip
    return time.perf_counter() - start, done.folder


def theirs(wanted: Any, rows: list[Any], seed: int, folder: Path) -> tuple[float, Path]:
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    labels, problem = labels_of([e.reference for e in rows], "rows")
    start = time.perf_counter()
    module, _ = with_head(Path(wanted.encoder), labels, problem, seed)
    tokenizer = AutoTokenizer.from_pretrained(wanted.encoder)
    numbers = {label: i for i, label in enumerate(labels)}
    data = [
        {**tokenizer(e.input, truncation=True, max_length=wanted.tokens), "labels": numbers[e.reference]} for e in rows
    ]
    arguments = TrainingArguments(
        output_dir=str(folder / "run"), num_train_epochs=wanted.epochs, seed=seed, report_to=[], save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    Trainer(module, arguments, data_collator=DataCollatorWithPadding(tokenizer), train_dataset=data).train()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return time.perf_counter() - start, folder


def judged(folder: Path, rows: list[Any], tokens: int) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the validation rows."""
    plan = {"batch.order": "length", "truncate.max_length": tokens}
    pipe = lm.load(folder, plan=plan)
    logits = torch.from_numpy(pipe.outputs([e.input for e in rows])["logits"])
    targets = torch.tensor(pipe.task.references([e.reference for e in rows]))
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return float(loss), float((logits.argmax(1) == targets).float().mean())


def overhead(wanted: Any, rows: list[Any], pairs: int = 60) -> str:
    """The same update with and without the recorder and its probes, in turn."""
    labels, problem = labels_of([e.reference for e in rows], "rows")
    module, described = with_head(Path(wanted.encoder), labels, problem, 0)
    from llm_moments.core import Pipeline, Plan
    from llm_moments.engines.base import Engines
    from llm_moments.tasks.text_classification import TextClassification

    task = TextClassification(described)
    pipe = Pipeline(task, Plan({"truncate": {"max_length": wanted.tokens}}), engines=Engines(described))
    targets = targets_of(task.references([e.reference for e in rows]), described)
    feed = Rows([e.input for e in rows], targets)
    loops = {
        "bare": Trainer(module, pipe, feed, Settings(batch_size=16), loss_for(problem)),
        "recorded": Trainer(module, pipe, feed, Settings(batch_size=16), loss_for(problem), recorder=Recorder()),
    }
    module.train()
    group = sorted(loops["bare"].groups(0), key=lambda g: g[0].arrays["input_ids"].shape[1])
    group = group[len(group) // 2]
    logs, spent = [], []
    for turn in range(pairs + 2):
        seconds = {}
        for name in ("bare", "recorded")[:: 1 if turn % 2 else -1]:
            with ExitStack() as stack:
                if name == "recorded":
                    watch_layers(loops[name], stack)
                start = time.perf_counter()
                loops[name].update(group, 0)
                seconds[name] = time.perf_counter() - start
        if turn > 1:
            logs.append(float(np.log(seconds["recorded"] / seconds["bare"])))
            spent.append(seconds["bare"])
    low, high, sure = median_interval(logs)
    return (
        f"Recording of an update of {np.median(spent) * 1e3:.0f} ms: {np.expm1(np.median(logs)):+.2%} ({np.expm1(low):+.2%} to "
        f"{np.expm1(high):+.2%}, {sure:.0%} interval, median of {pairs} pairs); goal: at most 1%."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", default=".samples/encoder")
    parser.add_argument("--train", default=".samples/r8-train.csv")
    parser.add_argument("--test", default=".samples/r8-test.csv")
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    wanted = parser.parse_args()
    rows, held = gather(wanted.train)[0][: wanted.rows], gather(wanted.test)[0][:1000]
    found: dict[str, list[tuple[float, float, float]]] = {"Trainer, its defaults": [], "moments train": []}
    for seed in range(wanted.seeds):
        for name, way in list(zip(found, (theirs, ours), strict=True))[:: 1 if seed % 2 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                seconds, made = way(wanted, rows, seed, Path(folder) / "model")
                found[name].append((len(rows) * wanted.epochs / seconds, *judged(made, held, wanted.tokens)))
            print(name, found[name][-1], file=sys.stderr)
    lines = results.table(
        ("", "examples/s", "validation loss", "accuracy"),
        [(name, *(spread([run[i] for run in runs], form) for i, form in ((0, ".1f"), (1, ".4f"), (2, ".4f")))) for name, runs in found.items()],
    )  # fmt: skip
    gain = np.median([o[0] for o in found["moments train"]]) / np.median([t[0] for t in found["Trainer, its defaults"]])
    results.write("Training beside transformers' Trainer", [
        f"MiniLM on {len(rows):,} rows of R8, cut at {wanted.tokens} tokens, {wanted.epochs} epoch(s), {wanted.seeds} seeds in turn; "
        f"ours with {OURS['batch_size']} rows a batch at a rate of {OURS['learning_rate']:g}, the Trainer with 8 at 5e-05; "
        "loading, saving and (ours) recording are in the time. Median (least to most).", "", *lines, "",
        f"{gain:.1f} times the examples a second; goal: 2 times at the same loss.", "", overhead(wanted, rows[:400]),
    ])  # fmt: skip


def spread(values: list[float], form: str) -> str:
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
