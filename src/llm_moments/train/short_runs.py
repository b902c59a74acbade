"""Short real trainings with one change each, kept as plain data: what `tune --weigh` and `tune` measure by."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic
from llm_moments.base.errors import DataError, EngineError, OutputExists
from llm_moments.core import Example, Outputs, Pipeline
from llm_moments.data.readers import Data
from llm_moments.engines.base import Engines
from llm_moments.evaluate.evaluation import Evaluation, evaluation, judging
from llm_moments.train import back_translation, linear
from llm_moments.train.augment import check as check_augment
from llm_moments.train.feed import Rows, least_batch
from llm_moments.train.gradient_stats import BlockGradients, GradientStats
from llm_moments.train.lesson import lesson_of, targets_of
from llm_moments.train.place import asked_for, digest_of, plain
from llm_moments.train.prepare import placed, prepared
from llm_moments.train.problems.classification import loss_of
from llm_moments.train.settings import Settings, settings_of
from llm_moments.train.start import Start, head_of, start
from llm_moments.train.trainer import Trainer

Tick = Callable[[float | None, str], None]
LEAST_ROWS = 32


@dataclass(frozen=True)
class Run:
    """One short training: what was changed, and what came of it.

    seconds: of the updates alone, with the making of their batches; update_s: their median. scores and losses: of each
    evaluation example, higher and lower are better.
    """

    changes: Mapping[str, Any]
    seed: int
    rows: int
    updates: int
    seconds: float
    update_s: float
    scores: tuple[float, ...]
    losses: tuple[float, ...]
    blocks: tuple[BlockGradients, ...] = ()

    @property
    def score(self) -> float:
        return float(np.mean(self.scores))

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        return schema.convert(data, cls)


@dataclass
class ShortRuns:
    """A model, examples to learn from and to judge by, and settings; `run` trains with some of them changed.

    folder: where runs are kept, so that the same call again takes them from there. sources: where the examples to learn
    from and to judge by come from, which says whether bad rows are skipped, and counts them.
    """

    model: Path
    examples: Sequence[Example]
    judged: Sequence[Example]
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    device: str = "auto"
    name: str = "examples"
    sources: tuple[Any, Any] = (None, None)

    def __post_init__(self) -> None:
        from llm_moments.engines.torch_eager import best_device

        if linear.is_linear(self.model):
            self.settings = linear.settings_for(self.settings)
        self.base = settings_of(self.settings)
        self.device = best_device(self.device)
        old = None if self.base.new_head else head_of(self.model)
        lesson = lesson_of(self.examples, self.name, old, self.sources[0])
        self.examples, self.labels, self.problem = lesson.examples, lesson.labels, lesson.problem
        references = [e.reference for e in self.examples]
        begun = self.begun(replace(self.base, seed=0))
        self.task, self.described = begun.task, begun.model
        check_augment(self.base.augment, self.base.balance, self.task, self.problem)
        self.back = back_translation.begun(self.base, self.folder)
        self.pipe = Pipeline(self.task, begun.plan, engines=Engines(begun.model))
        self.known = self.task.references(references)
        self.values = [self.task.normalise(e.input) for e in self.examples]
        self.part = self.judged_by(list(self.judged))
        self.question = {
            "model": self.described.digest, "data": digest_of(self.examples, self.judged),
            "settings": asked_for(self.base),
        }  # fmt: skip
        if self.back is not None:
            self.question["translators"] = self.back.key
        self.block_names = list(GradientStats(begun.module).sums) if _has_layers(begun.module) else []

    def judged_by(self, examples: list[Example]) -> Evaluation:
        data = self.sources[1]
        part = evaluation(
            self.pipe,
            judging(self.pipe, examples, data, data.path if isinstance(data, Data) else self.name, varied=False),
        )
        if not part.labelled:
            raise DataError("the evaluation examples have no labels, so that nothing can be judged by them")
        return part

    def begun(self, wanted: Settings) -> Start:
        return start(self.model, [e.input for e in self.examples], self.labels, self.problem, wanted)

    def trainer(self, changes: Mapping[str, Any], seed: int, rows: Sequence[int], tick: Tick | None = None) -> Trainer:
        """Ready to go. InputError for a change that no settings have or that this model cannot have."""
        wanted = settings_of({**self.settings, **changes, "seed": seed, "checkpoint_every": 0, "early_stopping": 0})
        check_augment(wanted.augment, wanted.balance, self.task, self.problem)
        begun = self.begun(wanted)
        module = prepared(begun.module, wanted)
        pipe = Pipeline(begun.task, begun.plan, engines=Engines(begun.model))
        known = [self.known[r] for r in rows]
        loss = loss_of(wanted, self.problem, known, begun.model)
        values = [self.values[r] for r in rows]
        words = back_translation.reworded(self.back, wanted, values, tick=tick)
        feed = Rows(values, targets_of(known, begun.model), balance=wanted.balance, batch=least_batch(module, wanted))
        trainer = Trainer(module, pipe, feed, wanted, loss, device=self.device, reworded=words)
        placed(trainer.module, trainer.device)
        return trainer

    def rows(self, seed: int, count: int) -> list[int]:
        """The same rows for every change under one seed; fewer are some of the more."""
        order = np.random.default_rng([seed, 77]).permutation(len(self.values))
        return [int(r) for r in order[:count]]

    def run(
        self, changes: Mapping[str, Any], seed: int, rows: int, part: Evaluation | None = None, *, watch: bool = False,
        tick: Tick = lambda done, message: None,
    ) -> Run:  # fmt: skip
        """Trains on so many rows and judges; taken from the folder if it has been run before."""
        judged = self.part if part is None else part
        file = self._file(changes, seed, rows, judged, watch)
        if file is not None and file.is_file():
            try:
                return schema.read(file, "a run that was made", Run.from_dict)
            except DataError as error:
                tick(None, f"{error} It is made again.")
        made = self._made(changes, seed, rows, judged, watch, tick)
        if file is not None:
            write_atomic(file, json.dumps(made.to_dict()))
        return made

    def _made(
        self, changes: Mapping[str, Any], seed: int, rows: int, judged: Evaluation, watch: bool, tick: Tick
    ) -> Run:
        trainer = self.trainer(changes, seed, self.rows(seed, rows), tick)
        gradients = GradientStats(trainer.module) if watch and self.block_names else None
        if gradients is not None:
            trainer.observers.append(gradients)
        marks = [time.perf_counter()]

        def told(done: float | None, message: str) -> None:
            marks.append(time.perf_counter())
            tick(None, message)

        trainer.run(told)
        seconds = marks[-1] - marks[0]
        outputs = trainer.outputs(judged.values)
        blocks = tuple(gradients.seen()) if gradients is not None else ()
        return Run(
            dict(changes), seed, rows, trainer.position.updates, seconds, float(np.median(np.diff(marks))),
            tuple(float(s) for s in judged.scores(outputs, outputs)),
            tuple(float(x) for x in example_losses(outputs, judged.references or (), self.problem)), blocks,
        )  # fmt: skip

    def _file(self, changes: Mapping[str, Any], seed: int, rows: int, judged: Evaluation, watch: bool) -> Path | None:
        if self.folder is None:
            return None
        values = hashlib.sha256(
            json.dumps(list(judged.values), default=str).encode("utf-8", "surrogatepass")
        ).hexdigest()
        asked = json.dumps([self.question, plain(dict(changes)), seed, rows, values, watch], sort_keys=True)
        return self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:20]}.json"

    def kept(
        self, name: str, asked: Mapping[str, Any], make: Callable[[], dict[str, int]], sizes: Sequence[str]
    ) -> dict[str, int]:
        """The sizes decided for this question before, or now: timings differ from call to call, decisions must not."""
        if self.folder is None:
            return make()
        digest = hashlib.sha256(json.dumps([self.question, plain(dict(asked))], sort_keys=True).encode()).hexdigest()
        file = self.folder / f"{name}-{digest[:20]}.json"
        if not file.is_file():
            write_atomic(file, json.dumps(make()))
        return schema.read(file, "what was decided for these runs", lambda data: _sizes(data, sizes))

    def pace(self, updates: int = 4, **changes: Any) -> tuple[float, float, float]:
        """Seconds of one run's beginning, of an example to train on and of one to judge by; its updates are thrown away."""
        begin = time.perf_counter()
        wanted = replace(self.base, **changes)
        count = min(len(self.values), wanted.batch_size * wanted.accumulate * updates)
        trainer = self.trainer({**changes, "epochs": 1}, 0, self.rows(0, count))
        trainer.module.train()
        groups = list(trainer.groups(0))
        opening = time.perf_counter() - begin
        trainer.update(groups[0], 0)  # what is done for the first time takes longer
        start = time.perf_counter()
        for group in groups:
            trainer.update(group, 0)
        learning = (time.perf_counter() - start) / count
        some = self.part.values[:48]
        start = time.perf_counter()
        trainer.outputs(some)
        return opening, learning, (time.perf_counter() - start) / max(len(some), 1)

    def translating(self) -> float:
        """Seconds that an example takes to another language and back; 0 where no models for that are given."""
        if self.back is None:
            return 0.0
        some, start = self.values[:16], time.perf_counter()
        self.back.of(some)
        return (time.perf_counter() - start) / max(len(some), 1)


