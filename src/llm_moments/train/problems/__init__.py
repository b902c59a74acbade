"""What a training can learn, each in one file: what begins, the targets, the loss."""

from __future__ import annotations

from llm_moments.base.errors import InputError
from llm_moments.base.registry import resolve
from llm_moments.train.problems.contract import Asked, Problem

# In this order they are asked whether a call of `train` is theirs.
PROBLEMS = {"texts": "texts:Texts", "classification": "classification:Classification"}


def problem_for(asked: Asked) -> Problem:
    """InputError for a task that none of them learns."""
    kinds = [resolve(place, "train.problems") for place in PROBLEMS.values()]
    for kind in kinds:
        if kind.takes(asked):
            found: Problem = kind(asked)
            return found
    known = [name for kind in kinds for name in kind.tasks]
    raise InputError(f"the task {asked.task!r} is not learnt here; {', '.join(known)} are")
