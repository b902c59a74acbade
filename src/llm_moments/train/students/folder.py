"""Another model's folder, which keeps its own tokenizer or size of images, with a head for the teacher's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Outputs
from llm_moments.models.model import checked_config
from llm_moments.models.nets.architectures import is_image_model
from llm_moments.train.lesson import with_head
from llm_moments.train.settings import Settings
from llm_moments.train.students.contract import Beginning, Student, Tick, for_images_only


class Other(Student):
    as_teacher = False

    @classmethod
    def takes(cls, word: str) -> bool:
        return True

    def check(self, wanted: Settings, hidden: float) -> None:
        if self._sees():
            for_images_only(self)
        super().check(wanted, hidden)

    def _sees(self) -> bool:
        folder = Path(self.word)
        return (folder / "config.json").exists() and is_image_model(checked_config(folder, False))

    def begin(self, values: Sequence[Any], told: Outputs, wanted: Settings, tick: Tick) -> Beginning:
        folder, teacher = Path(self.word), self.base.model
        if self.images and not is_image_model(checked_config(folder, False)):
            raise InputError(f"{self.word} takes texts, and {teacher.name} is a classifier of images")
        return Beginning(*with_head(folder, teacher.labels, teacher.problem_type, wanted.seed, own_labels=False))
