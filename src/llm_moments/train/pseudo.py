"""Pseudo-labels: a first model labels examples that have none; what it is sure of is learnt from (Lee 2013)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Example, Pipeline
from llm_moments.evaluate.evaluation import gather
from llm_moments.train.data_checks import plain
from llm_moments.train.place import run_folder

FIRST = "first"  # the first model's folder, beside the checkpoints of the run that it is for
Tick = Callable[[float | None, str], None]


def checked(unlabelled: Any, threshold: float, problem: str) -> list[Example]:
    """The examples to be labelled; InputError for a threshold or a problem that does not go with them."""
    if not 0.5 <= threshold < 1:
        raise InputError(f"a pseudo-threshold is a probability from 0.5 to below 1, not {threshold!r}")
    if problem == "regression":
        raise InputError("numbers have no probability, so that no pseudo-labels can be chosen by it")
    return gather(unlabelled)[0]


def labelled(
    first: Callable[[Path, Tick], Any], out: Path, examples: Sequence[Example], others: Sequence[Example],
    threshold: float, tick: Tick,
) -> tuple[list[Example], dict[str, Any]]:  # fmt: skip
    """Those of the examples that the first model is sure of, with its labels, and what is to be told of it.

    first: trains it into a folder. others: training and evaluation examples; what is among them, but for case,
    spaces and punctuation, is left out.
    """
    done = first(run_folder(out) / FIRST, lambda share, said: tick(share, f"first model: {said}"))
    pipe = load(done.folder)
    pipe = pipe.with_(**pipe.task.sorts)
    if pipe.model.trained_length:
        pipe = pipe.with_(**{"truncate.max_length": min(pipe.model.trained_length, pipe.model.max_length)})
    values = [pipe.task.normalise(e.input) for e in examples]
    known = {plain(pipe.task.normalise(e.input)) for e in others}
    kept = [at for at, value in enumerate(values) if plain(value) not in known]
    if not kept:
        raise DataError("every unlabelled example is among the training or evaluation examples already")
    tick(None, f"labelling {len(kept):,} examples")
    labels = sure(pipe, [values[at] for at in kept], threshold)
    made = [Example(examples[at].input, label) for at, label in zip(kept, labels, strict=True) if label is not None]
    counts = Counter(
        str(name) for e in made for name in (e.reference if isinstance(e.reference, list) else [e.reference])
    )
    single = pipe.model.problem_type == "single_label_classification"
    never = [name for name in pipe.model.labels if name not in counts] if made and single else []
    return made, {
        "unlabelled": len(examples), "known_already": len(examples) - len(kept), "labelled": len(made),
        "threshold": threshold, "by_class": dict(counts.most_common()), "never": never, "first_evaluation": done.evaluation,
        "seconds": round(done.seconds, 1),
    }  # fmt: skip


def one_sided(never: Sequence[str]) -> str:
    shown = ", ".join(never[:5]) + (", …" if len(never) > 5 else "")
    return f"no unlabelled example was surely {shown}: what was added leans to the other classes"


def sure(pipe: Pipeline, values: Sequence[Any], threshold: float) -> list[Any]:
    """The label of each value (a list of labels where there may be several), or None where it is not sure."""
    outputs = pipe.outputs(values)
    chances = pipe.task.probabilities(outputs)
    several = pipe.model.problem_type == "multi_label_classification"
    least = np.maximum(chances, 1 - chances).min(axis=1) if several else chances.max(axis=1)
    answers = pipe.task.answers(outputs)
    return [a.label if low >= threshold else None for a, low in zip(answers, least, strict=True)]
