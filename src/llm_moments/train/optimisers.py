"""Optimisers and schedules by name; all of them are torch's and transformers' own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.base.registry import resolve

KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
    "adafactor": ("Adafactor", {}),
}  # a class of torch.optim, or `file:Class` of this room; and what is usual for it
SCHEDULES = ("constant", "linear", "cosine", "one-cycle")
NEED_MORE = ("Optimizer", "LBFGS", "SparseAdam")  # a base class, a closure, sparse gradients


def optimiser(name: str, module: Any, learning_rate: float, weight_decay: float, options: Mapping[str, Any]) -> Any:
    """A `torch.optim.Optimizer` over the module's trainable parameters.

    Weight decay is for matrices only, as usual (Loshchilov and Hutter 2019). options: further arguments of
    the optimiser, such as betas or momentum. InputError for a name or an option that torch does not know.
    """
    import torch

    classes = {n.lower(): n for n, c in vars(torch.optim).items() if inspect.isclass(c) and n not in NEED_MORE}
    cls, preset = KNOWN.get(name.lower(), (classes.get(name.lower(), ""), {}))
    if not cls:
        raise InputError(f"unknown optimizer {name!r}; known are {', '.join(KNOWN)} and those of torch.optim")
    made = resolve(cls, "train") if ":" in cls else getattr(torch.optim, cls)
    given = {**preset, **options}
    if "weight_decay" in inspect.signature(made).parameters:
        given.setdefault("weight_decay", weight_decay)
    if "fused" in inspect.signature(made).parameters and _plain_floats(module):
        given.setdefault("fused", True)  # one pass over the weights; AdamW on a CPU in a fifth of the time
    decay = given.pop("weight_decay", 0.0)
    try:
        return made(_groups(module, decay), lr=learning_rate, **given)
    except (TypeError, ValueError) as error:
        raise InputError(f"the optimizer {name} does not take that: {error}") from error


def _plain_floats(module: Any) -> bool:
    trained = [p for p in module.parameters() if p.requires_grad]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)


def _groups(module: Any, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def schedule(name: str, optimizer: Any, total: int, warm_up: float) -> Any:
    """A learning-rate scheduler over `total` updates, of which the first `warm_up` share rises."""
    import torch
    from transformers import get_scheduler

    if name not in SCHEDULES:
        raise InputError(f"unknown schedule {name!r}; known are {', '.join(SCHEDULES)}")
    rise = round(warm_up * total)
    if name == "one-cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        cycle = any("momentum" in group or "betas" in group for group in optimizer.param_groups)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peaks, total_steps=total + 1, pct_start=max(warm_up, 0.05), cycle_momentum=cycle
        )
    kind = "constant_with_warmup" if name == "constant" else name
    return get_scheduler(kind, optimizer, num_warmup_steps=rise, num_training_steps=max(total, 1))
