"""Who looks on while a model is trained: what is drawn, counted or stopped hangs here and not in the loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from llm_moments.base.errors import EngineError


class Observer:
    """Each method is called by a `Trainer` at its place in the loop, and does nothing unless it is overridden. What it sees it may not
    change: a training ends with the same weights whoever looks on."""

    def before_backward(self, trainer: Any) -> None:
        """Once for each batch."""

    def after_backward(self, trainer: Any) -> None:
        """Once for each batch."""

    def graded(self, trainer: Any, rows: int) -> None:
        """The gradients of an update are there, as yet not clipped. rows: examples that the loss is a mean over."""

    def moved(self, trainer: Any) -> None:
        """The weights have been updated."""

    def updated(self, trainer: Any) -> None:
        """An update is done and counted, or an evaluation is about to begin."""

    def judged(self, trainer: Any, better: bool) -> bool:
        """An epoch was judged by the evaluation examples; whether the training is to end here. better: than ever before."""
        return False


class Reporting(Observer):
    """Calls a function of the user's, within a step of the recording that is its own."""

    def __init__(self, call: Callable[[Any], Any]):
        self.call = call

    def updated(self, trainer: Any) -> None:
        with trainer.recorder.step("report"):
            self.call(trainer)


class EarlyStopping(Observer):
    """Keeps the weights of the best epoch, and ends a training that has not got better for so many epochs."""

    def __init__(self, patience: int):
        self.patience = patience

    def judged(self, trainer: Any, better: bool) -> bool:
        if better and trainer.folder is not None:
            trainer.save_best()
        return trainer.position.epoch - trainer.position.best_epoch >= self.patience


class BackwardTimes(Observer):
    """Times of the blocks in the backward pass, by marks on their outputs."""

    def __init__(self, marks: Any):
        self.marks = marks

    def before_backward(self, trainer: Any) -> None:
        self.marks.begin()

    def after_backward(self, trainer: Any) -> None:
        self.marks.end()


def watch_layers(trainer: Any, stack: ExitStack) -> dict[str, Any]:
    """Probes on the layers, forward and backward, until the stack closes; {} where none are found."""
    from llm_moments.record.backward import marked
    from llm_moments.record.probes import probed

    path = trainer.recorder.path

    def where() -> int:  # only the loop's own forward counts, not an evaluation's or a recomputation
        return 2 if len(path) == 2 and path[-1].name == "forward" else 0

    try:
        probes = stack.enter_context(probed(trainer.module, 1, trainer.device, where=where))
        marks = stack.enter_context(marked(trainer.module))
    except EngineError:
        return {}
    looking = BackwardTimes(marks)
    trainer.observers.append(looking)
    stack.callback(trainer.observers.remove, looking)
    return {"forward": probes, "backward": marks}
