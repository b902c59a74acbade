"""EfficientNet-lite0 in timm's format: its shape, its labels and, where the sample is, what it sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import ModelError
from llm_moments.models.nets.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteForImageClassification
from tests.image_fakes import make_arrays

TIMM = {
    "architecture": "tf_efficientnet_lite0", "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
        "crop_pct": 0.875,
    },
}  # fmt: skip


def make(folder: Path, **more: object) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    told = {**TIMM, **more}
    module = EfficientNetLiteForImageClassification(EfficientNetLiteConfig(**told))
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, str(folder / "model.safetensors"), {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def test_its_size_is_what_was_published() -> None:
    module = EfficientNetLiteForImageClassification(EfficientNetLiteConfig())
    assert sum(p.numel() for p in module.parameters()) == 4_652_008


def test_a_folder_as_timm_writes_it(tmp_path: Path) -> None:
    pipe = lm.load(make(tmp_path / "m"))
    assert pipe.plan["resize"] == {"size": 32, "fit": "crop", "crop": 0.875, "resample": "bicubic"}
    assert list(pipe(make_arrays(1)[0]).scores) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    cfg = {**TIMM["pretrained_cfg"], "label_names": ["cat", "dog", "cow"]}
    assert lm.load(make(tmp_path / "n", pretrained_cfg=cfg)).model.labels == ["cat", "dog", "cow"]


def test_it_is_fine_tuned_and_loads_again(tmp_path: Path) -> None:
    data = [lm.Example(a, "ab"[i % 2]) for i, a in enumerate(make_arrays(8))]
    done = lm.train(make(tmp_path / "m"), data, tmp_path / "out", epochs=1, image_size=40)
    pipe = lm.load(done.folder)
    assert pipe.model.labels == ["a", "b"]
    assert pipe.plan["resize"]["size"] == 40


def test_other_architectures_of_timm_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown architecture 'resnet999'.*efficientnet_lite0"):
        lm.load(make(tmp_path / "m", architecture="resnet999")).outputs(make_arrays(1))


@pytest.mark.slow
def test_the_sample_sees_a_palace_and_a_daisy(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_image

    script = Path(__file__).parent.parent / "scripts" / "efficientnet_sample.py"
    made = subprocess.run([sys.executable, str(script), str(tmp_path / "m")], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(made.stderr.strip())
    pipe = lm.load(tmp_path / "m")
    photos = [np.array(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    assert [a.label for a in pipe.run(photos)] == ["LABEL_698", "LABEL_985"]  # palace, daisy
