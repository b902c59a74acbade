"""What one change of the plan would save and lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from llm_moments.base import schema
from llm_moments.base.views import drawn

Verdict = Literal["free", "cheap", "needed", "harmful", "helps", "unclear", "unavailable"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Worth:
    """One change and its price. Drops are of the mean score (1 = everything), times are shares.

    saving: share of the baseline's time that the change saves (0.25: a quarter), with its interval;
    None where it was not measured. drop > 0 is a loss. harmful / beneficial: answers changed for
    worse / better. divergence: mean Jensen-Shannon divergence of the outputs, in nats, or of texts the share that is
    not the same. kl (with its interval), nll: of models that make texts, along the baseline's own answers, mean nats a
    token: how far the next token's distribution moves, and how much less likely the text becomes; tokens_changed: share
    of those tokens at which another one becomes the likeliest; answers_changed: share of `answers` texts that are other
    ones. lossless: no answer should change by it. verdict: free
    (equivalent and no slower), cheap (a small certain price), needed, harmful (leaving it out improves
    the answers), helps (a change of the training that improves them), unclear (see `needs`), unavailable (see `reason`). p: Holm-corrected p-value.
    """

    name: str
    step: str
    change: Mapping[str, Any]
    verdict: Verdict
    saving: float | None = None
    saving_low: float | None = None
    saving_high: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    harmful: int | None = None
    beneficial: int | None = None
    divergence: float | None = None
    p: float | None = None
    n: int = 0
    needs: int | None = None
    screened: float | None = None
    kl: float | None = None
    nll: float | None = None
    kl_low: float | None = None
    kl_high: float | None = None
    tokens_changed: float | None = None
    answers_changed: float | None = None
    answers: int | None = None
    lossless: bool = False
    ablated: bool = True
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Saved:
    about: Mapping[str, Any]
    items: tuple[Worth, ...]


class Worths(list[Worth]):
    """The list that `weigh` gives, with what is true of all of it."""

    def __init__(self, items: Any = (), **about: Any):
        super().__init__(items)
        self.about: dict[str, Any] = about  # metric, baseline_score, n, labelled, rank_correlation, screen, seconds

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "worth", "format": 1, "about": self.about, "items": [w.to_dict() for w in self]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Worths:
        found = schema.result(data, "worth", _Saved)
        made = cls(found.items)
        made.about = dict(found.about)
        return made

    def _repr_html_(self) -> str:
        return drawn("worths", self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while weighing. worths: what was measured until then."""

    def __init__(self, worths: Worths):
        super().__init__("interrupted")
        self.worths = worths
