"""What a batch of outputs is told about its references: one number, lower is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import InputError
from llm_moments.base.registry import resolve
from llm_moments.core import NULL, Recorder
from llm_moments.data.labels import MULTI, REGRESSION, SINGLE

USUAL = {SINGLE: "cross-entropy", MULTI: "binary-cross-entropy", REGRESSION: "mean-squared-error"}
LEAST = 0.05  # nats: a student that is so near to its teacher has next to nothing to learn


class Loss(ABC):
    """A function of (outputs of the module, targets, inputs, recorder) to one number. What a training asks of it beside
    that number: which inputs are its alone, what the module is told, and how much a batch counts."""

    reads: tuple[str, ...] = ()  # inputs that are not for the module
    least = 0.0  # a loss that is as good as none

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the module's forward pass."""
        return {}

    def weight(self, rows: Sequence[int] | np.ndarray, arrays: Mapping[str, np.ndarray]) -> int:
        """How much a batch counts among those of one update."""
        return len(rows)

    @abstractmethod
    def __call__(self, outputs: Any, targets: Any, inputs: Any, recorder: Recorder = NULL) -> Any: ...


def loss_for(problem: str, name: str | None = None, *, label_smoothing: float = 0.0, class_weights: Any = None) -> Loss:
    """A loss of outputs with `logits` float32 [rows, classes], by its name in `LOSSES`.

    Targets are int64 [rows] for single labels (or float32 [rows, classes] with a sum of 1 each, where examples
    were mixed), float32 [rows, classes] for several, float32 [rows] for numbers. Single labels under binary cross-entropy or mean squared error are held as one-hot rows against
    the sigmoids or the raw logits (Hui and Belkin 2020, arXiv:2006.07322). class_weights: float32 [classes].
    """
    name = name or USUAL[problem]
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}; known are {', '.join(LOSSES)}")
    kind = resolve(LOSSES[name], "train")
    if problem not in kind.problems:
        fits = [other for other, place in LOSSES.items() if problem in resolve(place, "train").problems]
        raise InputError(f"{name} is no loss for {problem.replace('_', ' ')}; use {' or '.join(fits)}")
    if label_smoothing and not kind.smooths:
        able = [other for other, place in LOSSES.items() if resolve(place, "train").smooths]
        raise InputError(f"label smoothing goes with {' and '.join(able)} only")
    if class_weights is not None and not kind.weighs:
        able = [other for other, place in LOSSES.items() if resolve(place, "train").weighs]
        raise InputError(f"class weights go with {' and '.join(able)} only")
    found: Loss = kind(problem, label_smoothing, class_weights)
    return found


class OfReferences(Loss):
    """A loss against the references of a batch. problems: of Hugging Face's types those it is for; smooths, weighs:
    whether it takes label smoothing and class weights."""

    problems: tuple[str, ...] = (SINGLE,)
    smooths = weighs = False

    def __init__(self, problem: str, label_smoothing: float = 0.0, class_weights: Any = None):
        self.problem, self.label_smoothing, self.class_weights = problem, label_smoothing, class_weights

    def __call__(self, outputs: Any, targets: Any, inputs: Any, recorder: Recorder = NULL) -> Any:
        logits = outputs.logits.float()
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        return self.of(logits, targets, weights)

    @abstractmethod
    def of(self, logits: Any, targets: Any, weights: Any) -> Any:
        """logits: float32 [rows, classes]; weights: [classes], or None."""


class CrossEntropy(OfReferences):
    smooths = weighs = True

    def of(self, logits: Any, targets: Any, weights: Any) -> Any:
        from torch.nn import functional

        loss = functional.cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing)
        if weights is None or targets.ndim == 1:
            return loss
        return loss * len(targets) / (targets * weights).sum()  # torch leaves the weights of soft targets in the mean


class BinaryCrossEntropy(OfReferences):
    problems = (SINGLE, MULTI)
    weighs = True

    def of(self, logits: Any, targets: Any, weights: Any) -> Any:
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits, one_hot(targets, logits), weight=weights)


class MeanSquaredError(OfReferences):
    problems = (SINGLE, MULTI, REGRESSION)

    def of(self, logits: Any, targets: Any, weights: Any) -> Any:
        from torch.nn import functional

        if self.problem == REGRESSION:
            return functional.mse_loss(logits.squeeze(-1), targets)
        return functional.mse_loss(logits, one_hot(targets, logits))


