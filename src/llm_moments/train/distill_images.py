"""What `distill` does otherwise where the teacher is a classifier of images: its students, and the size they learn at."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from llm_moments.base.errors import InputError
from llm_moments.core import NULL, Outputs, Pipeline, Plan, Recorder
from llm_moments.models.model import Model, checked_config
from llm_moments.models.nets.architectures import fitted, is_image_model
from llm_moments.models.preprocessing import preprocessing
from llm_moments.tasks.extents import PIXELS
from llm_moments.train.fit import Tick
from llm_moments.train.image_students import chosen_layers, fewer, stages_of
from llm_moments.train.losses import Distillation
from llm_moments.train.narrow import WIDTHS, narrower
from llm_moments.train.problem import with_head
from llm_moments.train.settings import Settings
from llm_moments.train.start import checked_options
from llm_moments.train.student_spec import Parts

FRESH = "cnn"
RATE = 1e-3  # of learning, at its peak, for a network that begins with random weights


def is_fresh(student: str) -> bool:
    """Whether it is the name of a network that begins from nothing; a folder of that name is a model."""
    return student == FRESH and not (Path(student) / "config.json").exists()


def usual(base: Pipeline, student: str, settings: dict[str, Any]) -> None:
    """Puts in what is not said: the teacher's own size of images for students that take the teacher's inputs, and a rate."""
    if "max_length" in settings:
        raise InputError("images have no tokens to be cut; an image size says how much of them a student sees")
    if is_fresh(student):
        settings.setdefault("learning_rate", RATE)
    if _as_teacher(student):
        settings.setdefault("image_size", PIXELS.of(base.plan))


def _as_teacher(student: str) -> bool:
    """Whether it is given what the teacher is given, and no model of its own."""
    return is_fresh(student) or bool(re.match(r"(layers|heads|neurons|as-is|width)\b", student))


def width_asked(student: str) -> str | None:
    """half, third or quarter; None where the student is no narrower one. InputError for other widths."""
    if not student.startswith("width"):
        return None
    if (found := student.removeprefix("width=")) not in WIDTHS:
        raise InputError(f"a narrower student is {', '.join(f'width={w}' for w in WIDTHS)}, not {student!r}")
    return found


def plan_for(base: Pipeline, described: Model, settings: Settings) -> Plan:
    """The student's own preparation of images, at the size that was asked for. PlanError for one that it cannot take."""
    size = settings.image_size or preprocessing(described).size
    return Plan({"resize": {"size": size}}).check(base.task.knobs())


def made(
    base: Pipeline, student: str, parts: Parts | None, values: Sequence[Any], told: Outputs,
    wanted: Settings, judges: int, tick: Tick,
) -> tuple[Any, Model, list[int]]:  # fmt: skip
    """The student's module, its description, and the teacher's layers that it is made of, if it is made of layers.

    parts: what it keeps of the teacher, None for other students.
    """
    if width := width_asked(student):
        return *narrower(base.model, width), []
    if parts is not None:
        return _kept(base, parts, values, told, wanted, judges, tick)
    if is_fresh(student):
        return *_fresh(base, wanted), []
    folder = Path(student)
    if not is_image_model(checked_config(folder, False)):
        raise InputError(f"{student} takes texts, and {base.model.name} is a classifier of images")
    return *with_head(folder, base.model.labels, base.model.problem_type, wanted.seed, own_labels=False), []


def _kept(
    base: Pipeline, parts: Parts, values: Sequence[Any], told: Outputs, wanted: Settings, judges: int, tick: Tick
) -> tuple[Any, Model, list[int]]:
    """The teacher with some of its layers, or of each layer's heads and neurons."""
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.train.prune import narrowed

    module, described = load_module(base.model), base.model
    kept: list[int] = []
    if (layers := parts.layers) is not None:
        kept = layers if isinstance(layers, list) else _chosen(base, values, told, layers, wanted, judges, tick)
        module, described = fewer(base.model, kept)
    if parts.heads or parts.neurons:
        tick(None, "choosing heads and neurons")
        batches = base.with_(**{PIXELS.knob: wanted.image_size}).arrays(values[: 4 * judges])
        judge = load_module(base.model) if kept else None
        module, described = narrowed(
            module, described, batches, heads=parts.heads, neurons=parts.neurons, judge=judge, layers=kept
        )
    return module, described, kept


