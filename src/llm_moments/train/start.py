"""Where a training begins: the task, a module with a head for its labels, and how the inputs are prepared."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Plan
from llm_moments.models.model import Model, checked_config
from llm_moments.models.nets.architectures import is_image_model
from llm_moments.train import linear
from llm_moments.train.lesson import with_head
from llm_moments.train.settings import Settings

FRESH = ("cnn",)  # networks that begin without a folder
SEEN = 64  # images that a fresh network's size and channels are taken from
LARGEST = 96  # pixels: images of one size up to this are taken as they are
OTHERWISE = 64  # pixels of each side, where they are larger or of many sizes


@dataclass(frozen=True)
class Start:
    task: Any
    module: Any
    model: Model
    plan: Plan


def head_of(model: str | Path) -> Model | None:
    """The model that training begins with, if there is one."""
    if str(model) == linear.NAME or (str(model) in FRESH and not (Path(model) / "config.json").exists()):
        return None
    return Model(Path(model), checked_config(Path(model), False))


def start(model: str | Path, inputs: Sequence[Any], labels: list[str], problem: str, settings: Settings) -> Start:
    """model: a folder, or the name of one that begins fresh: cnn, linear. inputs: of the training examples."""
    if linear.is_linear(model):
        own = not settings.new_head
        return Start(*linear.begun(model, inputs, labels, problem, settings.model_options, own_labels=own))
    fresh = str(model) in FRESH and not (Path(model) / "config.json").exists()
    if settings.model_options and not fresh:
        raise InputError(
            "model options are for what begins fresh (cnn, linear); a folder has a configuration of its own"
        )
    if fresh:
        return _fresh_cnn(inputs, labels, problem, settings)
    if is_image_model(checked_config(Path(model), False)):
        made = with_head(Path(model), labels, problem, settings.seed, own_labels=not settings.new_head)
        return _images(*made, settings)
    if settings.image_size:
        raise InputError(f"{model} takes texts; an image size is for models of images")
    from llm_moments.tasks.text_classification import TextClassification

    module, described = with_head(Path(model), labels, problem, settings.seed, own_labels=not settings.new_head)
    length = min(settings.max_length, described.max_length)
    return Start(TextClassification(described), module, described, Plan({"truncate": {"max_length": length}}))


def _images(module: Any, described: Model, settings: Settings) -> Start:
    from llm_moments.tasks.image_classification import ImageClassification

    if settings.batch_tokens:
        raise InputError("images have no tokens to fill a batch with; use --batch-size")
    task = ImageClassification(described)
    plan = Plan({"resize": {"size": settings.image_size}} if settings.image_size else {})
    return Start(task, module, described, plan.check(task.knobs()))


def _fresh_cnn(inputs: Sequence[Any], labels: list[str], problem: str, settings: Settings) -> Start:
    import torch

    from llm_moments.models.nets.architectures import fitted
    from llm_moments.models.nets.cnn import CnnConfig, MomentsCnnForImageClassification

    channels, size = looked_at(inputs)
    if settings.image_size:
        size = [settings.image_size, settings.image_size]
    names = dict(enumerate(labels))
    options = {"num_channels": channels, "image_size": size, **checked_options(settings.model_options)}
    config = CnnConfig(
        **options, id2label=names, label2id={v: k for k, v in names.items()}, problem_type=problem,
        architectures=[MomentsCnnForImageClassification.__name__],
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    module = MomentsCnnForImageClassification(config)
    told = json.loads(config.to_json_string(use_diff=False))
    digest = hashlib.sha256(json.dumps([told, settings.seed], sort_keys=True).encode()).hexdigest()[:32]
    described = Model(Path("cnn"), told, known_digest=digest)
    return _images(fitted(module, described), described, settings)


def looked_at(inputs: Sequence[Any]) -> tuple[int, list[int]]:
    """Channels, height and width that suit these images: their own where they are small and all alike."""
    from llm_moments.data.images import decoded, image_of, size_of

    few = [image_of(value) for value in inputs[:: max(len(inputs) // SEEN, 1)][:SEEN]]
    sizes = Counter(map(size_of, few))
    (width, height), count = sizes.most_common(1)[0]
    alike = count == len(few) and min(width, height) >= 4 and max(width, height) <= LARGEST
    grey = all(_is_grey(decoded(image, 3)) for image in few)
    return 1 if grey else 3, [height, width] if alike else [OTHERWISE, OTHERWISE]


def _is_grey(one: Any) -> bool:
    import numpy as np

    array = np.asarray(one)
    return bool((array == array[:, :, :1]).all())


LIMITS = {"hidden": (1, 65536), "grid": (1, 64), "num_channels": (1, 3), "channels": (1, 4096)}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """channels=[32,64], hidden=512, grid=7, num_channels=3, dropout=0.25; InputError for anything else."""
    for name, value in options.items():
        if name == "dropout":
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise InputError(f"the model option dropout is between 0 and 1, not {value!r}")
            continue
        if name not in LIMITS:
            raise InputError(f"unknown model option {name!r}; a cnn has {', '.join(LIMITS)} and dropout")
        low, high = LIMITS[name]
        several = value if name == "channels" and isinstance(value, list | tuple) and value else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and low <= v <= high for v in several):
            raise InputError(f"the model option {name} is from {low} to {high}, not {value!r}")
        if name == "channels" and not isinstance(value, list | tuple):
            raise InputError(f"the model option channels is a list such as [32,64], not {value!r}")
        if name == "num_channels" and value == 2:
            raise InputError("the model option num_channels is 1 (grey) or 3 (colour)")
    return dict(options)
