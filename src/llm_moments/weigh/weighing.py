"""Changes priced within a budget: all if there is time, else by what a look at a few rows promises, the most first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llm_moments.base.errors import EngineError, ModelError, PlanError
from llm_moments.core import Pipeline
from llm_moments.core.change import Change
from llm_moments.engines.base import engine_class
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.weigh.clock import Clock
from llm_moments.weigh.price import ROUNDS, look_at
from llm_moments.weigh.worth import Worth

LOOKING = 1 / 3  # of the time that is left, for looks
BLOCK, FEWEST = 1 / 400, 4  # share of the budget that a timed block may take; rows it has at least
BUILDING = 5  # times the baseline's opening, for a graph that was not built yet
REFUSED = (EngineError, ModelError, PlanError)


@dataclass
class Costs:
    """What a change may take, foretold from the baseline and from a look at it. base: seconds an example."""

    base: float
    opening: float
    block: int
    opened: dict[str, float] = field(default_factory=dict)  # seconds to open, by name of the change
    per_example: dict[str, float] = field(default_factory=dict)
    built: float = 0.0  # the longest opening so far
    fixed_base: float = 0.0  # seconds an example where a change is timed, if its answers come about otherwise
    judged: Callable[[Change], float] = lambda change: 1.0  # share of a change's own time that its answers take

    @property
    def fixed(self) -> float:
        """Of a change, if it is as fast as the baseline: what does not hang on how many examples there are."""
        return self.opening + (ROUNDS + 3) * self.block * (self.fixed_base or self.base)

    def look(self, change: Change) -> float:
        return self._opening(change) + 2 * self.block * self.base

    def whole(self, change: Change, rows: int) -> float:
        """The baseline is timed anew for some of the changes only: its share in one is about a block."""
        own = self.per_example.get(change.name, self.base)
        answers = rows * own * self.judged(change)
        return self._opening(change) + answers + ROUNDS * self.block * own + self.block * self.base

    def _opening(self, change: Change) -> float:
        if change.name in self.opened:
            return self.opened[change.name]
        if not any(name.startswith("forward.") for name in change.choices):
            return 0.0
        engine = change.choices.get("forward.engine")
        builds = engine is not None and engine_class(str(engine)).builds
        return max(BUILDING * self.opening, self.built) if builds else self.opening

    def learnt(self, change: Change, opening: float, per_example: float) -> None:
        self.opened[change.name], self.per_example[change.name] = opening, per_example
        self.built = max(self.built, opening)


@dataclass
class Weighing:
    """look: seconds to open the change and seconds an example, from a few rows. price: its worth on all of them."""

    clock: Clock
    costs: Costs
    rows: int
    look: Callable[[Change], tuple[float, float]]
    price: Callable[[Change], Worth]
    found: dict[str, Worth] = field(default_factory=dict)

    def plan(self, todo: Sequence[Change]) -> None:
        """Tells the clock what they may take: progress shows it, and whether everything fits hangs on it."""
        self.clock.planned.update({change.name: self.costs.whole(change, self.rows) for change in todo})

    def all(self, todo: Sequence[Change]) -> list[Worth]:
        """Their worths, in the order in which they were given."""
        order = list(todo)
        self.plan(todo)
        if not self.clock.fits(sum(self.clock.planned.values())):
            order = self._by_saving(todo)
        for change in order:
            self.one(change)
        return [self.found[change.name] for change in todo]

    def one(self, change: Change) -> Worth:
        if change.name not in self.found and self.clock.fits(self.costs.whole(change, self.rows)):
            self._looked(change)
        if change.name not in self.found:
            done = self.clock.run(change.name, self.costs.whole(change, self.rows), lambda: self.price(change))
            self.found[change.name] = done or unmeasured(change, self.clock.why)
        return self.found[change.name]

    def _looked(self, change: Change) -> None:
        if change.name in self.costs.per_example:
            return
        try:
            seen = self.clock.run(change.name, self.costs.look(change), lambda: self.look(change))
        except REFUSED as error:
            self.found[change.name] = unmeasured(change, str(error))
            return
        if seen is not None:
            self.costs.learnt(change, *seen)
            self.clock.missing.pop(change.name, None)
            self.clock.planned[change.name] = self.costs.whole(change, self.rows)

    def _by_saving(self, todo: Sequence[Change]) -> list[Change]:
        """As many as may be looked at; then what saves most for certain, what is not known, and what saves nothing."""
        until = self.clock.left * (1 - LOOKING)
        for change in todo:
            if self.clock.left - self.costs.look(change) > until:
                self._looked(change)
        known = self.costs.per_example
        return sorted(todo, key=lambda change: known.get(change.name, 0.98 * self.costs.base))


def unmeasured(change: Change, why: str) -> Worth:
    return Worth(change.name, change.step, dict(change.choices), "unavailable", reason=why)


def costs_of(base: Pipeline, part: Evaluation, allowed: float) -> Costs:
    """Of the baseline, which is opened now. Of a slow one fewer rows are timed at a time."""
    pace = base.task.sizes
    opening, per_example = look_at(base, Change("", {}), part.values, max(pace.warm, 1))
    fits = int(min(BLOCK * allowed / max(per_example, 1e-9), pace.block))
    return Costs(per_example, opening, min(max(fits, FEWEST), pace.block, len(part)))
