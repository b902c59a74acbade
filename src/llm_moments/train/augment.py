"""The augment step of a training: changed examples, mixed batches, rare classes more often.

What is drawn depends on the seed and the place in the run alone, so that a run goes on as if it had not been
ended; and it happens in the loop only, so that nothing is judged by a changed example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_moments.base.errors import InputError
from llm_moments.core import Batch
from llm_moments.steps import augment_image, augment_text
from llm_moments.steps.augment import IMAGE, TEXT, Change, checked, drawn

MIXES = tuple(name for name, change in IMAGE.items() if change.mixes)


def priced_texts(translators: bool) -> dict[str, dict[str, Any]]:
    """What `tune --weigh` prices of a training on texts, settings by name: what needs a word net or two translating
    models only where they are there."""
    names = ["word-dropout", "swap"]
    names += ["synonym"] * augment_text.has_synonyms() + ["back-translation"] * translators
    return {**{name: {"augment": {name: TEXT[name].usual}} for name in names}, "balance": {"balance": True}}


def priced_images(height: int) -> dict[str, dict[str, Any]]:
    """The same of images so high; 4 pixels of padding round 32 are what is usual for crops (arXiv:1512.03385)."""
    amounts = {name: change.usual for name, change in IMAGE.items()} | {"crop": max(height // 8, 1)}
    return {**{name: {"augment": {name: amount}} for name, amount in amounts.items()}, "balance": {"balance": True}}


def known_for(task: Any) -> Mapping[str, Change]:
    return IMAGE if task.modality == "image" else TEXT


class Augment:
    """Called with rows before the step `before`; `mix` with a batch that is made. Both give new ones."""

    def __init__(
        self,
        spec: Mapping[str, float],
        task: Any,
        seed: int,
        classes: int = 0,
        reworded: Mapping[str, str] | None = None,
    ):
        """reworded: what texts become by back-translation, made ahead."""
        self.spec, self.seed, self.classes = checked(spec, known_for(task)), seed, classes
        self.reworded = reworded or {}
        self.images = task.modality == "image"
        self.before = "batch" if self.images else ""  # texts: before the first step
        self.rows = any(name not in MIXES for name in self.spec)
        self.mixes = any(name in MIXES for name in self.spec)
        if "synonym" in self.spec:
            augment_text.synonyms("word")  # what is missing for it is said before a run begins

    def __call__(self, batch: Batch, epoch: int, start: int) -> Batch:
        """start: the place of the batch's first row in the epoch."""
        if self.images:
            pixels = augment_image.augment(batch["pixels"], drawn(self.seed, epoch, start), self.spec)
            return batch.with_(pixels=pixels)
        made = [
            augment_text.augment(self.worded(value, epoch, start + at), drawn(self.seed, epoch, start + at), self.spec)
            for at, value in enumerate(batch["input"])
        ]
        return batch.with_(input=made)

    def worded(self, value: Any, epoch: int, place: int) -> Any:
        """A text, or both of a pair, as back-translation has it, or as it is."""
        share = self.spec.get("back-translation", 0.0)
        if not share or drawn(self.seed, epoch, place, 2).random() >= share:
            return value
        if isinstance(value, str):
            return self.reworded.get(value, value)
        return tuple(self.reworded.get(text, text) for text in value)

    def mix(self, arrays: Mapping[str, np.ndarray], targets: Any, update: int, part: int) -> tuple[Any, Any]:
        """arrays: pixel_values [rows, channels, height, width]; targets: a tensor, classes or soft rows."""
        import torch

        soft = targets.numpy()
        if soft.ndim == 1:
            soft = augment_image.one_hot(soft, self.classes)
        pixels = arrays["pixel_values"].transpose(0, 2, 3, 1)
        mixed, soft = augment_image.mix(pixels, soft, drawn(self.seed, update, part, 1), self.spec)
        return {**arrays, "pixel_values": np.ascontiguousarray(mixed.transpose(0, 3, 1, 2))}, torch.from_numpy(soft)


def check(spec: Mapping[str, float], balance: bool, task: Any, problem: str) -> None:
    """InputError for what cannot be done to such examples."""
    wanted = checked(spec, known_for(task))
    if problem == "regression" and (mixes := [name for name in MIXES if name in wanted]):
        raise InputError(f"augment: {mixes[0]} mixes classes, and this is a regression")
    if balance and problem != "single_label_classification":
        raise InputError(f"--balance is for single labels, not for {problem.replace('_', ' ')}")


def oversampled(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in random order, those of rarer classes again and again until each class has as many as the largest."""
    counts = np.bincount(classes)
    most, chosen = int(counts.max()), []
    for number in np.flatnonzero(counts):
        rows = np.flatnonzero(classes == number)
        whole, rest = divmod(most, len(rows))
        chosen += [np.tile(rows, whole), rng.choice(rows, rest, replace=False)]
    return rng.permutation(np.concatenate(chosen))
