"""The same small convolutional network with fewer channels: those stay that carry most (Li et al. 2017, arXiv:1608.08710)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Outputs
from llm_moments.models.model import Model
from llm_moments.models.nets.architectures import CNN, fitted
from llm_moments.train.settings import Settings
from llm_moments.train.students.contract import Beginning, Student, Tick, for_images_only

WIDTHS = {"half": 2, "third": 3, "quarter": 4}  # so many channels to one of the student's


class Narrower(Student):
    """`width=half` of a `cnn`; InputError for other widths, and for other teachers."""

    @classmethod
    def takes(cls, word: str) -> bool:
        return word.startswith("width")

    def check(self, wanted: Settings, hidden: float) -> None:
        for_images_only(self)
        super().check(wanted, hidden)
        self.width()
        if wanted.image_size:
            self.plan(self.base.model, wanted)

    def width(self) -> str:
        if (found := self.word.removeprefix("width=")) not in WIDTHS:
            raise InputError(f"a narrower student is {', '.join(f'width={w}' for w in WIDTHS)}, not {self.word!r}")
        return found

    def begin(self, values: Sequence[Any], told: Outputs, wanted: Settings, tick: Tick) -> Beginning:
        return Beginning(*narrower(self.base.model, self.width()))


def narrower(teacher: Model, word: str) -> tuple[Any, Model]:
    """The teacher, a `cnn`, with a half, third or quarter of its channels and of its wide layer; InputError for others."""
    import torch

    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.nets.cnn import CnnConfig, MomentsCnnForImageClassification

    if teacher.config.get("model_type") != CNN:
        raise InputError(
            f"a narrower student can be made of the project's own cnn, not of {teacher.name}; "
            "try --student layers=half, or cnn"
        )
    old = load_module(teacher)
    told = old.config.to_dict()
    part = WIDTHS[word]
    channels = [max(n // part, 1) for n in old.config.channels]
    config = CnnConfig(**{**told, "channels": channels, "hidden": max(old.config.hidden // part, 1)})
    made = MomentsCnnForImageClassification(config)
    with torch.no_grad():
        _copy(old, made, torch)
    described = Model(teacher.path, {**teacher.config, **json.loads(config.to_json_string(use_diff=False))})
    return fitted(made.eval(), described), described


def _copy(old: Any, new: Any, torch: Any) -> None:
    """Layer by layer: the outputs that matter most, and of the next layer's inputs the same ones."""
    convolutions = [block.convolution for block in old.blocks]
    cells = old.head.grid**2
    wide = old.head.wide.weight
    next_weights = [*(c.weight.transpose(0, 1).flatten(1) for c in convolutions[1:]), _by_channel(wide, cells)]
    inputs = torch.arange(convolutions[0].weight.shape[1])
    for own, block, after in zip(convolutions, new.blocks, next_weights, strict=True):
        kept = _most(own.weight.flatten(1).norm(dim=1) * after.norm(dim=1), block.convolution.weight.shape[0])
        block.convolution.weight.copy_(own.weight[kept][:, inputs])
        block.convolution.bias.copy_(own.bias[kept])
        inputs = kept
    hidden = _most(wide.norm(dim=1) * old.head.classifier.weight.norm(dim=0), new.head.wide.weight.shape[0])
    columns = (inputs[:, None] * cells + torch.arange(cells)).flatten()
    new.head.wide.weight.copy_(wide[hidden][:, columns])
    new.head.wide.bias.copy_(old.head.wide.bias[hidden])
    new.head.classifier.weight.copy_(old.head.classifier.weight[:, hidden])
    new.head.classifier.bias.copy_(old.head.classifier.bias)


def _by_channel(wide: Any, cells: int) -> Any:
    """[hidden, channels x cells] -> [channels, hidden x cells]."""
    return wide.reshape(len(wide), -1, cells).transpose(0, 1).flatten(1)


def _most(weights: Any, count: int) -> Any:
    return weights.topk(count).indices.sort().values