def _sizes(data: Any, names: Sequence[str]) -> dict[str, int]:
    found = schema.convert(data, dict[str, int])
    if wrong := [name for name in names if found.get(name, 0) < 1]:
        raise DataError(f"it has no {wrong[0]}")
    return found


RUNS = "runs"


def room_for(out: Path, overwrite: bool = False) -> Path:
    """The folder of the runs inside `out`; OutputExists where anything else is in the place."""
    if overwrite:
        shutil.rmtree(out / RUNS, ignore_errors=True)
    strange = out.is_dir() and any(out.iterdir()) and not (out / RUNS).is_dir()
    if (out.exists() and not out.is_dir()) or (strange and not overwrite):
        raise OutputExists(out)
    (out / RUNS).mkdir(parents=True, exist_ok=True)
    return out / RUNS


def example_losses(outputs: Outputs, references: Sequence[Any], problem: str) -> np.ndarray:
    """float64 [n]: cross-entropy of single labels, mean binary cross-entropy of several, squared error of numbers.

    outputs: with `logits` [n, classes]. The loss that is compared is always this one, whatever is trained by.
    """
    logits = outputs["logits"].astype(np.float64)
    if problem == "regression":
        return (logits[:, 0] - np.asarray(references, np.float64)) ** 2
    if problem == "multi_label_classification":
        wanted = np.zeros(logits.shape)
        for row, chosen in enumerate(references):
            wanted[row, list(chosen)] = 1.0
        return np.asarray((np.logaddexp(0, logits) - logits * wanted).mean(1))
    top = logits.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return np.asarray(total - logits[np.arange(len(logits)), np.asarray(references, np.int64)])


def _has_layers(module: Any) -> bool:
    from llm_moments.models.blocks import layer_list

    try:
        layer_list(module)
    except EngineError:
        return False
    return True
