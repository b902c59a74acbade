"""The nouns: Example, Batch, Step, Knob, Plan, Pipeline. No engine is imported here."""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any, Protocol

import numpy as np

from llm_moments.errors import InputError, PlanError, RowsFailed, Unfinished

MOST_STAGES = 3  # of a cascade
WINDOW = 2048  # examples that are tokenized, sorted and batched together; bounds the memory of `run`

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Pace:
    """How many examples are a handful: a classifier answers hundreds while a language model answers one.

    window: rows that `run` holds at a time. block: fewest rows that are timed at a time; warm: rows on which an
    engine is opened. few, most: fewest and most rows of the splits that `improve` searches and certifies on.
    """

    window: int = WINDOW
    block: int = 32
    warm: int = 8
    few: Mapping[str, int] = field(default_factory=lambda: {"search": 150, "certify": 400})
    most: Mapping[str, int] = field(default_factory=lambda: {"calibrate": 200, "search": 800, "certify": 4000})


@dataclass(frozen=True, slots=True)
class Example:
    """One input (a text, or a pair of texts), its reference answer if there is one, an id, and the group (a user, a
    document, a speaker) whose rows are not independent of one another."""

    input: Any
    reference: Any = None
    id: Any = None
    group: Any = None


@dataclass
class Batch:
    """Named fields for `size` examples; every field but the `shared` ones has one entry an example."""

    size: int
    fields: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def with_(self, **fields: Any) -> Batch:
        return Batch(self.size, {**self.fields, **fields})

    def take(self, rows: np.ndarray) -> Batch:
        """The inputs of some rows, as a batch of its own: whatever steps have added is left behind."""
        inputs = self.fields["input"]
        return Batch(len(rows), {"input": [inputs[i] for i in rows]})


class Recorder(Protocol):
    """What a step tells about itself; `NullRecorder` costs nothing."""

    active: bool

    def step(self, name: str, items: int = 0) -> Any: ...

    def count(self, **counts: float) -> None: ...

    def spent(self, name: str, seconds: float, calls: int = 1, **counts: float) -> None: ...


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


class NullRecorder:
    active = False
    _nothing = _Nothing()

    def step(self, name: str, items: int = 0) -> _Nothing:
        return self._nothing

    def count(self, **counts: float) -> None:
        pass

    def spent(self, name: str, seconds: float, calls: int = 1, **counts: float) -> None:
        pass


NULL = NullRecorder()


@dataclass(frozen=True)
class Knob:
    """A tunable parameter of a step with its allowed values.

    `values` are what a search tries; `valid` is the test a value from a file or the command line must
    pass. A lossless knob gives the same answers within the task's tolerance, whatever its value.
    `idle`: choices of the same step beside which this one says nothing.
    """

    name: str
    default: Any
    values: tuple[Any, ...] = ()
    lossless: bool = False
    valid: Callable[[Any], bool] = lambda value: True
    means: str = ""
    idle: Mapping[str, Any] = field(default_factory=dict)


