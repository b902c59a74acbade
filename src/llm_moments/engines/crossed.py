"""Cross-fitted weights of a linear model: a row that it has learnt from is answered by weights that have not seen it.

A search judges plans by the same rows that the model learns from; each of them is left out of the training of one fold, and
that fold's weights answer it. All other rows are answered by the mean of the folds, which is what an artefact keeps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError

FILE = "crossed.safetensors"  # beside a model's own weights, in a study; an artefact has none
Weights = tuple[np.ndarray, np.ndarray]  # [features, labels], [labels]


def keys_of(rows: tuple[np.ndarray, ...]) -> np.ndarray:
    """uint64 [rows]: the same for rows of the same features. rows: as `Vectorizer.rows` gives them."""
    numbers, values, counts = rows
    ends = np.cumsum(counts)
    return np.array(list(_keys(numbers, values, ends - counts, ends)), np.uint64)


def save(folder: Path, keys: np.ndarray, folds: np.ndarray, weights: Sequence[Weights]) -> None:
    """keys: of the rows that were left out; folds [rows]: where."""
    from safetensors.numpy import save_file

    tensors = {"keys": keys, "folds": folds.astype(np.int64)}
    for at, (weight, bias) in enumerate(weights):
        tensors |= {f"weight.{at}": weight, f"bias.{at}": bias}
    save_file(tensors, str(folder / FILE))


def opened(module: Any, folder: Path) -> Any:
    """The module of a linear model, crossed as the study's file beside it says; EngineError for a damaged one."""
    import torch

    fold_of, weights = _read(folder / FILE, {n: tuple(p.shape) for n, p in module.named_parameters()})
    count = len(weights)

    class Crossed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, numbers: Any, values: Any, begins: Any) -> Any:
            ends = torch.cat([begins[1:], torch.tensor([len(numbers)])])
            keys = _keys(numbers.numpy(), values.numpy(), begins.numpy(), ends.numpy())
            folds = np.array([fold_of.get(key, count) for key in keys])
            logits = torch.empty(len(begins), len(self.module.bias))
            for fold in np.unique(folds):
                rows = np.flatnonzero(folds == fold)
                some = _taken(numbers, values, begins, ends, rows)
                if fold == count:
                    logits[rows] = self.module(*some).logits
                    continue
                weight, bias = weights[fold]
                bag = torch.nn.functional.embedding_bag(
                    some[0], weight, some[2], mode="sum", per_sample_weights=some[1]
                )
                logits[rows] = bag + bias
            return SimpleNamespace(logits=logits)

    return Crossed().eval()


def _read(file: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[int, int], list[tuple[Any, Any]]]:
    import torch
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(str(file))
        count = sum(name.startswith("bias.") for name in tensors)
        weights = [(tensors[f"weight.{at}"], tensors[f"bias.{at}"]) for at in range(count)]
        fold_of = dict(zip(tensors["keys"].tolist(), tensors["folds"].tolist(), strict=True))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise EngineError(f"{file} cannot be read: {error!r:.200}") from error
    wanted = (shapes["weight"], shapes["bias"])
    if any((w.shape, b.shape) != wanted for w, b in weights) or not set(fold_of.values()) <= set(range(count)):
        raise EngineError(f"{file} does not belong to the weights beside it")
    return fold_of, [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in weights]


def _keys(numbers: np.ndarray, values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> Iterator[int]:
    """uint64: a digest of each row's features."""
    for a, b in zip(begins.tolist(), ends.tolist(), strict=True):
        digest = hashlib.blake2b(numbers[a:b].tobytes() + values[a:b].tobytes(), digest_size=8)
        yield int.from_bytes(digest.digest(), "little")


def _taken(numbers: Any, values: Any, begins: Any, ends: Any, rows: np.ndarray) -> tuple[Any, Any, Any]:
    import torch

    counts = (ends - begins)[rows]
    starts = torch.cumsum(counts, 0) - counts
    places = torch.arange(int(counts.sum())) + torch.repeat_interleave(begins[rows] - starts, counts)
    return numbers[places], values[places], starts
