"""Results as TensorBoard scalars; every trial is also a run of its own for the HParams page."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_moments.base.errors import EngineMissing
from llm_moments.base.visible import visible
from llm_moments.record.session import StepCost
from llm_moments.render.text import value
from llm_moments.train.observers import Observer


def write(
    folder: str | Path, *, session: Any = None, worths: Any = None, study: Any = None, certificate: Any = None
) -> None:
    """Steps' milliseconds and shares, changes' savings and drops, trials in their order, the claim."""
    with Scalars(Path(folder)) as writer:
        if session is not None:
            for path, step in _paths(session.root):
                share = step.wall_s / session.root.wall_s if session.root.wall_s else None
                writer.scalars("record", 0, {f"ms/{path}": step.wall_s * 1000, f"share/{path}": share})
            writer.scalars("record", 0, {name: fig.value for name, fig in session.figures.items()})
        for worth in worths or ():
            writer.scalars(f"weigh/{worth.name}", 0, _some(worth, "saving", "drop", "divergence"))
        for at, trial in enumerate(study or ()):
            writer.scalars("improve", at, _some(trial, "gain", "score", "drop"))
        if certificate is not None:
            names = ("speedup", "speedup_low", "drop", "drop_high", "score", "baseline_score")
            writer.scalars("certificate", 0, _some(certificate, *names))
    for at, trial in enumerate(study or ()):
        if trial.status == "ok":
            _trial(Path(folder) / "trials" / f"{at:04d}", trial)


def _trial(folder: Path, trial: Any) -> None:
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    knobs = {visible(f"{step}.{knob}"): _knob(v) for step, inner in trial.plan.items() for knob, v in inner.items()}
    with Scalars(folder) as writer:
        writer.write(hparams_pb({**knobs, "stage": visible(trial.stage)}, trial_id=visible(trial.key)))
        writer.scalars("trial", 0, _some(trial, "gain", "score", "drop"))


def _some(thing: Any, *names: str) -> dict[str, float | None]:
    return {name: getattr(thing, name) for name in names}


def _knob(setting: Any) -> Any:
    return setting if isinstance(setting, bool | int | float) else visible(value(setting))


def _paths(step: StepCost, above: str = "") -> Iterator[tuple[str, StepCost]]:
    """Every step with its way from the root: layers of different parents have the same names."""
    taken: dict[str, int] = {}
    yield above or step.name, step
    for child in step.children:
        again = taken[child.name] = taken.get(child.name, 0) + 1
        name = child.name if again == 1 else f"{child.name} {again}"
        yield from _paths(child, f"{above}/{name}" if above else name)


class Scalars:
    """TensorBoard's own event files; neither torch nor TensorFlow is needed for them. Its record writer is used rather
    than its event writer, whose thread keeps an error of the disk to itself and prints a traceback."""

    @staticmethod
    def needed() -> tuple[Any, Any, Any]:
        """The parts of the package that are used; EngineMissing without it."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise EngineMissing("tensorboard", "tensorboard") from error
        return event_pb2, summary_pb2, RecordWriter

    def __init__(self, folder: Path) -> None:
        event_pb2, summary_pb2, RecordWriter = self.needed()
        self.event, self.summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{time.monotonic_ns()}"
        self.stream = (folder / name).open("wb")
        self.file = RecordWriter(self.stream)

    def __enter__(self) -> Scalars:
        try:
            self._add(self.event(wall_time=time.time(), file_version="brain.Event:2"))
        except OSError:
            self.stream.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def _add(self, event: Any) -> None:
        self.file.write(event.SerializeToString())

    def write(self, summary: Any, step: int = 0) -> None:
        self._add(self.event(wall_time=time.time(), step=step, summary=summary))

    def scalars(self, group: str, step: int, values: Mapping[str, float | None]) -> None:
        """What was not measured is left out: TensorBoard has no way to show it but as a number."""
        known = {name: v for name, v in values.items() if v is not None}
        said = [self.summary.Value(tag=visible(f"{group}/{name}"), simple_value=v) for name, v in known.items()]
        if said:
            self.write(self.summary(value=said), step)


class Live(Observer):
    """A training as it goes on: scalars by update, hyper-parameters at its end, histograms on request."""

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], histograms: bool = False):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EngineMissing("tensorboard", "tensorboard") from error
        self.writer = SummaryWriter(str(folder))
        self.settings = {name: _knob(v) for name, v in settings.items() if v is not None}
        self.histograms, self.told, self.epoch = histograms, 0, 0
        self.trainer: Any = None
        self.lost = False

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self.trainer is not None:
            self._kept(lambda: self._update(self.trainer))  # the last epoch's score comes after the last update
        self._kept(self._close)

    def _close(self) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        if not self.lost:
            self.writer._get_file_writer().add_summary(hparams_pb(self.settings))
            self.writer.close()

    def updated(self, trainer: Any) -> None:
        """Writes what is new in the trainer's history. A disk that is full ends the view, not the training."""
        with trainer.recorder.step("report"):
            self._kept(lambda: self._update(trainer))

    def _kept(self, write: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            write()
        except OSError as error:
            self.lost = True
            print(f"warning: {self.writer.log_dir} gets no more scalars: {error}", file=sys.stderr)

    def _update(self, trainer: Any) -> None:
        self.trainer, history = trainer, trainer.position.history
        for entry in history[self.told :]:
            for name in ("loss", "score", "learning_rate", "norm"):
                if name in entry:
                    self.writer.add_scalar(f"train/{name}", entry[name], int(entry["update"]))
        self.told = len(history)
        if self.histograms and trainer.position.epoch != self.epoch:
            self.epoch = trainer.position.epoch
            for name, parameter in trainer.module.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), trainer.position.updates)
                if parameter.grad is not None:
                    self.writer.add_histogram(
                        f"gradients/{name}", parameter.grad.float().cpu(), trainer.position.updates
                    )