LOSSES = {
    "cross-entropy": "losses:CrossEntropy",
    "binary-cross-entropy": "losses:BinaryCrossEntropy",
    "mean-squared-error": "losses:MeanSquaredError",
}


def one_hot(targets: Any, logits: Any) -> Any:
    import torch

    if targets.ndim == 2:
        return targets
    return torch.nn.functional.one_hot(targets, logits.shape[-1]).to(logits.dtype)


def balanced(references: Sequence[int], classes: int) -> Any:
    """Weights by which every class counts alike: float32 [classes], mean 1 over the examples."""
    import torch

    counts = np.bincount(np.asarray(references), minlength=classes)
    weights = np.divide(len(references), counts * max((counts > 0).sum(), 1), out=np.zeros(classes), where=counts > 0)
    return torch.tensor(weights, dtype=torch.float32)


class Distillation(Loss):
    """A student learns what a teacher said (Hinton et al. 2015, arXiv:1503.02531), and how it got there.

    temperature² · KL(teacher ‖ student) of the softened answers (Bernoulli where there are several labels,
    squared error where there is one number); with hidden > 0 also the squared difference of the hidden states
    after the student's layers from those after the teacher's layers that they stand for, relative to the
    latter's size (Sanh et al. 2019, arXiv:1910.01108). told: float32 [n, classes], by the rows that the
    targets name; teacher: the module, where hidden states are wanted.
    """

    def __init__(
        self, problem: str, told: Any, teacher: Any = None, *, temperature: float = 2.0, hidden: float = 0.0,
        stands_for: Sequence[int] = (),
    ):  # fmt: skip
        import torch

        if not (np.isfinite(temperature) and temperature > 0 and np.isfinite(hidden) and hidden >= 0):
            raise InputError("a temperature is above 0, and a weight of hidden states not below 0")
        if hidden and (teacher is None or not stands_for):
            raise InputError("hidden states can be learnt by a student that is made of the teacher's layers")
        self.problem, self.told, self.temperature = problem, torch.as_tensor(told, dtype=torch.float32), temperature
        self.teacher, self.hidden, self.stands_for = teacher, hidden, sorted(stands_for)
        self.least = 0.0 if problem == "regression" else LEAST

    @property
    def options(self) -> Mapping[str, Any]:
        return {"output_hidden_states": True} if self.hidden else {}

    def __call__(self, outputs: Any, targets: Any, inputs: Any, recorder: Recorder = NULL) -> Any:
        logits = outputs.logits.float()
        loss = self.soft(logits, self.told[targets.cpu()].to(logits.device))
        if self.hidden:
            loss = loss + self.hidden * self.apart(outputs.hidden_states, self.seen(inputs, recorder), inputs)
        return loss

    def soft(self, logits: Any, told: Any) -> Any:
        from torch.nn import functional

        t = self.temperature
        if self.problem == "regression":
            return functional.mse_loss(logits, told)
        if self.problem == "multi_label_classification":
            return t * t * functional.binary_cross_entropy_with_logits(logits / t, (told / t).sigmoid())
        student, teacher = (functional.log_softmax(x / t, dim=-1) for x in (logits, told))
        return t * t * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def seen(self, inputs: Any, recorder: Recorder) -> Sequence[Any]:
        import torch

        first = next(iter(inputs.values()))
        with recorder.step("teacher", items=len(first)), torch.no_grad():
            self.teacher.to(first.device)
            return list(self.teacher(**inputs, output_hidden_states=True).hidden_states)

    def apart(self, hidden: Sequence[Any], told: Sequence[Any], inputs: Any) -> Any:
        """Mean over the student's layers, of texts over real tokens; hidden states begin with those before any layer."""
        mask = inputs["attention_mask"].unsqueeze(-1).float() if "attention_mask" in inputs else 1.0
        total = 0.0
        for mine, theirs in zip(hidden[1:], [told[i + 1].float() for i in self.stands_for], strict=True):
            scale = (theirs.square() * mask).sum().clamp_min(1e-6)
            total = total + ((mine.float() - theirs).square() * mask).sum() / scale
        return total / len(self.stands_for)
