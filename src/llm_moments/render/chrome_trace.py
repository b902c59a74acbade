"""A session as Trace Event JSON, which Perfetto and chrome://tracing open.

Format: "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from typing import Any

from llm_moments.record.session import Session, StepCost

NOTE = (
    "Durations are totals over all calls of a step, laid out one after another; they are not single calls. Where the "
    "children of a step took longer together than the step (they overlapped), they are drawn narrower to fit in it, "
    "and args.wall_ms has the true figure."
)


def chrome_trace(session: Session) -> dict[str, Any]:
    """Complete events in microseconds, nested as the steps are."""
    events: list[dict[str, Any]] = []
    _lay(session.root, 0.0, 1.0, events)
    about = {"model": session.model, "task": session.task, "created": session.created, "note": NOTE}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _lay(step: StepCost, start: float, scale: float, events: list[dict[str, Any]]) -> None:
    """scale: drawn width by true time; below 1 only inside a step whose children overlapped."""
    width = step.wall_s * 1e6 * scale
    args = {"calls": step.calls, "wall_ms": step.wall_s * 1000, "cpu_s": step.cpu_s, **step.counts}
    if step.limit is not None and step.limit.value is not None:
        args["share_of_limit"] = step.limit.value
    events.append({
        "name": step.name, "cat": "step", "ph": "X", "ts": start, "dur": width, "pid": 1, "tid": 1,
        "args": {k: v for k, v in args.items() if v is not None},
    })  # fmt: skip
    inside = sum(child.wall_s for child in step.children)
    if inside > step.wall_s:
        scale *= step.wall_s / inside
    for child in step.children:
        _lay(child, start, scale, events)
        start += child.wall_s * 1e6 * scale
