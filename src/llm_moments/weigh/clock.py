"""The time that weighing may take: what fits is begun, what does not is named at the end, with the time that would do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Tick = Callable[[float | None, str], None]
T = TypeVar("T")

CAREFUL = 1.1  # times the time that is foretold: a machine is not equally fast all the time
ROOM = 1.4  # times the time that all of it would take: what was not even looked at may be slower than the baseline


@dataclass
class Clock:
    """allowed: seconds from `begin` on; infinite where nobody waits. Interrupted (Ctrl-C), nothing more is begun and
    what was measured stays."""

    allowed: float = math.inf
    tick: Tick = lambda done, message: None
    now: Callable[[], float] = time.monotonic
    begin: float = field(default=-1.0)
    missing: dict[str, float] = field(default_factory=dict)  # what was not measured, and the seconds it would take
    planned: dict[str, float] = field(default_factory=dict)  # what is still to come, and the seconds it may take
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.begin = self.now() if self.begin < 0 else self.begin

    @property
    def spent(self) -> float:
        return self.now() - self.begin

    @property
    def left(self) -> float:
        return self.allowed - self.spent

    @property
    def why(self) -> str:
        """Why something was not measured."""
        if self.interrupted:
            return "not measured: interrupted"
        return f"not measured: the budget of {in_words(self.allowed)} was used up"

    def fits(self, seconds: float) -> bool:
        return not self.interrupted and CAREFUL * seconds <= self.left

    def run(self, name: str, seconds: float, work: Callable[[], T]) -> T | None:
        """What the work gives; None where it is foretold to take longer than there is time, or was interrupted."""
        if not self.fits(seconds):
            self.missing[name] = seconds
            self.planned.pop(name, None)
            return None
        self.tell(name)
        try:
            return work()
        except KeyboardInterrupt:
            self.interrupted = True
            self.missing[name] = seconds
            return None
        finally:
            self.planned.pop(name, None)

    def tell(self, name: str) -> None:
        """Progress, with the time that is left: what is planned or what is allowed, whichever is less."""
        left = max(min(sum(self.planned.values()), self.left), 0.0)
        done = self.spent / (self.spent + left) if self.spent + left else 0.0
        self.tick(min(done, 1.0), f"{name}, about {in_words(left)} left")

    def summary(self) -> dict[str, Any]:
        """What is said at the end of it."""
        if self.interrupted:
            return {"interrupted": True, "not_measured": list(self.missing)}
        if not self.missing:
            return {}
        needed = ROOM * (self.spent + sum(self.missing.values()))
        return {"not_measured": list(self.missing), "budget_that_would_do": in_words(max(needed, 1.2 * self.allowed))}


def in_words(seconds: float) -> str:
    """12s, 3m or 2h, as a budget is given; rounded up."""
    if seconds <= 90:
        return f"{math.ceil(seconds)}s"
    return f"{math.ceil(seconds / 60)}m" if seconds <= 5400 else f"{math.ceil(seconds / 3600)}h"
