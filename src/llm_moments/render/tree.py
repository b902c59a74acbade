"""A recording as a few lines of plain text: for the one answer of a conversation."""

from __future__ import annotations

from llm_moments.record.session import Session, StepCost
from llm_moments.render.text import amount, figure, label, share

LEAST = 0.001  # of the whole: a step below this share is not worth a line, unless something is inside it


def lines(session: Session) -> list[str]:
    """Milliseconds, share of the whole and tokens a second of every step that took some time, then the figures."""
    total = session.root.wall_s
    shown = [(depth, step) for depth, step in session.root.walk() if _worth_a_line(step, total)]
    told = [
        f"{'  ' * depth + step.name:24}{amount(step.wall_s * 1000, ',.1f'):>10} ms {_rest(step, total)}"
        for depth, step in shown
    ]
    return told + [f"{label(name)}: {figure(fig)}" for name, fig in session.figures.items()]


def _worth_a_line(step: StepCost, total: float) -> bool:
    return bool(step.children) or step.wall_s >= LEAST * total


def _rest(step: StepCost, total: float) -> str:
    part = share(step.wall_s / total) if total else "-"
    rate = step.rate("tokens")
    return f"{part:>7}" + (f"  {amount(rate)} tokens/s" if rate is not None else "")
