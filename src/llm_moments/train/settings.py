"""What a training is told: every choice with its default, checked as it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.train.optimisers import SCHEDULES

TYPES: dict[str, Any] = {"int": Integral, "float": Real, "bool": bool, "str": str, "tuple": (tuple, list), "dict": dict}
NAMED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word", "tuple": "a list",
    "dict": "names with values",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Everything about a training run but its model and data. InputError for what cannot be."""

    epochs: int = 3
    updates: int = 0  # after which it ends; 0: after the epochs, which a stream without a known end must not
    batch_size: int = 32
    batch_tokens: int = 0  # padded tokens of one batch; 0: batches by rows
    accumulate: int = 1  # batches of one update
    learning_rate: float = 1e-4
    max_length: int = 128
    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.01
    schedule: str = "linear"
    warm_up: float = 0.1  # share of the updates in which the learning rate rises
    loss: str | None = None
    label_smoothing: float = 0.0
    class_weights: str | None = None  # balanced
    dropout: float | None = None  # None: the model's own; drawing the masks takes a third of a step on a CPU
    clip: float = 1.0  # largest norm of the gradient
    precision: str = "auto"  # fp32, bf16, or bf16 where the machine has it
    order: str = "length"  # rows of like length share a batch; random: whatever comes
    attention: str = "auto"  # math, flash, or the faster one on this device
    freeze: tuple[str, ...] = ()  # blocks: embeddings, layer 0, …
    lora: int = 0  # rank; 0: all weights are trained
    gradient_checkpointing: bool = False
    augment: dict[str, float] = field(default_factory=dict)  # change and how much of it, as steps.augment has them
    translate_there: str = ""  # folders of two translating models, for the change back-translation
    translate_back: str = ""
    translate_languages: str = ""  # en,de: where they know several
    balance: bool = False  # rows of rare classes come again until all classes are as common
    early_stopping: int = 0  # epochs without a better score on --eval before it ends; 0: never
    checkpoint_every: int = 0  # updates; 0: after each epoch only
    seed: int = 0
    pack: bool = False  # of causal models: several examples stand in one row, without seeing one another
    choices: dict[str, Any] = field(default_factory=dict)  # of the plan of a model that makes texts: step.knob
    image_size: int = 0  # pixels of each side that images are resized to; 0: what the model is for
    new_head: bool = False  # whatever labels the model's own head knows
    model_options: dict[str, Any] = field(default_factory=dict)  # of a network that begins fresh

    def __post_init__(self) -> None:
        self._of_their_types()
        lengths = {"epochs": 1, "batch_size": 1, "accumulate": 1, "max_length": 8, "batch_tokens": 0}
        for name, least in lengths.items():
            if getattr(self, name) < least:
                raise InputError(f"{name.replace('_', '-')} is at least {least}, not {getattr(self, name)!r}")
        if not (math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 100):
            raise InputError(f"a learning rate is above 0 and at most 100, not {self.learning_rate!r}")
        shares = {"warm_up": (0, 1), "label_smoothing": (0, 1), "weight_decay": (0, 10), "clip": (0, math.inf)}
        for name, (low, high) in shares.items():
            if not (math.isfinite(getattr(self, name)) and low <= getattr(self, name) <= high):
                raise InputError(f"{name.replace('_', '-')} is between {low} and {high}, not {getattr(self, name)!r}")
        for name in ("lora", "early_stopping", "checkpoint_every", "seed", "image_size", "updates"):
            if getattr(self, name) < 0:
                raise InputError(f"{name.replace('_', '-')} is not below 0: {getattr(self, name)!r}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"dropout is between 0 and 1, not {self.dropout!r}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"precision is auto, fp32 or bf16, not {self.precision!r}")
        if self.order not in ("length", "random"):
            raise InputError(f"order is length or random, not {self.order!r}")
        if self.attention not in ("auto", "math", "flash"):
            raise InputError(f"attention is auto, math or flash, not {self.attention!r}")
        if self.class_weights not in (None, "balanced"):
            raise InputError(f"class weights are balanced or none, not {self.class_weights!r}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"unknown schedule {self.schedule!r}; known are {', '.join(SCHEDULES)}")

    def _of_their_types(self) -> None:
        for one in fields(self):
            value, wanted = getattr(self, one.name), str(one.type).split("[")[0].split(" | ")[0]
            if value is None and "None" in str(one.type):
                continue
            if not isinstance(value, TYPES[wanted]) or (isinstance(value, bool) and wanted != "bool"):
                raise InputError(f"{one.name.replace('_', '-')} is {NAMED[wanted]}, not {value!r}")


def quick_attention(device: str, kind: str = "auto") -> AbstractContextManager[Any]:
    """On a CPU the flash kernel's backward pass takes twice the time of plain matrix products (torch 2.13)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if kind == "flash" or (kind == "auto" and device != "cpu"):
        return nullcontext()  # torch takes the flash kernel wherever the inputs allow it
    return sdpa_kernel(SDPBackend.MATH)


def fast_bf16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    from llm_moments.base.environment import cpu_flags

    fast = {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags()
    return device == "cpu" and torch.backends.mkldnn.is_available() and bool(fast)


def settings_of(given: Mapping[str, Any], verb: str = "train") -> Settings:
    """InputError, in the verb's name, for a setting that there is not."""
    try:
        return Settings(**given)
    except TypeError as error:
        raise InputError(str(error).replace("Settings.__init__() ", f"{verb} ")) from error
