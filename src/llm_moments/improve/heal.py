"""Healing within a search: models of fewer layers, heads and neurons, or made for int8, taught by a plan that was found to answer well."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_moments.base.errors import EngineError, InputError, ModelError
from llm_moments.core import Pipeline
from llm_moments.improve.heal_images import image_students
from llm_moments.improve.study import Study
from llm_moments.models.model import NOTES
from llm_moments.models.open import open_model
from llm_moments.train.data_checks import TrainingStopped, plain
from llm_moments.train.distill import distill
from llm_moments.train.place import run_folder
from llm_moments.train.students.cnn import RATE as FRESH_RATE

STUDENTS = {  # as `distill` takes them
    "one": "layers=1", "third": "layers=third", "half": "layers=half", "narrow": "heads=half neurons=half",
    "quarter": "layers=half heads=half neurons=half", "int8": "as-is",
}  # fmt: skip
QUANTIZE = {"int8": "int8"}
# Of learning, at its peak; students made of the teacher's own layers bear more than it did.
RATES = {"one": 1e-3, "int8": 1e-4}
RATE = 5e-4
LEARNING = 0.85  # of its time; the rest is for the teacher's answers and the choice of layers
TELLING = 0.1  # of the baseline's time for the same examples: what a fast teacher takes for its answers


def students(pipe: Pipeline) -> tuple[dict[str, str], dict[str, float]]:
    """What each student is called, as `distill` takes it, smallest first; and rates of learning that are its own."""
    if pipe.task.modality == "image":
        return {**image_students(pipe.model), "int8": STUDENTS["int8"]}, {"cnn": FRESH_RATE, "int8": RATES["int8"]}
    return STUDENTS, RATES


def extent(teacher: Pipeline, length: int) -> dict[str, Any]:
    """How much of an input it is taught by, as the settings of a training call it."""
    return {"max_length" if teacher.task.ladder.unit == "tokens" else "image_size": length}


def without(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """What is not also among the others, but for case, spaces and punctuation: nothing is judged by what taught."""
    known = {plain(value) for value in others}
    return [value for value in values if plain(value) not in known]


class Healer:
    """Called with a teacher, a length, seconds and the name of a student, it makes the weights and makes them known to
    the pipeline, by the name `healed-` and that name.

    folder: where they stay with the study; without one they are gone with the process.
    """

    def __init__(
        self, pipe: Pipeline, study: Study, taught: Sequence[Any], folder: Path | None,
        tick: Callable[[float | None, str], None],
    ):  # fmt: skip
        self.pipe, self.study, self.taught, self.tick = pipe, study, list(taught), tick
        self.words, self.rates = students(pipe)
        self._scratch = None if folder else tempfile.TemporaryDirectory(prefix="llm-moments-")
        self.folder = (folder or Path(self._scratch.name if self._scratch else "")) / "weights"
        for student in self.words:
            self._known(student)

    def __call__(self, teacher: Pipeline, length: int, seconds: float, student: str) -> str:
        """The name of the weights, or nothing where none can be made of this model."""
        begin = time.monotonic()
        made = self.folder / name_of(student)
        telling = TELLING * len(self.taught) * self.study.notes["stock_cost"]["sorted"]
        try:
            if not self._known(student):
                shutil.rmtree(run_folder(made), ignore_errors=True)
                distill(
                    teacher, self.taught, made, student=self.words[student], quantize=QUANTIZE.get(student),
                    learning_rate=self.rates.get(student, RATE), **extent(teacher, length),
                    seconds=max(LEARNING * (seconds - telling), 5.0), overwrite=made.exists(),
                    progress=lambda done, said: self.tick(None, f"healing, {self.words[student]}: {said}"),
                )  # fmt: skip
        except (EngineError, InputError, ModelError, TrainingStopped) as error:
            if not isinstance(self.study.notes.get("heal"), dict):
                self.study.note("heal", f"not healed: {error}")
            return ""
        self._told(student, time.monotonic() - begin)
        return name_of(student) if self._known(student) else ""

    def _told(self, student: str, seconds: float) -> None:
        """Notes the time of each student; one that was there already keeps its own."""
        found: Any = self.study.notes.get("heal")
        known: dict[str, Any] = (
            found if isinstance(found, dict) else {"seconds": 0.0, "examples": len(self.taught), "students": {}}
        )
        if student not in known["students"]:
            students = {**known["students"], student: round(seconds, 1)}
            self.study.note("heal", {**known, "seconds": round(sum(students.values()), 1), "students": students})

    def _known(self, student: str) -> bool:
        """Whether the weights are there; the pipeline's engines know them from then on."""
        name = name_of(student)
        whole = (self.folder / name / NOTES).exists()
        if whole:
            self.pipe.engines.variants[name] = open_model(self.folder / name)
        return whole


def name_of(student: str) -> str:
    return f"healed-{student}"
