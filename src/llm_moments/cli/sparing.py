"""What changes no answer is on where nothing else was said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def sparing(pipe: Any, named: Iterable[str] = (), *, dialogue: bool = False) -> Any:
    """Rows of like length together, equal ones once; the fastest engine that keeps the answers; of a dialogue what was
    read of it before. named: choices that were given. A plan that departs from the stock one in one of these, as an
    artefact's does, stays as it is there."""
    from llm_moments.core import Plan

    usual, given = Plan(pipe.task.stock()), set(named)
    free = {
        name: value for name, value in pipe.task.sorts.items()
        if name not in given and pipe.plan.get_choice(name) == usual.get_choice(name)
    }  # fmt: skip
    chosen = any(name.startswith("forward.") for name in given)
    chosen = chosen or pipe.plan.settings("forward") != usual.settings("forward")
    pipe = _keeping(pipe.with_(**free), given) if dialogue else pipe.with_(**free)
    if chosen:
        return pipe
    quick = pipe.task.quick(pipe.plan, pipe.engines)
    return pipe.with_(**quick) if quick else pipe


def _keeping(pipe: Any, given: set[str]) -> Any:
    """With the keys and values of each turn kept for the next, where its engine does that and nobody has chosen."""
    from llm_moments.engines.base import engine_class, follows

    choice = "forward.prefix_reuse"
    settings = pipe.settled().plan.settings("forward")
    if choice in given or "prefix_reuse" in settings:
        return pipe
    able = follows(engine_class(settings["engine"]), "prefix_reuse", settings["precision"])
    return pipe.with_(**{choice: True}) if able else pipe
