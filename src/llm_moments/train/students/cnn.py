"""A small convolutional network of its own, which is given what the teacher is given, so that it can take its place in a plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from llm_moments.base.errors import InputError
from llm_moments.core import Outputs
from llm_moments.models.model import Model
from llm_moments.models.nets.architectures import fitted
from llm_moments.models.preprocessing import preprocessing
from llm_moments.train.settings import Settings
from llm_moments.train.start import checked_options
from llm_moments.train.students.contract import Beginning, Student, Tick, for_images_only

NAME = "cnn"
RATE = 1e-3  # of learning, at its peak, for a network that begins with random weights


class Fresh(Student):
    rate = RATE
    fresh = True

    @classmethod
    def takes(cls, word: str) -> bool:
        """A folder of that name is a model."""
        return word == NAME and not (Path(word) / "config.json").exists()

    def check(self, wanted: Settings, hidden: float) -> None:
        for_images_only(self)
        super().check(wanted, hidden)

    def begin(self, values: Sequence[Any], told: Outputs, wanted: Settings, tick: Tick) -> Beginning:
        import torch

        from llm_moments.models.nets.cnn import CnnConfig, MomentsCnnForImageClassification

        teacher = self.base.model
        names = dict(enumerate(teacher.labels))
        options = checked_options(wanted.model_options)
        channels = preprocessing(teacher).channels
        if options.pop("num_channels", channels) != channels:
            raise InputError(f"the student is given what the teacher is given: images of {channels} channels")
        size = _resized(teacher, wanted.image_size)
        config = CnnConfig(
            num_channels=channels, image_size=cast(Any, [size.height, size.width]), **options, id2label=names,
            label2id={v: k for k, v in names.items()}, problem_type=teacher.problem_type,
            architectures=[MomentsCnnForImageClassification.__name__],
        )  # fmt: skip
        torch.manual_seed(wanted.seed)
        model = Model(teacher.path, json.loads(config.to_json_string(use_diff=False)))
        model.__dict__["_preprocessing"] = size
        return Beginning(fitted(MomentsCnnForImageClassification(config), model), model)


def _resized(model: Model, size: int) -> Any:
    own = preprocessing(model)
    return replace(own, height=size, width=max(round(size * own.width / own.height), 1))
