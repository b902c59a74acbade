"""Where a training lies: its folder while it goes on, the finished model's, and what tells it from any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_moments.base.atomic import recover, remove
from llm_moments.base.errors import OutputExists
from llm_moments.train import checkpoints
from llm_moments.train.settings import Settings
from llm_moments.train.training import RUN, Training

CHECKPOINTS = "checkpoints"
ADDED = ("updates",)


def digest_of(*parts: Sequence[Any]) -> str:
    """Of the inputs and references of examples."""
    digest = hashlib.sha256()
    for part in parts:
        for example in part:
            said = json.dumps([example.input, example.reference], default=str)
            digest.update(said.encode("utf-8", "surrogatepass"))
        digest.update(b"|")
    return digest.hexdigest()[:32]


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def asked_for(settings: Settings) -> dict[str, Any]:
    """The settings as a question keeps them. What a version before did not know is left out where it says nothing, so
    that trainings of that version are known again."""
    told: dict[str, Any] = plain(asdict(settings))
    return {name: value for name, value in told.items() if value or name not in ADDED}


def made_way(out: Path, question: Mapping[str, Any], overwrite: bool) -> Training | None:
    """This very training, if it is finished; None if it is to be begun or gone on with. OutputExists if
    the place is taken by anything else. What is at `out` stays until the new model takes its place."""
    run = run_folder(out)
    recover(out)
    if overwrite:
        if out.exists() and not ((out / RUN).exists() or (out / "config.json").exists()):
            raise OutputExists(out, "it is no model folder, so that --overwrite leaves it alone")
        remove(run)
    elif out.exists():
        if _asked(out) != question:
            raise OutputExists(out)
        remove(run)
        return Training.load(out)
    begun = any(checkpoints.found(run / CHECKPOINTS))  # what has no checkpoint yet is no loss
    if begun and _asked(run) != question:
        raise OutputExists(run, "it is a half-done training of another model, other data or other settings")
    return None


def run_folder(out: Path) -> Path:
    """Where the checkpoints of a training are until its model is done."""
    return out.with_name(f"{out.name}.training")


def _asked(folder: Path) -> Any:
    try:
        return json.loads((folder / RUN).read_text(encoding="utf-8"))["question"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
