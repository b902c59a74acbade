"""EfficientNet-lite0 (Google, 2020), its weights named as timm names them.

MobileNet's inverted residuals (arXiv:1801.04381) in the proportions of EfficientNet-B0 (arXiv:1905.11946), without
squeeze-and-excitation and with ReLU6, so that it may be quantised.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

STEM, HEAD = 32, 1280
# Of each stage: kernel, repeats, channels, expansion, stride of the first block.
STAGES = (
    (3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)  # fmt: skip


class EfficientNetLiteConfig(PretrainedConfig):
    """As timm writes config.json. pretrained_cfg: input_size [channels, height, width], mean, std, crop_pct.

    depths: blocks of each stage, where they are fewer than lite0 has."""

    model_type = "moments-efficientnet-lite"

    def __init__(
        self, architecture: str = "tf_efficientnet_lite0", num_classes: int = 1000, pretrained_cfg: Any = None,
        tf_padding: bool | None = None, dropout: float = 0.2, depths: Any = None, **more: Any,
    ):  # fmt: skip
        self.architecture, self.dropout = architecture, dropout
        self.depths = list(depths or (repeats for _, repeats, *_ in STAGES))
        self.pretrained_cfg = pretrained_cfg or {}
        self.tf_padding = architecture.startswith("tf_") if tf_padding is None else tf_padding
        if "label_names" in self.pretrained_cfg and "id2label" not in more:
            more["id2label"] = dict(enumerate(self.pretrained_cfg["label_names"]))
        if "id2label" not in more:
            more.setdefault("num_labels", num_classes)
        super().__init__(**more)
        self.num_classes = self.num_labels


class Same(nn.Conv2d):
    """Convolution padded as TensorFlow does: more at the end where the padding is odd."""

    def forward(self, x: Any) -> Any:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-int(size) // stride) - 1) * stride + kernel - int(size), 0)
            pads += [total // 2, total - total // 2]
        return functional.conv2d(functional.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def convolution(given: int, made: int, kernel: int, stride: int, tf: bool, groups: int = 1) -> Any:
    if tf and stride > 1:
        return Same(given, made, kernel, stride, bias=False, groups=groups)
    return nn.Conv2d(given, made, kernel, stride, kernel // 2, bias=False, groups=groups)


def norm(channels: int) -> Any:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Separable(nn.Module):
    """Depthwise, then pointwise: the block of the first stage, which does not expand."""

    def __init__(self, given: int, made: int, kernel: int, stride: int, tf: bool):
        super().__init__()
        self.conv_dw, self.bn1 = convolution(given, given, kernel, stride, tf, given), norm(given)
        self.conv_pw, self.bn2 = nn.Conv2d(given, made, 1, bias=False), norm(made)
        self.kept = stride == 1 and given == made

    def forward(self, x: Any) -> Any:
        y = functional.relu6(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.kept else y


class Inverted(nn.Module):
    """Expand, depthwise, project; added to its input where both have one shape."""

    def __init__(self, given: int, made: int, kernel: int, stride: int, expansion: int, tf: bool):
        super().__init__()
        wide = given * expansion
        self.conv_pw, self.bn1 = nn.Conv2d(given, wide, 1, bias=False), norm(wide)
        self.conv_dw, self.bn2 = convolution(wide, wide, kernel, stride, tf, wide), norm(wide)
        self.conv_pwl, self.bn3 = nn.Conv2d(wide, made, 1, bias=False), norm(made)
        self.kept = stride == 1 and given == made

    def forward(self, x: Any) -> Any:
        y = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.kept else y


class EfficientNetLiteForImageClassification(PreTrainedModel):
    """pixel_values float32 [rows, 3, height, width] -> logits [rows, num_labels]."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        tf = config.tf_padding
        self.conv_stem, self.bn1 = convolution(3, STEM, 3, 2, tf), norm(STEM)
        stages, given = [], STEM
        for (kernel, _, made, expansion, stride), repeats in zip(STAGES, config.depths, strict=True):
            stage: list[nn.Module] = []
            for at in range(repeats):
                first = stride if at == 0 else 1
                if expansion == 1:
                    stage.append(Separable(given, made, kernel, first, tf))
                else:
                    stage.append(Inverted(given, made, kernel, first, expansion, tf))
                given = made
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = nn.Conv2d(given, HEAD, 1, bias=False), norm(HEAD)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(HEAD, int(config.num_labels or 2))
        self.post_init()

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """config.json may be timm's own, or what `save_pretrained` has made of it."""
        told = json.loads((Path(path) / "config.json").read_text(encoding="utf-8-sig"))
        given: dict[str, Any] = {
            k: options.pop(k) for k in ("num_labels", "id2label", "label2id", "problem_type") if k in options
        }
        if "id2label" in given:
            given.pop("num_labels", None)
        told.pop("model_type", None)
        return super().from_pretrained(path, *args, config=EfficientNetLiteConfig(**{**told, **given}), **options)

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Any, **ignored: Any) -> Any:
        x = functional.relu6(self.bn1(self.conv_stem(pixel_values)))
        x = functional.relu6(self.bn2(self.conv_head(self.blocks(x))))
        return ImageClassifierOutput(logits=self.classifier(self.dropout(x.mean((2, 3)))))
