"""What a search for a faster training tries: the usual plan, and changes of it, the harmless ones first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASELINE: dict[str, Any] = {  # as transformers' Trainer has it (5.x), with its own attention
    "batch_size": 8, "learning_rate": 5e-5, "schedule": "linear", "warm_up": 0.0, "weight_decay": 0.0, "clip": 1.0,
    "optimizer": "adamw", "precision": "fp32", "order": "random", "attention": "flash", "epochs": 1,
}  # fmt: skip
WRITTEN = (
    "epochs", "batch_size", "batch_tokens", "accumulate", "learning_rate", "max_length", "optimizer", "weight_decay", "schedule",
    "image_size", "warm_up", "dropout", "clip", "precision", "order", "attention", "freeze",
)  # fmt: skip
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384)


@dataclass(frozen=True)
class Move:
    """A change of some settings. lossless: the same sums but for rounding and the order of the rows."""

    name: str
    changes: Mapping[str, Any]
    lossless: bool = False


def moves(
    now: Mapping[str, Any], lengths: Sequence[int], bf16: bool, embeddings: bool, sizes: Sequence[int] = ()
) -> Iterator[list[Move]]:
    """Groups of changes, of each of which the first that holds is kept; the boldest comes first in a group.

    now: the settings as they are, read anew for every group. lengths: tokens of some rows, none where they are images;
    sizes: of images, smaller than what the model is for, smallest first.
    """
    if lengths and now["order"] != "length":
        yield [Move("rows of like length together", {"order": "length"}, True)]
    if (lengths or embeddings) and now["attention"] == "flash":  # a convolutional network attends to nothing
        yield [Move("attention as plain matrix products", {"attention": "math"}, True)]
    if bf16 and now["precision"] != "bf16":
        yield [Move("bf16", {"precision": "bf16"}, True)]
    yield [Move("no dropout", {"dropout": 0.0})]
    yield list(_batches(now))
    yield list(_cuts(now, lengths))
    if smaller := [size for size in sizes if size < now["image_size"]]:
        yield [Move(f"images of {size} pixels", {"image_size": size}) for size in smaller]
    if embeddings and "embeddings" not in now.get("freeze", ()):
        yield [Move("embeddings frozen", {"freeze": ("embeddings", *now.get("freeze", ()))})]
    if now["epochs"] > 1:
        fewer = max(now["epochs"] // 2, 1)
        rate = now["learning_rate"]
        yield [
            Move(f"{n} epoch(s) at twice the rate", {"epochs": n, "learning_rate": 2 * rate})
            for n in dict.fromkeys((fewer, now["epochs"] - 1))
        ]


def _batches(now: Mapping[str, Any]) -> Iterator[Move]:
    """Larger batches; the rate grows with the batch, or with its root (Granziol et al. 2022, arXiv:2006.09092)."""
    size, rate = now["batch_size"], now["learning_rate"]
    for times in (4, 2):
        for growth in (times, times**0.5):
            name = f"batches of {size * times}, rate times {growth:.3g}"
            yield Move(name, {"batch_size": size * times, "learning_rate": rate * growth})
    yield Move(
        f"batches of {size} gathered by 2", {"accumulate": 2 * now.get("accumulate", 1), "learning_rate": rate * 2}
    )


def _cuts(now: Mapping[str, Any], lengths: Sequence[int]) -> Iterator[Move]:
    """Shorter rows: lengths that cut a quarter and a half of them at most."""
    if not lengths:
        return
    order = sorted(lengths)
    for share in (0.5, 0.75, 0.9):
        at = order[min(int(share * len(order)), len(order) - 1)]
        length = next((n for n in LENGTHS if n >= at), None)
        if length and length < min(now["max_length"], order[-1]):
            yield Move(f"cut at {length} tokens", {"max_length": length})


def toml(settings: Mapping[str, Any], words: str) -> str:
    """The plan as `moments train --config` takes it."""
    lines = [f"# {line}" for line in words.splitlines()] + ["[train]"]
    for name in WRITTEN:
        value = settings.get(name)
        if value is None or (name == "image_size" and not value):
            continue
        if isinstance(value, tuple | list):
            if value:
                lines.append(f"{name.replace('_', '-')} = [{', '.join(_text(v) for v in value)}]")
        else:
            lines.append(f"{name.replace('_', '-')} = {_text(value) if isinstance(value, str) else repr(value)}")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    import json

    return json.dumps(str(value))
