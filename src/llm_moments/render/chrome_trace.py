"""A session as Trace Event JSON, which Perfetto and chrome://tracing open."""

from __future__ import annotations

from typing import Any

from llm_moments.record.session import Session, StepCost


def chrome_trace(session: Session) -> dict[str, Any]:
    """Complete events in microseconds. A step's events are its total, laid out one after another."""
    events: list[dict[str, Any]] = []

    def lay(step: StepCost, start: float) -> None:
        args = {"calls": step.calls, "cpu_s": step.cpu_s, **step.counts}
        events.append(
            {"name": step.name, "ph": "X", "ts": start, "dur": step.wall_s * 1e6, "pid": 1, "tid": 1, "args": args}
        )
        for child in step.children:
            lay(child, start)
            start += child.wall_s * 1e6

    lay(session.root, 0.0)
    about = {"model": session.model, "note": "durations are totals over all calls, laid out one after another"}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
