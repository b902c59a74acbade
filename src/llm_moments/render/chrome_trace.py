"""A session as Trace Event JSON, which Perfetto and chrome://tracing open.

Format: "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_moments.record.session import Moment, Session, StepCost

NOTE = (
    "Durations of the first process are totals over all calls of a step, laid out one after another; they are not single "
    "calls. Where the children of a step took longer together than the step (they overlapped), they are drawn narrower to fit "
    "in it, and args.wall_ms has the true figure. What stands in the second process ran there and then."
)
TOTALS, RAN = 1, 2  # processes: totals of steps, and what ran when


def chrome_trace(session: Session) -> dict[str, Any]:
    """Complete events in microseconds, nested as the steps are; then each prompt and each decoding step where it ran, where
    the engine told it: prompts side by side on lines of their own."""
    events: list[dict[str, Any]] = []
    _lay(session.root, 0.0, 1.0, events)
    events += _ran(session.timeline)
    about = {"model": session.model, "task": session.task, "created": session.created, "note": NOTE}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _lay(step: StepCost, start: float, scale: float, events: list[dict[str, Any]]) -> None:
    """scale: drawn width by true time; below 1 only inside a step whose children overlapped."""
    width = step.wall_s * 1e6 * scale
    args = {"calls": step.calls, "wall_ms": step.wall_s * 1000, "cpu_s": step.cpu_s, **step.counts}
    if step.limit is not None and step.limit.value is not None:
        args["share_of_limit"] = step.limit.value
    events.append({
        "name": step.name, "cat": "step", "ph": "X", "ts": start, "dur": width, "pid": TOTALS, "tid": 1,
        "args": {k: v for k, v in args.items() if v is not None},
    })  # fmt: skip
    inside = sum(child.wall_s for child in step.children)
    if inside > step.wall_s:
        scale *= step.wall_s / inside
    for child in step.children:
        _lay(child, start, scale, events)
        start += child.wall_s * 1e6 * scale


def _ran(timeline: Sequence[Moment]) -> Iterator[dict[str, Any]]:
    if not timeline:
        return
    yield _called("process_name", TOTALS, 1, "totals of the steps")
    yield _called("process_name", RAN, 1, "what ran when")
    yield _called("thread_name", RAN, 1, "steps")
    free: list[float] = []  # when each line of prompts is free again
    number = 0
    for one in sorted(timeline, key=lambda one: one.start):
        line, name = 1, one.name
        if one.name == "prompt":
            number += 1
            at = next((at for at, end in enumerate(free) if end <= one.start + 1e-9), len(free))
            if at == len(free):
                free.append(0.0)
                yield _called("thread_name", RAN, at + 2, f"prompts, line {at + 1}")
            free[at], line, name = one.start + one.seconds, at + 2, f"prompt {number}"
        yield {
            "name": name, "cat": "ran", "ph": "X", "ts": max(one.start, 0.0) * 1e6, "dur": one.seconds * 1e6, "pid": RAN,
            "tid": line, "args": dict(one.facts),
        }  # fmt: skip


def _called(what: str, process: int, line: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": line, "args": {"name": name}}
