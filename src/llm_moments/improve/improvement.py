"""What `improve` gives back: the chosen pipeline, its certificate, and everything that was tried on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_moments.assembly.artefact import save
from llm_moments.base.views import drawn
from llm_moments.core import Pipeline
from llm_moments.improve.certify import Certificate
from llm_moments.improve.prefilter import alone
from llm_moments.improve.study import Trial, Trials
from llm_moments.record.session import Session
from llm_moments.weigh.worth import Worths

SAID = (
    "certified", "reason", "speedup", "speedup_low", "drop", "drop_high", "max_drop", "metric", "baseline_score", "score",
    "n_certify", "harmful", "beneficial", "lossless_speedup", "hand_speedup", "objective", "needs", "independent", "counted",
)  # fmt: skip


@dataclass(frozen=True)
class Improvement:
    """The chosen pipeline, the certificate, and everything that was tried on the way to it.

    elsewhere: what could be had at other budgets, as the search split lets expect. nearly: of a faster plan that failed
    by little, what would have been enough; empty if there is none. stands: whether an earlier certificate was kept.
    """

    pipeline: Pipeline
    certificate: Certificate
    study: Trials
    seconds: float
    folder: Path | None = None
    before: Session | None = None  # where the time went in the baseline, and goes now
    after: Session | None = None
    worths: Worths | None = None  # what each choice of the plan brings
    healing: Any = None  # seconds and examples of it, or why there was none; None where it was not asked for
    elsewhere: Sequence[Mapping[str, Any]] = ()
    nearly: str = ""
    stands: str = ""
    first: str = ""  # of the model that was put first
    waiting: int = 0  # questions without an answer that could bring more
    questions: Path | None = None

    @property
    def certified(self) -> bool:
        return self.certificate.certified

    def to_dict(self) -> dict[str, Any]:
        c = self.certificate
        return {
            "kind": "improvement",
            "format": 1,
            **{name: getattr(c, name) for name in SAID},
            "trials": len(self.study),
            "seconds": round(self.seconds, 1),
            "plan": self.pipeline.plan.to_dict(),
            "artefact": str(self.folder) if self.folder else None,
            "certificate": c.to_dict(),
            "front": [asdict(t) for t in front(self.study)],
            "healing": self.healing,
            "choices": [w.to_dict() for w in self.worths or ()],
            "elsewhere": [dict(one) for one in self.elsewhere],
            "nearly": self.nearly,
            "stands": self.stands,
            "first": self.first,
            "waiting": self.waiting,
            "questions": str(self.questions) if self.questions else None,
        }

    def report(self) -> str:
        return drawn(
            "report",
            session=self.before, after=self.after, worths=self.worths, certificate=self.certificate, study=self.study,
            elsewhere=self.elsewhere, nearly=" ".join(filter(None, (self.first, self.nearly))), title=f"llm-moments: {self.certificate.model}",
        )  # fmt: skip

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        certificate = self.certificate.to_dict()
        return save(self.pipeline, path, certificate=certificate, report=self.report(), overwrite=overwrite)

    def _repr_html_(self) -> str:
        return drawn("improvement", self.to_dict())


def front(trials: list[Trial]) -> list[Trial]:
    """Plans that no other plan beats in both gain and drop, dearest first: of those that answered the whole split."""
    kept: list[Trial] = []
    whole = max((t.n for t in trials if t.status == "ok"), default=0)
    tried = [t for t in trials if t.status == "ok" and t.n == whole and not alone(t)]
    done = [t for t in tried if t.gain is not None and t.drop is not None]
    for trial in sorted(done, key=lambda t: (-(t.gain or 0), t.drop or 0)):
        if not kept or (trial.drop or 0) < (kept[-1].drop or 0):
            kept.append(trial)
    return kept[::-1]
