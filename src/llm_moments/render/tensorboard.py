"""Results as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_moments.errors import EngineMissing


def write(
    folder: str | Path, *, session: Any = None, worths: Any = None, study: Any = None, certificate: Any = None
) -> None:
    """Steps' milliseconds and shares, changes' savings and drops, trials in their order, the claim."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise EngineMissing("tensorboard", "tensorboard") from error
    with SummaryWriter(str(folder)) as writer:
        if session is not None:
            for _, step in session.root.walk():
                writer.add_scalar(f"record/ms/{step.name}", step.wall_s * 1000)
        for worth in worths or ():
            _scalars(writer, f"weigh/{worth.name}", 0, saving=worth.saving, drop=worth.drop)
        for at, trial in enumerate(study or ()):
            _scalars(writer, "improve", at, gain=trial.gain, score=trial.score, drop=trial.drop)
        if certificate is not None:
            c = certificate
            _scalars(writer, "certificate", 0, speedup=c.speedup, drop=c.drop, drop_high=c.drop_high, score=c.score)


def _scalars(writer: Any, group: str, step: int, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None:
            writer.add_scalar(f"{group}/{name}", value, step)
