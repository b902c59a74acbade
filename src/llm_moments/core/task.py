"""The contract of a task: how examples become what a model takes, and what it says becomes answers and scores."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from llm_moments.base.errors import InputError, PlanError
from llm_moments.core.change import Change
from llm_moments.core.example import Batch, Example, SampleSizes
from llm_moments.core.knob import Knob, Step
from llm_moments.core.outputs import Outputs
from llm_moments.core.parts import AnswerToken, Pace, Part, Parts, Support
from llm_moments.core.plan import Plan


@dataclass(frozen=True)
class Extent:
    """How much of an input a model is given: tokens of a text, pixels of an image. What a search walks along.

    knob: the choice of the plan that sets it; unit: what it counts, in words. before: lossless choices that save work
    ahead of the model. tunable: lossless choices that are tried one by one on the best plan. others: lossy choices of
    the input beside the extent.
    """

    knob: str
    unit: str
    before: Mapping[str, Any] = field(default_factory=dict)
    tunable: Sequence[tuple[str, Sequence[Any]]] = ()
    others: Sequence[Mapping[str, Any]] = ()

    def of(self, plan: Mapping[str, Mapping[str, Any]]) -> int:
        step, _, knob = self.knob.partition(".")
        return int(plan[step][knob])


class Task(ABC):
    """A task of one model, to which it is bound. What is abstract every task says; the rest has a plain default.

    A score is given for each example, since every test here is paired; `metric` names their mean.
    """

    name: str
    default_metric = ""  # '': answers are judged in one way only
    agrees = ""  # what `agreement` is, in words; '': the metric itself
    sizes = SampleSizes()
    sorts: Mapping[str, Any] = {}  # changes of a plan that put rows of like length together: no answer changes by them
    extent: Extent | None = None
    strategy: Literal["ladder", "greedy"] = (
        "ladder"  # along the extent; or change by change, where answers take seconds
    )
    streams = False  # answers are made piece by piece
    by_token = False  # answers are texts whose next-token distributions can be compared along a text
    prompted = False  # by a causal model, which goes on with a prompt: it can be asked how likely any text is
    compared = False  # of two answers the better one is asked for, not which label is right
    layered = True  # its model is one network, whose layers can be weighed
    modality: Literal["text", "image", "audio"] = "text"  # of the inputs
    classifies = False  # an answer is a label, several labels, or a number
    timed_by: Mapping[
        str, Any
    ] = {}  # changes of a plan by which the words of an answer's `segments` have times; {}: none have
    files = False  # inputs are files: a word on a command line is the name of one
    heals = False  # a smaller model can be taught to answer like it
    engines_open = 6  # how many are kept open at a time

    def __init__(self, model: Any, metric: str | None = None):
        self.model, self.asked_metric = model, metric or ""
        if metric is not None and not self.default_metric:
            raise InputError(f"answers of {self.name} are judged in one way only; leave out the metric {metric!r}")

    def of(self, model: Any) -> Self:
        """The same task of another model."""
        other = copy.copy(self)
        other.model = model
        return other

    @property
    def ladder(self) -> Extent:
        """The extent, where a search walks along one."""
        if self.extent is None:
            raise InputError(f"{self.name} has no extent to walk along")
        return self.extent

    # -- from an example to the model

    @abstractmethod
    def normalise(self, value: Any) -> Any:
        """A plain input (string, pair, dict) as the steps take it; raises DataError."""

    def prepared(self, example: Example) -> Example:
        """An example whose input and reference belong together, as they are used; raises DataError."""
        return example

    joins = False  # `prepared` does something: input and reference are read together

    @abstractmethod
    def steps(self, plan: Plan, engines: Any) -> list[Step]: ...

    @abstractmethod
    def knobs(self) -> Mapping[str, Sequence[Knob]]: ...

    @abstractmethod
    def stock(self) -> Mapping[str, Mapping[str, Any]]:
        """The plan that transformers' own pipeline follows."""

    def parts(self, plan: Plan) -> Mapping[str, Any]:
        """The pipelines that a chain is made of, by stage, as the plan has them; none of a task with one model."""
        return {}

    def handed(self, values: Sequence[Any], outputs: Outputs) -> list[list[Any]] | None:
        """What the next stage of a chain is asked about each value, where that is more than the one answer: the lines of a
        page. None: the answers, one a row."""
        return None

    def regrouped(self, outputs: Outputs | None, before: Outputs, plan: Plan) -> Outputs:
        """Of a chain's last stage that was asked several things about each row: outputs a row. outputs: None where there was
        nothing to ask; before: those of the stage that handed them on."""
        raise InputError(f"answers of {self.name} to several things are no one answer: another stage must come last")

    def rows_at_once(self, batch: Batch, plan: Plan) -> int:
        """How many rows of a batch may go through the steps together."""
        return batch.size

    def keep(self, steps: Sequence[Step], plan: Plan) -> None:  # noqa: B027 (most tasks keep nothing)
        """From now on these steps may keep what they made of each row: the same rows come again."""

    @abstractmethod
    def save_inputs(self, plan: Plan, folder: Path) -> None:
        """Writes what a model folder needs beside its weights to prepare inputs: tokenizer, image sizes."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What a model folder is to say of the task that it was trained for."""
        return {}

    # -- from outputs to answers and scores

    @abstractmethod
    def answers(self, outputs: Outputs) -> list[Any]: ...

    @abstractmethod
    def metric(self) -> str: ...

    def has_label(self, value: Any) -> bool | None:
        """Whether a raw reference says anything; None: as any value does that is there."""
        return None

    def reader(self, column: Iterable[Any]) -> Callable[[Any], Any]:
        """Reads one raw reference as it is read among all those of a column; raises DataError."""
        return lambda value: self.references([value])

    @abstractmethod
    def references(self, raw: Iterable[Any]) -> list[Any]:
        """References as the model's own labels; raises DataError naming row and value."""

    @abstractmethod
    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        """float64 [n], higher is better."""

    def bounds(self) -> tuple[float, float] | None:
        """The least and the highest score that an example can have, also one not seen; an end may be infinite. None:
        as the scores have it."""
        return None

    @abstractmethod
    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        """float64 [n]: the score when the baseline's answers are taken as references."""

    @abstractmethod
    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n], 0 for the same outputs: how far apart two models are, example by example."""

    @abstractmethod
    def as_references(self, outputs: Outputs) -> list[Any]:
        """What the outputs answer, as references: what a model without labels is held against."""

    @abstractmethod
    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """bool [n]: whether the answers are the same."""

    @abstractmethod
    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        """bool [n]: whether the answers are the same and their probabilities, if any, no further apart than that."""

    def has_margins(self) -> bool:
        """Whether the outputs say how sure they are: of a model without, no cascade is made."""
        return False

    def margins(self, outputs: Outputs) -> np.ndarray:
        """float [n], how sure an answer is: a cascade asks the full plan where this is low."""
        raise PlanError(f"{self.model.name}: its answers do not say how sure they are, so no cascade can be made of it")

    def probabilities(self, outputs: Outputs) -> np.ndarray:
        """float64 [n, answers] of those that have them."""
        raise PlanError(f"{self.model.name}: its answers have no probabilities")

    def beside(self, outputs: Outputs, references: Sequence[Any]) -> dict[str, float]:
        """Figures of all answers together, beside the mean of the scores."""
        return {}

    # -- what an answer rests on

    part_kinds: tuple[str, ...] = ()  # what an input can be taken apart into, the usual one first; (): it cannot

    def divided(self, value: Any, kind: str) -> Parts:
        """An input, as `normalise` gives it, as parts of that kind."""
        raise InputError(f"inputs of {self.name} cannot be taken apart")

    def explained(self, pipe: Any, value: Any, given: str | None = None) -> Outputs:
        """One row: the outputs that are explained, those that a pipeline makes of the value. given: an answer that is judged
        in the place of its own, where answers are texts."""
        if given is not None:
            raise InputError(f"answers of {self.name} are no texts: what it answers itself is explained")
        return pipe.outputs([value])  # type: ignore[no-any-return]

    def judging(self, pipe: Any) -> tuple[Any, str]:
        """The pipeline that is asked how far it speaks for an answer, and why it is another one, if it is."""
        return pipe, ""

    def support(self, pipe: Any, values: Sequence[Any], answer: Outputs) -> Support:
        """How far the model speaks for that answer (one row) where it is asked about each of the values, in `support_unit`,
        and whether it gives it."""
        raise InputError(f"answers of {self.name} cannot be explained")

    def answer_tokens(self, pipe: Any, value: Any, answer: Outputs) -> list[AnswerToken]:
        """The answer's tokens, where it is made of such."""
        return []

    def tokens_along(self, pipe: Any, value: Any, answer: Outputs) -> tuple[list[int], list[int]] | None:
        """Of a causal model the tokens of its prompt and of the answer after it; None of others."""
        return None

    def told(self, outputs: Outputs) -> tuple[str, float | None]:
        """The answer of one row as a person reads it, and how probable it is, where that is known."""
        raise InputError(f"answers of {self.name} cannot be explained")

    def widest(self, pipe: Any, value: Any) -> Mapping[str, Any] | None:
        """Changes of the plan under which most of this input reaches the model; None where there are none."""
        if self.extent is None:
            return None
        return {self.extent.knob: self.rungs(pipe, [value])[-1]}

    pace = Pace()  # of an explanation
    reference_engine = "torch"  # which runs the model as its folder has it, and can leave layers out
    support_unit = "nats"

    def unseen(self, pipe: Any, value: Any) -> list[Part]:
        """What of an input never reached the model under the pipeline's plan."""
        return []

    # -- what else may be chosen

    def inputs(self, pipe: Any, values: Sequence[Any]) -> Iterable[Change]:
        """Less of each input: shorter texts, smaller images. values: some of the data."""
        return ()

    def amounts(self, pipe: Any, values: Sequence[Any], outputs: Outputs) -> Mapping[str, int]:
        """How much there is in these data at most of what knobs are limits of (`Knob.bounds`)."""
        return {}

    def quick(self, plan: Plan, engines: Any) -> Mapping[str, Any]:
        """Choices that change no answer and are taken where nobody has chosen an engine. engines: of the pipeline."""
        return {}

    def changes(self, plan: Plan) -> list[Change]:
        """What a greedy search takes up, in that order, one on top of another."""
        return []

    def alternatives(self, plan: Plan) -> list[Change]:
        """What is weighed, each alone on top of this plan, beside `inputs` and the knobs' own values."""
        return self.changes(plan)

    def rungs(self, pipe: Any, values: Sequence[Any]) -> list[int]:
        """What a ladder tries of the extent for such data, the least first, and what the model takes at most."""
        raise InputError(f"{self.name} has no extent to walk along")

    def others(self, pipe: Any, plan: Plan, values: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """Other choices of the input that change something at the plan's extent."""
        return ()

    def by_hand(self, plan: Plan) -> int:
        """The extent that a careful engineer would set."""
        raise InputError(f"{self.name} has no extent to walk along")

    def careful(self, plan: Plan) -> Mapping[str, Any]:
        """What a careful engineer would choose beside the engine that the plan has."""
        return {}

    def calibrating(self) -> dict[str, Any] | None:
        """Changes of a plan by which int8 is calibrated; None: nothing is."""
        return None
