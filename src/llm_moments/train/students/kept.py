"""The teacher with some of its layers, or of each layer's heads and neurons: `layers=half heads=third`, or all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_moments.base.errors import InputError
from llm_moments.core import Outputs
from llm_moments.train.settings import Settings
from llm_moments.train.students.contract import JUDGES, WEIGHED, Beginning, Student, Tick
from llm_moments.train.students.prune import narrowed
from llm_moments.train.students.spec import parts_of, share_of
from llm_moments.train.students.stages import chosen_layers, fewer, stages_of


class Kept(Student):
    freezes = ("embeddings",)

    @classmethod
    def takes(cls, word: str) -> bool:
        return parts_of(word) is not None

    def __init__(self, base: Any, word: str):
        super().__init__(base, word)
        self.parts = parts_of(word)

    def check(self, wanted: Settings, hidden: float) -> None:
        super().check(wanted, 0.0)
        if self.images and hidden and not self._in_one_row():
            raise InputError(self.no_hidden())
        if self.images and wanted.image_size:
            self.plan(self.base.model, wanted)

    def _in_one_row(self) -> bool:
        """Only of ViT and its kin is what passes between two layers of one shape from the first to the last."""
        from llm_moments.engines.torch_eager import load_module

        return self.word.startswith("layers") and len(stages_of(load_module(self.base.model))) == 1

    def begin(self, values: Sequence[Any], told: Outputs, wanted: Settings, tick: Tick) -> Beginning:
        """Everything is chosen at the student's own extent: that is where it is to serve, and it takes less time."""
        from llm_moments.engines.torch_eager import load_module
        from llm_moments.models.blocks import blocks, layer_count

        assert self.parts is not None
        task, parts = self.base.task, self.parts
        extent = wanted.image_size if self.images else min(wanted.max_length, task.ladder.of(self.base.settled().plan))
        short = self.base.with_(**{task.ladder.knob: extent})
        if parts.layers is None:
            module, model = load_module(self.base.model), self.base.model
            kept = [] if self.images else list(range(layer_count(module)))
        else:
            kept = parts.layers if isinstance(parts.layers, list) else self._chosen(short, values, told, tick)
            module, model = fewer(self.base.model, kept)
        if parts.heads or parts.neurons:
            tick(None, "choosing heads and neurons")
            judge = None if parts.layers is None else load_module(self.base.model)
            batches = short.arrays(values[:WEIGHED])
            module, model = narrowed(
                module, model, batches, heads=parts.heads, neurons=parts.neurons, judge=judge, layers=kept
            )
        known = {block.name for block in blocks(module)} if self.images and kept else set()
        return Beginning(module, model, kept, tuple(name for name in self.freezes if name in known))

    def _chosen(self, short: Any, values: Sequence[Any], told: Outputs, tick: Tick) -> list[int]:
        from llm_moments.engines.torch_eager import load_module

        assert self.parts is not None
        total = sum(len(stage.layers) for stage in stages_of(load_module(self.base.model)))
        return chosen_layers(short, values[:JUDGES], told[:JUDGES], share_of(total, str(self.parts.layers)), tick)
