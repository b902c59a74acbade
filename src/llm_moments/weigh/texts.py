"""Weighing a model that makes texts. Its answers take seconds each, so that few can be made: a change is judged by how far
it moves the next token's distribution along the baseline's own answers, which few of them tell, and timed on some."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.errors import EngineError, InputError, MomentsError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.change import Change
from llm_moments.core.outputs import concat
from llm_moments.engines.base import engine_class
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.evaluate.measure import answered, forget
from llm_moments.evaluate.token_divergence import Moved, Told
from llm_moments.weigh.changes import acting, every_change
from llm_moments.weigh.clock import Clock
from llm_moments.weigh.layers import Layers
from llm_moments.weigh.moved import along
from llm_moments.weigh.price import judged, savings
from llm_moments.weigh.text_layers import answers_anew, layers_along
from llm_moments.weigh.weighing import unmeasured
from llm_moments.weigh.worth import Worth

FEWEST, MOST, JUDGED = 4, 32, 400  # answers of the baseline; most where there are references
ANSWERS, HALF = 0.2, 0.5  # of the time: for the baseline's answers, and where even the fewest take longer
LAYERS = 0.25  # of the time that is left, for the layers
ROUNDS = 3  # times at least that a change is timed, where there is time
BUILDING = 3  # times the baseline's opening, for a graph that was not built yet
SHARING = 0.2  # of the baseline's opening, for an engine that finds its weights open
READING = 0.5  # of the time of an answer, that reading it may take
MORE = 1.5  # times its share of what is left, that one change may take


def weigh_texts(
    base: Pipeline, part: Evaluation, clock: Clock, *, exhaustive: bool = False, seed: int = 0
) -> tuple[Evaluation, Outputs, list[Worth], Layers]:
    """The rows that the baseline answered, its answers, the worths of all changes, and what was found of the layers."""
    texts = Texts.begun(base, part, clock)
    part, outputs = texts.part, texts.outputs
    first, after = every_change(base, part.values)
    todo = acting(base, [*first, *after], base.task.amounts(base, part.values, outputs))
    texts.plan(todo)
    layers, means = layers_along(base, part, outputs, clock, LAYERS * clock.left)
    worths = texts.all(todo)
    if len(means):
        layers = answers_anew(base, layers, means, partial(texts.one, share=math.inf), exhaustive=exhaustive, seed=seed)
    if texts.why:
        layers = replace(layers, screen=f"{layers.screen}; changes are judged by their answers alone: {texts.why}")
    return part, outputs, worths, layers


@dataclass
class Texts:
    """The baseline's answers and the seconds that each took; whole: they as tokens, with its distributions along them,
    None where its engine does not tell those; why: in that case."""

    base: Pipeline
    part: Evaluation
    outputs: Outputs
    seconds: np.ndarray
    opening: float
    clock: Clock
    whole: Told | None = None
    why: str = ""
    built: float = 0.0  # the longest building so far
    module: Any = field(default=None, repr=False)  # held, so that engines that are opened later find its weights

    @classmethod
    def begun(cls, base: Pipeline, part: Evaluation, clock: Clock) -> Texts:
        clock.tell("answers of the baseline")
        begin, allowed = clock.now(), clock.left
        module = base.engines.get(base.engine_settings).module
        opening = clock.now() - begin
        base.outputs(part.values[:1])
        together = max(int(base.engine_settings.get("streams", 1)), 1)
        made: list[Outputs] = []
        seconds: list[float] = []
        for at in range(0, min(JUDGED if part.labelled else MOST, len(part)), together):
            spent = clock.now() - begin
            if seconds and spent > (ANSWERS if len(seconds) >= FEWEST else HALF) * allowed:
                break
            forget(base)
            outputs, took = answered(base, part.values[at : at + together])
            made.append(outputs)
            seconds += [took / len(outputs)] * len(outputs)
        found = cls(
            base, part.take(range(len(seconds))), concat(made), np.array(seconds), opening, clock, module=module
        )
        clock.tell("reading the baseline's answers")
        try:
            found.whole = Told.of(base, found.part.values, [str(text) for text in found.outputs["text"]])
        except (EngineError, InputError) as error:
            found.why = str(error)
        return found

    # -- in the time there is

    def plan(self, todo: list[Change]) -> None:
        """Tells the clock what they may take, as far as they can be made at all."""
        for change in todo:
            with suppress(MomentsError):
                self.clock.planned[change.name] = self.foretold(change)

    def foretold(self, change: Change, rows: int = 2) -> float:
        """Seconds: opened, read, and as many rows answered at the baseline's pace."""
        read = READING * len(self.whole.rows) if self.whole is not None else 0.0
        return self._opening(change) + (read + rows) * float(self.seconds.mean())

    def _opening(self, change: Change) -> float:
        settings = self.base.with_(**change.choices).engine_settings
        if settings == self.base.engine_settings:
            return 0.0
        if engine_class(settings.get("engine", "torch")).builds and self.base.engines.built(settings) is None:
            return self.built or BUILDING * self.opening
        return self.opening if self.module is None else SHARING * self.opening

    def all(self, todo: list[Change]) -> list[Worth]:
        found = []
        for at, change in enumerate(todo):
            share = MORE * self.clock.left / (len(todo) - at)
            found.append(self.one(change, share))
        return found

    def one(self, change: Change, share: float) -> Worth:
        """share: seconds that it may take, about."""
        try:
            cost = self.foretold(change)
        except MomentsError as error:
            self.clock.planned.pop(change.name, None)
            return unmeasured(change, str(error))
        done = self.clock.run(change.name, cost, lambda: self.price(change, min(share, self.clock.left)))
        return done or unmeasured(change, self.clock.why)

    # -- one change

    def price(self, change: Change, share: float) -> Worth:
        begin = self.clock.now()
        try:
            changed = self.base.with_(**change.choices)
            settings = changed.engine_settings
            builds = engine_class(settings.get("engine", "torch")).builds and self.base.engines.built(settings) is None
            changed.engines.get(settings)
            if builds:
                self.built = max(self.built, self.clock.now() - begin)
            moved = self._moved(changed)
            texts, pairs = self._answered(changed, begin + share)
        except MomentsError as error:
            return unmeasured(change, str(error))
        rows = sorted(texts)
        few, theirs = self.part.take(rows), self.outputs.take(rows)
        made = concat([texts[row] for row in rows])
        worth = Worth(
            change.name, change.step, dict(change.choices), "unclear", lossless=change.lossless, answers=len(rows),
            divergence=float(self.base.task.divergence(theirs, made).mean()),
            answers_changed=float((~np.asarray(self.base.task.argmax_equal(made, theirs), bool)).mean()),
            **judged(few, few.scores(theirs, theirs), few.scores(made, theirs)), **savings(stats.ratio_interval(*pairs)),
        )  # fmt: skip
        return worth if moved is None else replace(worth, **along(moved, self._units()))

    def _units(self) -> np.ndarray | None:
        if self.whole is None or self.part.units is None:
            return None
        return np.asarray(self.part.units[self.whole.rows])

    def _moved(self, changed: Pipeline) -> Moved | None:
        """None where the distributions are the same, or its engine does not tell them: then its answers say all."""
        try:
            return self.whole.against(changed) if self.whole is not None else None
        except (EngineError, InputError):
            return None

    def _answered(self, changed: Pipeline, until: float) -> tuple[dict[int, Outputs], tuple[list[float], list[float]]]:
        """Its answers by row, and seconds of the baseline and of the change in pairs: as many rows at a time as it takes
        together. At least one pair; no further one after `until`."""
        n = len(self.seconds)
        size = min(max(int(changed.engine_settings.get("streams", 1)), 1), n)
        found: dict[int, Outputs] = {0: changed.outputs(self.part.values[:1])}
        pairs: tuple[list[float], list[float]] = ([], [])
        for turn in range(max(ROUNDS, math.ceil(n / size))):
            rows = [(turn * size + at) % n for at in range(size)]
            forget(changed)
            outputs, took = answered(changed, [self.part.values[row] for row in rows])
            found |= {row: outputs.take([at]) for at, row in enumerate(rows)}
            pairs[0].append(float(self.seconds[rows].sum()))
            pairs[1].append(took)
            if self.clock.now() + took > until:
                break
        return found, pairs
