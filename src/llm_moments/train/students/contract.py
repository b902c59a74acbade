"""A student is a smaller model before it learns: what it begins as, and how much of each input it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Outputs, Pipeline, Plan
from llm_moments.models.model import Model
from llm_moments.tasks.extents import PIXELS
from llm_moments.train.settings import Settings

Tick = Callable[[float | None, str], None]
JUDGES = 64  # examples by which layers are chosen
WEIGHED = 256  # examples by which heads and neurons are: they take one pass forward and backward
RATE = 3e-4  # of learning, at its peak


@dataclass(frozen=True)
class Beginning:
    """A student before it learns. layers: the teacher's that its own stand for, where it has some of them only; freeze:
    blocks that stay the teacher's, where nothing is said."""

    module: Any
    model: Model
    layers: Sequence[int] = ()
    freeze: tuple[str, ...] = ()


class Student(ABC):
    """One kind of student of a teacher, `base`; word: what it was called by (`layers=half`, a folder)."""

    rate = RATE
    as_teacher = True  # it is given what the teacher is given
    fresh = False  # it begins with random weights, of a shape that model options say
    freezes: tuple[str, ...] = ()  # blocks that are the teacher's own, whatever it is made of

    def __init__(self, base: Pipeline, word: str):
        self.base, self.word = base, word
        self.images = base.task.modality == "image"

    @classmethod
    @abstractmethod
    def takes(cls, word: str) -> bool:
        """Whether a student of this kind is called so."""

    def usual(self, settings: dict[str, Any]) -> None:
        """Puts in what is not said: the teacher's own extent of inputs, and a rate."""
        if self.images:
            if "max_length" in settings:
                raise InputError("images have no tokens to be cut; an image size says how much of them a student sees")
            if self.as_teacher:
                settings.setdefault("image_size", PIXELS.of(self.base.plan))
        else:
            settings.setdefault("max_length", self.base.settled().plan["truncate"]["max_length"])
        settings.setdefault("learning_rate", self.rate)
        settings.setdefault("dropout", 0.0)  # what the teacher says of each row is regularisation enough
        if self.freezes and not self.images:
            settings.setdefault("freeze", self.freezes)

    def check(self, wanted: Settings, hidden: float) -> None:
        """InputError for what does not go together, before the teacher is asked anything."""
        if wanted.model_options and not self.fresh:
            raise InputError("model options are for a student that begins fresh: --student cnn")
        if not self.images and wanted.image_size:
            raise InputError(f"{self.base.model.name} takes no images; an image size is for models of images")
        if self.images and hidden:
            raise InputError(self.no_hidden())

    def no_hidden(self) -> str:
        return (
            f"hidden states can be learnt by a student that is made of the layers of a model without stages, not by "
            f"{self.word!r} of {self.base.model.name}"
        )

    @abstractmethod
    def begin(self, values: Sequence[Any], told: Outputs, wanted: Settings, tick: Tick) -> Beginning:
        """told: the teacher's outputs of the values."""

    def plan(self, model: Model, wanted: Settings) -> Plan:
        """The student's own preparation of inputs. PlanError for one that it cannot take."""
        if not self.images:
            return Plan({"truncate": {"max_length": min(wanted.max_length, model.max_length)}})
        from llm_moments.models.preprocessing import preprocessing

        size = wanted.image_size or preprocessing(model).size
        return Plan({"resize": {"size": size}}).check(self.base.task.knobs())


def for_images_only(student: Student) -> None:
    if not student.images:
        raise InputError(f"the student {student.word!r} is for images, and {student.base.model.name} is not")
