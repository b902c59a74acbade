"""The trainer: forward, loss, backward, clip, update, each a step of the recording, and whoever looks on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from llm_moments.base.errors import ArtefactError, InputError
from llm_moments.core import NULL, Batch, Outputs, Pipeline, Recorder
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.train import checkpoints
from llm_moments.train.augment import Augment
from llm_moments.train.data_checks import LossMonitor, TrainingStopped
from llm_moments.train.feed import Feed
from llm_moments.train.losses import Loss
from llm_moments.train.observers import EarlyStopping, Observer
from llm_moments.train.optimisers import optimiser, schedule
from llm_moments.train.settings import Settings, fast_bf16, quick_attention

Tick = Callable[[float | None, str], None]
WINDOW = 50  # batches whose rows are grouped by length; the groups then come in any order
DIGEST = "sha256"  # beside the weights of the best epoch
TOLD = 10  # updates from one entry of the history to the next
WHOLE = 1 << 30


@dataclass
class Position:
    """Where the run is: plain data, so that a checkpoint can hold it."""

    epoch: int = 0
    batches: int = 0  # of this epoch, done
    updates: int = 0
    best: float | None = None
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Place(TypedDict):
    """What a checkpoint must hold of a run: every value of its position, and what its monitor has seen."""

    epoch: int
    batches: int
    updates: int
    best: float | None
    best_epoch: int
    history: list[dict[str, float]]
    losses: list[float]
    start: float


class Made(NamedTuple):
    """A batch: the numbers of its rows, what the module is given of them, their targets."""

    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    targets: Any


class Trainer:
    """Trains a module on what a feed gives; the batches are made by the pipeline's own steps.

    What happens depends on the seed and the position alone, so that a run that was ended goes on bit for bit as if it
    had not been.
    """

    def __init__(
        self, module: Any, pipe: Pipeline, feed: Feed, settings: Settings, loss: Loss, *,
        recorder: Recorder = NULL, device: str = "cpu", folder: Path | None = None, judged: Evaluation | None = None,
        reworded: Mapping[str, str] | None = None, observers: Sequence[Observer] = (),
    ):  # fmt: skip
        import torch

        self.torch, self.module, self.settings, self.loss = torch, module, settings, loss
        self.recorder, self.device, self.folder, self.judged = recorder, device, folder, judged
        plan = pipe.plan.with_(**batching(settings, pipe))
        self.pipe = pipe.with_(plan)
        self.steps = self.pipe.steps[:-1]
        if settings.epochs > 1:
            pipe.task.keep(self.steps, plan)
        self.window = WINDOW if "batch.order" in batching(settings, pipe) else 1  # images have no lengths to group by
        self.feed, self.observers = feed, list(observers)
        if settings.early_stopping:
            self.observers.append(EarlyStopping(settings.early_stopping))
        self.augment = Augment(settings.augment, pipe.task, settings.seed, len(pipe.model.labels), reworded)
        self.position = Position()
        self.monitor = LossMonitor(least=self.loss.least)
        self.optimizer = optimiser(
            settings.optimizer, module, settings.learning_rate, settings.weight_decay, settings.optimizer_options
        )
        self.bf16 = settings.precision == "bf16" or (settings.precision == "auto" and fast_bf16(device))
        self.total = self.updates_at_most()
        self.schedule = schedule(settings.schedule, self.optimizer, self.total, settings.warm_up)

    # -- data

    def updates_at_most(self) -> int:
        """Of the whole run; what the learning rate goes by. InputError where nobody knows."""
        most = self.settings.updates
        if self.feed.size is None:
            if not most:
                raise InputError("a stream has no known end: say after how many updates the training ends (--updates)")
            return most
        found = max(self.settings.epochs * -(-self.batches_of_an_epoch() // self.settings.accumulate), 1)
        return min(found, most) if most else found

    def batches_of_an_epoch(self) -> int:
        """Counted by making the first epoch's batches where they depend on lengths; else by rows."""
        if not self.settings.batch_tokens:
            window, rest = divmod(self.feed.size or 0, self.window * self.settings.batch_size)
            return window * self.window + -(-rest // self.settings.batch_size)
        return sum(1 for _ in self.batches(0, NULL))

    def batches(self, epoch: int, recorder: Recorder) -> Iterator[Made]:
        """In an order that seed and epoch decide; rows of like length come together."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        for window in self.feed.windows(rng, self.window * self.settings.batch_size):
            batch = Batch(len(window.rows), {"input": window.values})
            for at, step in enumerate(self.steps):
                if self.augment.rows and (step.name == self.augment.before if self.augment.before else at == 0):
                    with recorder.step("augment", items=batch.size):
                        batch = self.augment(batch, epoch, window.start)
                with recorder.step(step.name, items=batch.size):
                    batch = step(batch, recorder)
            made = batch["batches"]
            for at in rng.permutation(len(made)):
                places, arrays = made[at]
                yield Made(window.rows[places], arrays, None if window.targets is None else window.targets[places])

    # -- the run

    def run(self, tick: Tick) -> Position:
        """All epochs from the position on. TrainingStopped if the loss is no number or explodes."""
        self.module.train()
        begin = time.monotonic()
        for epoch in range(self.position.epoch, self.settings.epochs):
            if self.ended and not self.position.batches:
                break
            before = self.position.updates
            for group in self.groups(epoch):
                if self.ended:
                    break
                loss = self.update(group, epoch)
                done = self.position.updates / self.total
                tick(min(done, 1.0), f"epoch {epoch + 1} of {self.settings.epochs}, loss {loss:.4f}")
                self.tell_observers()
                if self.due():
                    self.checkpoint()
            if self.feed.size is None and self.position.updates == before and not self.ended:
                break  # a stream that has no more
            self.position.epoch, self.position.batches = epoch + 1, 0
            if self.judged is not None and self.evaluated(epoch, tick):
                self.position.epoch = self.settings.epochs
                break
            self.checkpoint()
        self.seconds = time.monotonic() - begin
        return self.position

    @property
    def ended(self) -> bool:
        """Whether as many updates are done as were asked for."""
        return bool(self.settings.updates) and self.position.updates >= self.settings.updates

    def tell_observers(self) -> None:
        for one in self.observers:
            one.updated(self)

    def groups(self, epoch: int) -> Iterator[list[Made]]:
        """The batches of one update each, without those that are done."""
        group: list[Made] = []
        for at, batch in enumerate(self.batches(epoch, self.recorder)):
            if at < self.position.batches:
                continue
            group.append(batch)
            if len(group) == self.settings.accumulate:
                yield group
                group = []
        if group:
            yield group

    def update(self, group: list[Made], epoch: int) -> float:
        """One update from the mean loss over the rows of a group of batches."""
        torch, recorder = self.torch, self.recorder
        torch.manual_seed(self.settings.seed * 1_000_003 + self.position.updates)  # of dropout
        rows, total, worst = sum(len(made.rows) for made in group), 0.0, group[0].rows
        shares = self.shares(group)
        self.optimizer.zero_grad(set_to_none=True)
        for part, made in enumerate(group):
            count = len(made.rows)
            arrays, targets = self.examples(made, part)
            inputs = self.inputs(arrays)
            with recorder.step("forward", items=count):
                outputs = self.forward(inputs)
            with recorder.step("loss", items=count):
                targets = None if targets is None else targets.to(self.device)
                loss = self.loss(outputs, targets, inputs, recorder) * shares[part]
                value = loss.item()
            total += value
            worst = worst if math.isfinite(value) else made.rows
            with recorder.step("backward", items=count):
                for one in self.observers:
                    one.before_backward(self)
                with quick_attention(self.device):  # activations are recomputed as they were computed
                    loss.backward()
                for one in self.observers:
                    one.after_backward(self)
        for one in self.observers:
            one.graded(self, rows)
        with recorder.step("clip"):
            most = self.settings.clip or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), most))
        wrong = self.monitor.see(total, norm)
        if wrong:
            raise TrainingStopped(self.stopped(wrong, epoch, worst))
        with recorder.step("update"):
            rate = self.schedule.get_last_lr()[0]
            self.optimizer.step()
            if self.position.updates < self.total:  # where batches depend on lengths, the last may come after it
                self.schedule.step()
        for one in self.observers:
            one.moved(self)
        self.position.updates += 1
        self.position.batches += len(group)
        if self.position.updates % TOLD == 1 or self.position.updates == self.total:
            self.tell(epoch=epoch + 1, loss=total, learning_rate=rate, norm=norm)
        return total

    def shares(self, group: list[Made]) -> list[float]:
        """How much each batch of an update counts: by its rows, or by what the loss is a mean over."""
        weights = [self.loss.weight(made.rows, made.arrays) for made in group]
        return [one / max(sum(weights), 1) for one in weights]

    def examples(self, made: Made, part: int) -> tuple[Any, Any]:
        """Arrays and targets of a batch, mixed if that is asked for. part: which batch of its update it is."""
        if not self.augment.mixes:
            return made.arrays, made.targets
        with self.recorder.step("augment", items=len(made.rows)):
            return self.augment.mix(made.arrays, made.targets, self.position.updates, part)

    def forward(self, inputs: dict[str, Any]) -> Any:
        kind = self.device if self.device in ("cuda", "mps") else "cpu"
        inputs = {name: value for name, value in inputs.items() if name not in self.loss.reads}
        with (
            quick_attention(self.device, self.settings.attention),
            self.torch.autocast(kind, dtype=self.torch.bfloat16, enabled=self.bf16),
        ):
            try:
                return self.module(**inputs, **self.loss.options)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InputError(
                    "one image alone has no spread to be normalised by: take --batch-size 2 or more"
                ) from error

    def inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        made = {name: self.torch.from_numpy(array) for name, array in arrays.items()}
        if self.device == "cpu":
            return made
        with self.recorder.step("transfer"):
            return {name: tensor.to(self.device, non_blocking=True) for name, tensor in made.items()}

    def tell(self, **figures: float) -> None:
        self.position.history.append({"update": self.position.updates, **figures})

    def stopped(self, wrong: str, epoch: int, rows: np.ndarray) -> str:
        kept = checkpoints.latest(self.folder) if self.folder else None
        saved = f"The last good checkpoint is kept: {kept}." if kept else "Nothing was saved yet."
        shown = ", ".join(str(int(row) + 1) for row in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        return (
            f"{wrong} in epoch {epoch + 1}, update {self.position.updates + 1}, at the batch of rows {shown}{more}. {saved} "
            "Try a smaller --learning-rate, or look at those rows."
        )

    # -- evaluation and checkpoints

    def evaluated(self, epoch: int, tick: Tick) -> bool:
        """Judges an epoch; whether anyone who looks on wants the training to end here."""
        assert self.judged is not None
        tick(None, f"evaluating after epoch {epoch + 1}")
        self.tell_observers()
        with self.recorder.step("evaluate", items=len(self.judged)):
            score = self.score(self.judged)
        self.tell(epoch=epoch + 1, score=score)
        better = self.position.best is None or score > self.position.best
        if better:
            self.position.best, self.position.best_epoch = score, epoch + 1
        return any([one.judged(self, better) for one in self.observers])

    def score(self, part: Evaluation) -> float:
        """Mean score of the module as it is, in float32, on the plan that it will run on."""
        outputs = self.outputs(part.values)
        return float(part.scores(outputs, outputs).mean())

    def outputs(self, values: Sequence[Any]) -> Outputs:
        pipe = Pipeline(self.pipe.task, self.pipe.plan, engines=_Live(self.module, self.device))
        self.module.eval()
        try:
            return pipe.outputs(values)
        finally:
            self.module.train()

    def due(self) -> bool:
        every = self.settings.checkpoint_every
        return bool(every) and self.position.updates % every == 0

    def checkpoint(self) -> None:
        if self.folder is None:
            return
        with self.recorder.step("checkpoint"):
            position = {**vars(self.position), "losses": list(self.monitor.last), "start": self.monitor.start}
            checkpoints.save(self.folder, self.position.updates, self.module, self.optimizer, self.schedule, position)

    def resume(self) -> bool:
        """Goes on from the last whole checkpoint, if there is one."""
        path = checkpoints.latest(self.folder, Place) if self.folder else None
        if path is None:
            return False
        position = checkpoints.restore(path, self.module, self.optimizer, self.schedule, Place)
        self.monitor = LossMonitor(position.pop("losses"), position.pop("start"), self.monitor.least)
        self.position = Position(**position)
        return True

    def save_best(self) -> None:
        from safetensors.torch import save_model

        from llm_moments.base.atomic import sibling

        assert self.folder is not None
        with sibling(self.folder / "best") as made:
            save_model(self.module, str(made / checkpoints.WEIGHTS))
            (made / DIGEST).write_text(checkpoints.digest(made / checkpoints.WEIGHTS), encoding="utf-8")

    def take_best(self) -> None:
        """Puts the weights of the best epoch back, where early stopping kept them; ArtefactError for damaged ones."""
        from safetensors.torch import load_model

        file = self.folder / "best" / checkpoints.WEIGHTS if self.folder else None
        if self.settings.early_stopping and file is not None and file.exists():
            told = file.with_name(DIGEST)
            if told.is_file() and not checkpoints.intact(file, told.read_text(encoding="utf-8", errors="replace")):
                raise ArtefactError(f"{file}, the weights of the best epoch, is damaged. Begin anew with --overwrite.")
            load_model(self.module, file)


def batching(settings: Settings, pipe: Pipeline) -> dict[str, Any]:
    rows = WHOLE if settings.batch_tokens else settings.batch_size
    order = "length" if settings.order == "length" else "input"  # rows come shuffled
    wanted = {"order": order, "size": rows, "tokens": settings.batch_tokens, "reuse": False}
    known = {knob.name for knob in pipe.task.knobs()["batch"]}
    return {f"batch.{name}": value for name, value in wanted.items() if name in known}


class _Live:
    """The engines of a pipeline whose module is the one that is being trained."""

    def __init__(self, module: Any, device: str):
        import torch

        from llm_moments.engines.torch_eager import TorchEager

        threads = torch.get_num_threads()  # as many as the training has: else its next update would add up otherwise
        self.engine = TorchEager(module, {"threads": threads}, device)

    def get(self, settings: Any) -> Any:
        return self.engine

    def lease(self, settings: Any, recorder: Recorder = NULL) -> Any:
        return nullcontext(self.engine)

    def model_for(self, settings: Any) -> Any:
        return None
