"""Healing within a search: a model of half the layers, taught by a plan that was found to answer well."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_moments.core import Pipeline
from llm_moments.errors import EngineError, InputError, ModelError
from llm_moments.improve.study import Study
from llm_moments.model import NOTES, open_model
from llm_moments.train.distill import distill
from llm_moments.train.fit import run_folder
from llm_moments.train.weather import plain

NAME = "healed"  # of the weights that it makes
LEARNING = 0.85  # of its time; the rest is for the teacher's answers and the choice of layers
TELLING = 0.1  # of the original's time for the same examples: what a fast teacher takes for its answers


def without(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """What is not also among the others, but for case, spaces and punctuation: nothing is judged by what taught."""
    known = {plain(value) for value in others}
    return [value for value in values if plain(value) not in known]


class Healer:
    """Called with a teacher, a length and seconds, it makes the weights and makes them known to the pipeline.

    folder: where they stay with the study; without one they are gone with the process.
    """

    def __init__(
        self, pipe: Pipeline, study: Study, taught: Sequence[Any], folder: Path | None,
        tick: Callable[[float | None, str], None],
    ):  # fmt: skip
        self.pipe, self.study, self.taught, self.tick = pipe, study, list(taught), tick
        self._scratch = None if folder else tempfile.TemporaryDirectory(prefix="llm-moments-")
        self.folder = (folder or Path(self._scratch.name if self._scratch else "")) / "weights" / NAME
        self._known()

    def __call__(self, teacher: Pipeline, length: int, seconds: float) -> str:
        """The name of the weights, or nothing where none can be made of this model."""
        begin = time.monotonic()
        telling = TELLING * len(self.taught) * self.study.notes["stock_cost"]["sorted"]
        try:
            if not self._known():
                shutil.rmtree(run_folder(self.folder), ignore_errors=True)
                distill(
                    teacher, self.taught, self.folder, student="layers=half", max_length=length,
                    seconds=max(LEARNING * (seconds - telling), 5.0), overwrite=self.folder.exists(),
                    progress=lambda done, said: self.tick(None, f"healing: {said}"),
                )  # fmt: skip
        except (EngineError, InputError, ModelError) as error:
            self.study.note("heal", f"not healed: {error}")
            return ""
        self.study.note("heal", {"seconds": round(time.monotonic() - begin, 1), "examples": len(self.taught)})
        return NAME if self._known() else ""

    def _known(self) -> bool:
        """Whether the weights are there; the pipeline's engines know them from then on."""
        whole = (self.folder / NOTES).exists()
        if whole:
            self.pipe.engines.variants[NAME] = open_model(self.folder)
        return whole
