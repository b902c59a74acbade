"""A small convolutional network for images of any size, grey or in colour: convolutions, pooling, one wide layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

MODEL_TYPE = "moments-cnn"


class CnnConfig(PretrainedConfig):
    """channels: of each convolution, 3x3, whose output is halved by max pooling; grid: the side of what the
    last one is averaged to, so that images of any size fit the wide layer of `hidden` units."""

    model_type = MODEL_TYPE

    def __init__(
        self, num_channels: int = 3, image_size: int = 32, channels: Any = (32, 64), hidden: int = 512, grid: int = 7,
        dropout: float = 0.25, **more: Any,
    ):  # fmt: skip
        self.num_channels, self.image_size, self.channels = num_channels, image_size, list(channels)
        self.hidden, self.grid, self.dropout = hidden, grid, dropout
        super().__init__(**more)


class ConvBlock(torch.nn.Module):
    """[rows, given, height, width] -> [rows, made, height / 2, width / 2], where there is anything to halve."""

    def __init__(self, given: int, made: int):
        super().__init__()
        self.convolution = torch.nn.Conv2d(given, made, 3, padding=1)
        self.activation = torch.nn.ReLU()

    def forward(self, x: Any) -> Any:
        x = self.activation(self.convolution(x))
        return torch.nn.functional.max_pool2d(x, 2) if min(x.shape[-2:]) >= 2 else x


class Head(torch.nn.Module):
    def __init__(self, config: CnnConfig):
        super().__init__()
        self.grid = config.grid
        self.wide = torch.nn.Linear(config.channels[-1] * config.grid**2, config.hidden)
        self.dropout = torch.nn.Dropout(config.dropout)
        self.classifier = torch.nn.Linear(config.hidden, int(config.num_labels or 2))

    def forward(self, x: Any) -> Any:
        if tuple(x.shape[-2:]) != (self.grid, self.grid):
            x = shares(x.shape[-2], self.grid, x) @ x @ shares(x.shape[-1], self.grid, x).T
        x = torch.relu(self.wide(x.flatten(1)))
        return self.classifier(self.dropout(x))


def shares(size: int, grid: int, like: Any) -> Any:
    """float [grid, size]: which pixels each cell is the mean of, as adaptive average pooling has it. As a
    matrix, for not every graph engine takes that pooling where grid does not divide size."""
    size = int(size)
    made = np.zeros((grid, size), np.float32)
    for cell in range(grid):
        begin, end = cell * size // grid, -(-(cell + 1) * size // grid)
        made[cell, begin:end] = 1 / (end - begin)
    return torch.from_numpy(made).to(device=like.device, dtype=like.dtype)


class MomentsCnnForImageClassification(PreTrainedModel):
    """pixel_values float32 [rows, num_channels, height, width] -> logits [rows, num_labels]."""

    config_class = CnnConfig
    base_model_prefix = "cnn"
    main_input_name = "pixel_values"

    def __init__(self, config: CnnConfig):
        super().__init__(config)
        sizes = [config.num_channels, *config.channels]
        self.blocks = torch.nn.ModuleList(ConvBlock(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.head = Head(config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """He et al. 2015 (arXiv:1502.01852), as fits ReLU; Glorot's would begin slower."""
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Any, **ignored: Any) -> Any:
        x = pixel_values
        for block in self.blocks:
            x = block(x)
        return ImageClassifierOutput(logits=self.head(x))
