"""`train`: fine-tunes a text classifier with AdamW, on the same steps that later run it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.atomic import sibling
from llm_moments.core import NULL, Batch
from llm_moments.errors import DataError, InputError, ModelError, MomentsError, OutputExists
from llm_moments.evaluation import evaluation, gather
from llm_moments.model import NOTES, Model, _checked_config

Tick = Callable[[float | None, str], None]
CLIP = 1.0  # largest norm of the gradient
WARM_UP = 0.1  # share of the steps in which the learning rate rises


def train(
    model: str | Path,
    data: Any,
    out: str | Path,
    *,
    evaluate: Any = None,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    max_length: int = 128,
    seed: int = 0,
    overwrite: bool = False,
    progress: Tick | None = None,
    **read: Any,
) -> Path:
    """Fine-tunes an encoder (with or without a head) on examples with references; a model folder.

    The loss goes with the references: cross-entropy for names or whole numbers, binary cross-entropy
    for lists of labels, mean squared error for other numbers. Linear warm-up and decay, bf16 where the
    CPU has it, batches of like length. `out` also gets moments.json with the length it trained at.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputExists(out)
    if not (epochs >= 1 and batch_size >= 1 and 0 < learning_rate < 1 and max_length >= 8):
        raise InputError(
            "epochs and batch size are at least 1, max length at least 8, the learning rate between 0 and 1"
        )
    examples, name = gather(data, **read)
    references = [e.reference for e in examples]
    labels, problem = _labels(references, name)
    module, described = _with_head(Path(model), labels, problem, seed)
    loop = _Loop(module, described, examples, references, max_length, batch_size, learning_rate, epochs, seed)
    for epoch in range(epochs):
        loop.epoch(epoch, progress or (lambda done, message: None))
    notes: dict[str, Any] = {"max_length": max_length, "epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    with sibling(out) as folder:
        module.save_pretrained(folder)
        described.tokenizer.save_pretrained(folder)
        (folder / NOTES).write_text(json.dumps(notes), encoding="utf-8")
        if evaluate is not None:
            notes["evaluation"] = _evaluated(folder, evaluate, **read)
            (folder / NOTES).write_text(json.dumps(notes), encoding="utf-8")
    return out


def _labels(references: Sequence[Any], name: str) -> tuple[list[str], str]:
    """Label names and Hugging Face's problem type; DataError if there is nothing to learn."""
    missing = [row for row, ref in enumerate(references, 1) if ref is None]
    if missing:
        raise DataError(f"{name}, row {missing[0]}: no label ({len(missing)} of {len(references)} rows have none)")
    if any(isinstance(ref, list | tuple) for ref in references):
        several = {str(label) for ref in references for label in ref}
        return sorted(several), "multi_label_classification"
    if all(_fraction(ref) for ref in references) and not all(float(ref).is_integer() for ref in references):
        return ["LABEL_0"], "regression"
    labels = sorted({_name(ref) for ref in references}, key=lambda x: (not x.lstrip("-").isdigit(), x.zfill(9)))
    if len(labels) < 2:
        raise DataError(f"{name} has one class only ({labels[0]!r}); a classifier needs at least two")
    if len(labels) > 10_000:
        raise DataError(f"{name} has {len(labels):,} different labels; is the label column the right one?")
    return labels, "single_label_classification"


def _name(label: Any) -> str:
    """1.0 is how pandas reads a column of 1 that has gaps: the label is 1."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _fraction(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _with_head(path: Path, labels: list[str], problem: str, seed: int) -> tuple[Any, Model]:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    config = _checked_config(path, False)
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a fresh head is what is wanted here, not a fault to report
    try:
        module = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=len(labels), id2label=names, label2id={v: k for k, v in names.items()},
            problem_type=problem, dtype="float32", use_safetensors=True, local_files_only=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:
        raise ModelError(f"{path} cannot be fine-tuned as a classifier: {error}") from error
    finally:
        logging.set_verbosity(before)
    described = Model(path, {**config, "id2label": {str(k): v for k, v in names.items()}, "problem_type": problem})
    return module, described


class _Loop:
    """Forward, loss, backward, update; the batches are made by the pipeline's own steps."""

    def __init__(
        self, module: Any, model: Model, examples: Any, references: Sequence[Any], max_length: int, batch_size: int,
        learning_rate: float, epochs: int, seed: int,
    ):  # fmt: skip
        import torch

        from llm_moments.core import Pipeline, Plan
        from llm_moments.engines.base import Engines
        from llm_moments.tasks.text_classification import TextClassification

        self.torch, self.module, self.seed, self.size = torch, module, seed, batch_size
        task = TextClassification()
        length = min(max_length, model.max_length)
        plan = Plan({"truncate": {"max_length": length}, "batch": {"order": "length", "size": batch_size}})
        self.steps = Pipeline(task, model, plan, engines=Engines(model)).steps[:-1]
        self.values = [task.normalise(e.input) for e in examples]
        self.targets = _targets(task.references(references, model), model)
        self.total = max(epochs * -(-len(self.values) // batch_size), 1)
        self.done = 0
        groups = _decay_groups(module)
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.bf16 = torch.backends.mkldnn.is_available() and bool(_fast_bf16())

    def _rate(self, step: int) -> float:
        warm = max(int(WARM_UP * self.total), 1)
        return (step + 1) / warm if step < warm else max((self.total - step) / max(self.total - warm, 1), 0.0)

    def epoch(self, number: int, tick: Tick) -> None:
        """Rows in a new order; those of a window are grouped by length, and the groups come in any order."""
        rng = np.random.default_rng([self.seed, number])
        self.torch.manual_seed(self.seed * 1000 + number)
        self.module.train()
        order = rng.permutation(len(self.values))
        window = 50 * self.size
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            made = self._batches(rows)
            for at in rng.permutation(len(made)):
                loss = self.update(*made[at], epoch=number)
                tick(self.done / self.total, f"epoch {number + 1}, loss {loss:.4f}")

    def _batches(self, rows: np.ndarray) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        batch = Batch(len(rows), {"input": [self.values[r] for r in rows]})
        for step in self.steps:
            batch = step(batch, NULL)
        return [(rows[at], arrays) for at, arrays in batch["batches"]]

    def update(self, rows: np.ndarray, arrays: dict[str, np.ndarray], *, epoch: int) -> float:
        torch = self.torch
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.module(**inputs).logits
        loss = self.loss(logits.float(), self.targets[rows])
        value = loss.item()
        if not math.isfinite(value):
            raise MomentsError(
                f"the loss became {value} in epoch {epoch + 1} at the batch with row {int(rows[0]) + 1}; "
                "nothing was saved. Try a smaller --learning-rate."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.done = min(self.done + 1, self.total)
        return value

    def loss(self, logits: Any, targets: Any) -> Any:
        functional = self.torch.nn.functional
        if self.module.config.problem_type == "regression":
            return functional.mse_loss(logits.squeeze(-1), targets)
        if self.module.config.problem_type == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(logits, targets)
        return functional.cross_entropy(logits, targets)


def _targets(references: Sequence[Any], model: Model) -> Any:
    import torch

    if model.problem_type == "multi_label_classification":
        rows = torch.zeros(len(references), len(model.labels))
        for row, chosen in enumerate(references):
            rows[row, list(chosen)] = 1.0
        return rows
    kind = torch.float32 if model.problem_type == "regression" else torch.int64
    return torch.tensor(references, dtype=kind)


def _decay_groups(module: Any) -> list[dict[str, Any]]:
    """Weight decay for matrices only, as usual (Loshchilov and Hutter 2019; BERT's own recipe)."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]


def _fast_bf16() -> bool:
    from llm_moments.environment import _cpu_flags

    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def _evaluated(folder: Path, data: Any, **read: Any) -> dict[str, Any]:
    from llm_moments.model import load

    pipe = load(folder).with_(**{"batch.order": "length"})
    examples, name = gather(data, **read)
    part = evaluation(pipe, examples)
    outputs = pipe.outputs(part.values)
    return {"data": name, "n": len(part), "metric": part.metric, "score": float(part.scores(outputs, outputs).mean())}