def _chosen(
    base: Pipeline, values: Sequence[Any], told: Outputs, count: str, wanted: Settings, judges: int, tick: Tick
) -> list[int]:
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.train.student_spec import share_of as layers_of

    total = sum(len(stage.layers) for stage in stages_of(load_module(base.model)))
    small = base.with_(**{PIXELS.knob: wanted.image_size})
    return chosen_layers(small, values[:judges], told[:judges], layers_of(total, count), tick)


def _fresh(base: Pipeline, wanted: Settings) -> tuple[Any, Model]:
    """A network of its own that is given what the teacher is given: so it can take the teacher's place in a plan."""
    import torch

    from llm_moments.models.nets.cnn import CnnConfig, MomentsCnnForImageClassification

    names = dict(enumerate(base.model.labels))
    options = checked_options(wanted.model_options)
    channels = preprocessing(base.model).channels
    if options.pop("num_channels", channels) != channels:
        raise InputError(f"the student is given what the teacher is given: images of {channels} channels")
    size = _resized(base.model, wanted.image_size)
    config = CnnConfig(
        num_channels=channels, image_size=cast(Any, [size.height, size.width]), **options, id2label=names,
        label2id={v: k for k, v in names.items()}, problem_type=base.model.problem_type,
        architectures=[MomentsCnnForImageClassification.__name__],
    )  # fmt: skip
    torch.manual_seed(wanted.seed)
    described = Model(base.model.path, json.loads(config.to_json_string(use_diff=False)))
    described.__dict__["_preprocessing"] = size
    return fitted(MomentsCnnForImageClassification(config), described), described


def _resized(model: Model, size: int) -> Any:
    own = preprocessing(model)
    return replace(own, height=size, width=max(round(size * own.width / own.height), 1))


def frozen(module: Any) -> tuple[str, ...]:
    """The embeddings of a student of layers: they are the teacher's own, and stay as they are where there are any."""
    from llm_moments.models.blocks import blocks

    return ("embeddings",) if any(block.name == "embeddings" for block in blocks(module)) else ()


class ImageDistillation(Distillation):
    """Hidden states of images: no part of them is padding. InputError for a student whose layers are not one row."""

    def seen(self, inputs: Any, recorder: Recorder = NULL) -> Sequence[Any]:
        import torch

        pixels = inputs["pixel_values"]
        with recorder.step("teacher", items=len(pixels)), torch.no_grad():
            self.teacher.to(pixels.device)
            return list(self.teacher(**inputs, output_hidden_states=True).hidden_states)

    def apart(self, hidden: Sequence[Any], told: Sequence[Any], inputs: Any) -> Any:
        """Mean over the student's layers; the first hidden states are those before any layer."""
        total = 0.0
        for mine, theirs in zip(hidden[1:], [told[i + 1].float() for i in self.stands_for], strict=True):
            total = total + (mine.float() - theirs).square().sum() / theirs.square().sum().clamp_min(1e-6)
        return total / len(self.stands_for)


def check(base: Pipeline, student: str, wanted: Settings, hidden: float) -> None:
    """InputError for what does not go together, before the teacher is asked anything."""
    images = base.task.modality == "image"
    if wanted.model_options and not (images and is_fresh(student)):
        raise InputError("model options are for a student that begins fresh: --student cnn")
    if not images:
        of_images = is_fresh(student) or student.startswith("width") or _is_image_folder(Path(student))
        if of_images:
            raise InputError(f"the student {student!r} is for images, and {base.model.name} is not")
        if wanted.image_size:
            raise InputError(f"{base.model.name} takes no images; an image size is for models of images")
        return
    if hidden:
        _check_hidden(base, student)
    if wanted.image_size and _as_teacher(student) and not is_fresh(student):
        plan_for(base, base.model, wanted)


def _is_image_folder(folder: Path) -> bool:
    return (folder / "config.json").exists() and is_image_model(checked_config(folder, False))


def _check_hidden(base: Pipeline, student: str) -> None:
    """Only of ViT and its kin is what passes between two layers of one shape from the first to the last."""
    from llm_moments.engines.torch_eager import load_module

    if not student.startswith("layers") or len(stages_of(load_module(base.model))) > 1:
        raise InputError(
            f"hidden states can be learnt by a student that is made of the layers of a model without stages, not by "
            f"{student!r} of {base.model.name}"
        )
