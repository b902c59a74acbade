"""The claim that is made of a plan, and the test it has passed or failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm_moments.base import schema
from llm_moments.base.errors import DataError
from llm_moments.base.views import drawn
from llm_moments.core import Outputs, Pipeline, Plan
from llm_moments.evaluate.evaluation import Evaluation, assumption

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Certificate:
    """With `confidence`, the mean score drops by less than `max_drop`, and the plan is at least
    `speedup_low` times faster (or smaller, …) than the baseline, on this data and this machine.

    drop and drop_high: points of the score, 1 = all. looks: how many candidates have been held
    against the certification split, in an order fixed before, up to the first that failed: so each may
    spend the whole error (stats.fixed_sequence). hand_speedup: over the plan set by hand. assumes: what the
    bound of the drop takes for granted, in words; empty where that is nothing. baseline: how it departs from the stock
    plan; empty where it is that. answers: how the baseline's answers were computed, if not by the baseline itself. asked: how the
    labels came about, if by questions.
    """

    certified: bool
    reason: str
    metric: str
    max_drop: float
    confidence: float
    drop: float | None
    drop_high: float | None
    baseline_score: float | None
    score: float | None
    n_certify: int
    harmful: int
    beneficial: int
    objective: str
    speedup: float | None
    speedup_low: float | None
    lossless_speedup: float | None
    hand_speedup: float | None
    looks: int
    labelled: bool
    needs: int | None
    plan: Mapping[str, Mapping[str, Any]]
    baseline_plan: Mapping[str, Mapping[str, Any]]
    model: str
    model_digest: str
    data: str
    environment: Mapping[str, Any]
    created: str = ""
    assumes: str = ""
    baseline: str = ""
    answers: str = ""
    asked: str = ""
    independent: int | None = None  # of the certification rows; None: not told (older certificates)
    counted: str = ""  # where not all rows are: how many, and what of them counts once
    busy: str = ""  # that others used the machine meanwhile

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "certificate", "format": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        found = schema.result(data, "certificate", cls)
        if found.certified and None in (found.drop, found.drop_high, found.speedup, found.speedup_low):
            raise DataError("it says that it is certified, and lacks the figures of the claim")
        return found

    def _busy(self) -> str:
        return f"{self.busy[0].upper()}{self.busy[1:]}." if self.busy else ""

    def words(self) -> str:
        """The claim, or why there is none, as sentences."""
        if not self.certified:
            more = f" About {self.needs:,} certification examples would be enough." if self.needs else ""
            counted = f" The certification has {self.counted}." if self.counted else ""
            return f"Not certified: {self.reason}{more}{counted}{self.baseline and f' {self.baseline}'}"
        behind = ""
        if self.hand_speedup is not None and self.hand_speedup < 0.95:
            behind = (
                f" A plan set by hand (sorted, the best single engine; classifiers cut where they were trained, texts made 8 together) is {1 / self.hand_speedup:.1f} "
                "times faster than this one, but it was not expected to keep the answers."
            )
        of = "the references" if self.labelled else "the baseline's own answers (no references were given)"
        more = "".join(
            f" {said}" for said in (self.asked, self.baseline, self.answers, self.assumes, self._busy()) if said
        )
        return (
            f"With {self.confidence:.0%} confidence the {self.metric} against {of} drops by less than "
            f"{self.max_drop:g} (measured {self.drop:+.4f}, bound {self.drop_high:+.4f}, on {f'{self.counted},' if self.counted else f'{self.n_certify:,} examples'} "
            f"not used for anything else; {self.harmful} answers changed for worse, {self.beneficial} for better), and "
            f"with {self.confidence:.0%} confidence {self.objective} is at least {self.speedup_low:.1f} times better "
            f"(measured {self.speedup:.1f}).{more}{behind}"
        )

    def _repr_html_(self) -> str:
        return drawn("certificate", self)


def named(pipe: Pipeline) -> str:
    """What the baseline is, where it is not the plan that transformers' own pipeline follows: a claim over a crippled
    plan must not read like one over the model."""
    changes = Plan(pipe.task.stock()).changes(pipe.plan)
    if not changes:
        return ""
    said = ", ".join(f"{name}={value}" for name, value in changes.items())
    return (
        f"The baseline is the plan that was given ({said[:200]}), not the stock plan: what that plan loses to it is no part "
        "of this claim."
    )


@dataclass(frozen=True)
class Look:
    """One candidate held against the certification split."""

    key: str
    passed: bool
    drop: float
    drop_high: float
    score: float | None  # None where only differing rows were labelled
    baseline_score: float | None
    harmful: int
    beneficial: int
    needs: int | None
    assumes: str = ""


def look(part: Evaluation, baseline: Outputs, outputs: Outputs, key: str, max_drop: float) -> Look:
    """The test of `drop < max_drop` on examples that nothing was chosen by. outputs: [n, classes]."""
    before, after = part.scores(baseline, baseline), part.scores(outputs, baseline)
    bound = part.drop(before, after)
    harmful, beneficial = part.flips(before, after)
    return Look(
        key, bound.high < max_drop, bound.estimate, bound.high, float(after.mean()), float(before.mean()),
        harmful, beneficial, part.needs(before, after, max_drop, CONFIDENCE), assumption(bound),
    )  # fmt: skip
