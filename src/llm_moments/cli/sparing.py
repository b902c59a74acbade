"""What changes no answer is on where nothing else was said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def sparing(pipe: Any, named: Iterable[str] = ()) -> Any:
    """Rows of like length together, equal ones once; the fastest engine that keeps the answers. named: choices that were
    given. A plan that departs from the stock one in one of these, as an artefact's does, stays as it is there."""
    from llm_moments.core import Plan

    usual, given = Plan(pipe.task.stock()), set(named)
    free = {
        name: value for name, value in pipe.task.sorts.items()
        if name not in given and pipe.plan.get_choice(name) == usual.get_choice(name)
    }  # fmt: skip
    pipe = pipe.with_(**free) if free else pipe
    if any(name.startswith("forward.") for name in given) or pipe.plan.settings("forward") != usual.settings("forward"):
        return pipe
    quick = pipe.task.quick(pipe.plan, pipe.engines)
    return pipe.with_(**quick) if quick else pipe
