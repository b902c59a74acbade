"""How a search goes on, each way in one file: along the ladder of an extent where answers are quick, change by change where
they take seconds."""

from __future__ import annotations

from llm_moments.base.registry import resolve
from llm_moments.improve.search import Search
from llm_moments.improve.study import Trial

STRATEGIES = {"ladder": "ladder:STAGES", "greedy": "greedy:STAGES"}


def run(search: Search) -> list[Trial]:
    """All stages, as far as the time allows. The candidates, in the order of their certification."""
    for stage in resolve(STRATEGIES[search.stock.task.strategy], "improve.strategies"):
        if search.late():
            break
        stage(search)
    return search.candidates()