def one_of(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: value in allowed


def whole(low: int, high: int = 2**31) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


class Step(Protocol):
    """One moment of the pipeline: `Batch -> Batch`, made from its settings."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    knobs: tuple[Knob, ...]

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch: ...


# ---------------------------------------------------------------------------------------------- plan


class Plan(Mapping[str, Mapping[str, Any]]):
    """Every choice of every knob: `{step: {knob: value}}`, immutable, plain data, hashable by `key`."""

    def __init__(self, choices: Mapping[str, Mapping[str, Any]] | None = None):
        self._choices = {step: dict(knobs) for step, knobs in sorted((choices or {}).items()) if knobs}

    def __getitem__(self, step: str) -> Mapping[str, Any]:
        return self._choices[step]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"Plan({self._choices})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """Hash of the choices, the same in every process."""
        return hashlib.sha256(json.dumps(self._choices, sort_keys=True).encode()).hexdigest()[:16]

    def settings(self, step: str) -> dict[str, Any]:
        return dict(self._choices.get(step, {}))

    def with_(self, **changes: Any) -> Plan:
        """`plan.with_(**{"truncate.max_length": 64})`; the value None takes a choice back."""
        new = self.to_dict()
        for name, value in changes.items():
            step, _, knob = name.partition(".")
            if not knob:
                raise PlanError(f"a change is named 'step.knob', not {name!r}")
            new.setdefault(step, {})
            if value is None:
                new[step].pop(knob, None)
            else:
                new[step][knob] = value
        return Plan(new)

    def without(self, step: str) -> Plan:
        return Plan({name: knobs for name, knobs in self._choices.items() if name != step})

    def changes(self, other: Plan) -> dict[str, Any]:
        """What must be said to `with_` to come from `self` to `other`."""
        names = {f"{s}.{k}" for p in (self, other) for s in p for k in p[s]}
        both = {n: (self.get_choice(n), other.get_choice(n)) for n in sorted(names)}
        return {n: new for n, (old, new) in both.items() if old != new}

    def get_choice(self, name: str) -> Any:
        step, _, knob = name.partition(".")
        return self._choices.get(step, {}).get(knob)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return json.loads(json.dumps(self._choices))

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Plan:
        try:
            choices = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"the plan is not valid TOML: {error}") from error
        if not all(isinstance(knobs, dict) for knobs in choices.values()):
            raise PlanError("a plan holds one table a step, such as [truncate]")
        return cls(choices)

    def check(self, knobs: Mapping[str, Sequence[Knob]]) -> Plan:
        """The same plan, or PlanError naming the unknown knob or the impossible value."""
        for step, choices in self._choices.items():
            if step not in knobs:
                raise PlanError(f"unknown step {step!r} in the plan{_closest(step, knobs)}")
            known = {knob.name: knob for knob in knobs[step]}
            for name, value in choices.items():
                if name not in known:
                    raise PlanError(f"unknown knob {step}.{name} in the plan{_closest(name, known)}")
                if not known[name].valid(value):
                    raise PlanError(f"impossible value {value!r} for {step}.{name}: {known[name].means}")
        return self


def _closest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"


# ------------------------------------------------------------------------------------------ pipeline


class Task(Protocol):
    """What the pipeline asks of a task; the whole contract is in `tasks/base.py`."""

    name: str
    pace: Pace

    def steps(self, model: Any, plan: Plan, engines: Any) -> list[Step]: ...

    def knobs(self, model: Any) -> Mapping[str, Sequence[Knob]]: ...

    def has_margins(self, model: Any) -> bool: ...

    def margins(self, outputs: np.ndarray, model: Any) -> np.ndarray: ...


def _at(rows: np.ndarray, outputs: Callable[[], np.ndarray]) -> np.ndarray:
    """The outputs of some rows; those that the model fails on by their places among all."""
    try:
        return outputs()
    except RowsFailed as failed:
        raise failed.moved(lambda row: int(rows[row])) from failed


class Pipeline:
    """Task + model + plan. Immutable: `with_` gives another one that shares the loaded engines."""

    def __init__(self, task: Any, model: Any, plan: Plan, *, engines: Any, steps: list[Step] | None = None):
        self.task, self.model, self.plan = task, model, plan
        self.engines = engines
        plan.check(task.knobs(model))
        if "cascade" in plan:
            self._check_cascade(plan["cascade"])
        self._steps = steps
        self._cheap: Pipeline | None = None

    def _check_cascade(self, choices: Mapping[str, Any], stages: int = 2) -> None:
        if not self.task.has_margins(self.model):
            raise PlanError(f"{self.model.name} is no model for a cascade: its answers do not say how sure they are")
        if stages > MOST_STAGES:
            raise PlanError(f"a cascade has at most {MOST_STAGES} stages")
        missing = [name for name in ("cheap", "threshold") if not choices.get(name) and choices.get(name) != 0]
        if missing:
            raise PlanError(
                f"a [cascade] needs {' and '.join(missing)}: cheap = {{'truncate.max_length' = 16}}, threshold = 1.5"
            )
        if wrong := [name for name in choices["cheap"] if "." not in name]:
            raise PlanError(
                f"impossible change {wrong[0]!r} in cascade.cheap: it holds quoted names such as 'truncate.max_length' = 16"
            )
        inner = {knob: choices["cheap"].get(f"cascade.{knob}") for knob in ("threshold", "cheap")}
        if any(value is not None for value in inner.values()):  # a stage before that one
            self._check_cascade(inner, stages + 1)
        self.plan.without("cascade").with_(**choices["cheap"]).check(self.task.knobs(self.model))

    def __repr__(self) -> str:
        return f"Pipeline({self.task.name}, {self.model.name}, {self.plan.to_dict()})"

    @property
    def steps(self) -> list[Step]:
        if self._steps is None:
            self._steps = self.task.steps(self.model, self.plan, self.engines)
        return list(self._steps)

    def with_(self, plan: Plan | None = None, /, **changes: Any) -> Pipeline:
        return Pipeline(self.task, self.model, (plan or self.plan).with_(**changes), engines=self.engines)

    def settled(self) -> Pipeline:
        """The same, with engine, precision and extent (tokens, pixels) in its plan where that leaves them to their
        defaults: who changes a plan one choice at a time must know what there is."""
        stock = Plan(self.task.stock(self.model))
        known = {f"forward.{knob.name}": knob.default for knob in self.task.knobs(self.model).get("forward", ())}
        names = ["forward.engine", "forward.precision"]
        if (extent := getattr(self.task, "extent", None)) is not None and stock.get_choice(extent.knob) is not None:
            known[extent.knob] = stock.get_choice(extent.knob)
            names.append(extent.knob)
        missing = {name: known[name] for name in names if name in known and self.plan.get_choice(name) is None}
        return self.with_(**missing) if missing else self

    def replace(self, name: str, step: Step) -> Pipeline:
        """The pipeline with another step in the place of the one called `name`."""
        steps = [step if old.name == name else old for old in self._named(name)]
        return Pipeline(self.task, self.model, self.plan, engines=self.engines, steps=steps)

    def without(self, name: str) -> Pipeline:
        steps = [old for old in self._named(name) if old.name != name]
        return Pipeline(self.task, self.model, self.plan, engines=self.engines, steps=steps)

    def _named(self, name: str) -> list[Step]:
        if name not in [step.name for step in self.steps]:
            raise InputError(f"no step {name!r}{_closest(name, [s.name for s in self.steps])}")
        return self.steps

    @property
    def cheap(self) -> Pipeline | None:
        """What comes before the last stage of a cascade, if the plan has one: the same model with cheaper choices."""
        choices = self.plan.settings("cascade")
        if choices and self._cheap is None:
            self._cheap = self.with_(self.plan.without("cascade"), **choices["cheap"])
        return self._cheap

    def __call__(self, value: Any) -> Any:
        return next(self.run([value]))

    @property
    def window(self) -> int:
        """How many inputs `run` holds at a time: they are tokenized, sorted and batched together."""
        held = int(self.plan.settings("batch").get("window", self.task.pace.window))
        return max(held, int(self.plan.settings("forward").get("streams", 1)))

    def run(self, inputs: Iterable[Any], recorder: Recorder = NULL, window: int | None = None) -> Iterator[Any]:
        """Answers in the order of the inputs, which may be endless; `window` bounds what is held."""
        source, window, before = iter(inputs), window or self.window, 0
        while True:
            with recorder.step("read") as _:
                values = [x.input if isinstance(x, Example) else x for x in itertools.islice(source, window)]
                recorder.count(items=len(values))
            if not values:
                return
            try:
                outputs = self.outputs(values, recorder)
            except Unfinished as cut:  # what was answered until then is not lost
                if len(cut.outputs):
                    yield from self.task.answers(cut.outputs, self.model)
                raise
            except RowsFailed as failed:
                raise failed.moved(partial(operator.add, before)) from failed
            with recorder.step("postprocess", items=len(values)):
                answers = self.task.answers(outputs, self.model)
            yield from answers
            before += len(values)

    def outputs(self, values: Sequence[Any], recorder: Recorder = NULL) -> np.ndarray:
        """What the model says of each input, before it is made an answer: float32 `[n, classes]`, or texts `[n]`."""
        values = [self.task.normalise(value) for value in values]
        return self._outputs(Batch(len(values), {"input": values}), recorder)

    def _outputs(self, batch: Batch, recorder: Recorder) -> np.ndarray:
        return self._staged(batch, recorder)[0]

    def _staged(self, batch: Batch, recorder: Recorder) -> tuple[np.ndarray, np.ndarray]:
        """Outputs, and the rows that came as far as the last stage: a stage after it would ask about those alone."""
        if self.cheap is None:
            return self._through(batch, recorder), np.arange(batch.size)
        with recorder.step("cascade", items=batch.size):
            outputs, open_ = self.cheap._staged(batch, recorder)
            asked = open_[self.task.margins(outputs[open_], self.model) < self.plan["cascade"]["threshold"]]
            recorder.count(asked=len(asked))
        if len(asked):
            outputs = outputs.copy()
            outputs[asked] = _at(asked, partial(self.dear._outputs, batch.take(asked), recorder))
        return outputs, asked

    def _through(self, batch: Batch, recorder: Recorder) -> np.ndarray:
        """All steps, one after the other; some rows at a time where a task cannot hold them all (images)."""
        many = getattr(self.task, "rows_at_once", None)
        most = many(batch, self.model, self.plan) if many else batch.size
        if batch.size > most:
            parts = (np.arange(at, min(at + most, batch.size)) for at in range(0, batch.size, most))
            return np.concatenate([_at(r, partial(self._through_steps, batch.take(r), recorder)) for r in parts])
        return self._through_steps(batch, recorder)

    def _through_steps(self, batch: Batch, recorder: Recorder) -> np.ndarray:
        for step in self.steps:
            with recorder.step(step.name, items=batch.size):
                batch = step(batch, recorder)
        outputs: np.ndarray = batch["outputs"]
        return outputs

    def arrays(self, values: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """The padded arrays that the forward step would be given: one dict a batch."""
        batch = Batch(len(values), {"input": [self.task.normalise(value) for value in values]})
        for step in self.steps:
            if step.name == "forward":
                break
            batch = step(batch, NULL)
        return [fields for _, fields in batch["batches"]]

    @property
    def engine_settings(self) -> dict[str, Any]:
        """What the engine of its forward step is opened with: the plan's choices, and what the task adds to them."""
        for step in self.steps:
            if step.name == "forward" and hasattr(step, "settings"):
                return dict(step.settings)
        return self.plan.settings("forward")

    @property
    def dear(self) -> Pipeline:
        """The pipeline without its cascade: the stage that is asked where the cheap one is unsure."""
        if self.cheap is None:
            return self
        if not hasattr(self, "_dear"):
            self._dear = self.with_(self.plan.without("cascade"))
        return self._dear

    @property
    def stages(self) -> list[Pipeline]:
        """The pipelines without a cascade that a row may come to, in that order."""
        return [self] if self.cheap is None else [*self.cheap.stages, self.dear]

    def save(self, path: Any, *, overwrite: bool = False) -> Any:
        from llm_moments.artefact import save

        return save(self, path, overwrite=overwrite)

    def close(self) -> None:
        self.engines.close()
