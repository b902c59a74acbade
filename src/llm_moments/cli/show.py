"""Render a saved result again: a session, a list of worth, an artefact.

Example: moments show improved/ --html report.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def show(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", parser=paths.path, help="A session.json, a worth.json, or an artefact folder."),
    ],
    views: o.NoTrace,
    said: o.Said,
) -> None:
    results = _load(path)
    if said.fmt == "json":
        first = results.get("training") or next(iter(results.values()))
        tell.json(first.to_dict())
    elif said.fmt == "human":
        from llm_moments.render.console import terminal

        _print(results, terminal())
    views.write(**results)


def _load(path: Path) -> dict[str, Any]:
    from llm_moments.assembly.artefact import is_artefact, verify
    from llm_moments.base import schema
    from llm_moments.base.errors import DataError
    from llm_moments.explain.explanation import Explanation
    from llm_moments.improve.certify import Certificate
    from llm_moments.improve.study import read_trials
    from llm_moments.improve.training_certificate import TrainingCertificate
    from llm_moments.record.session import Session
    from llm_moments.train.training import RUN, Training
    from llm_moments.weigh.learning import TrainingWorth
    from llm_moments.weigh.worth import Worths

    if is_artefact(path):
        verify(path)
        if not (path / "certificate.json").exists():
            raise DataError(f"{path} is an artefact without a certificate; there is nothing to show")
        certificate = schema.read(path / "certificate.json", "a certificate", Certificate.from_dict)
        return {"certificate": certificate, "study": read_trials(path / "study")}
    if (path / RUN).is_file():
        training = Training.load(path)
        return {"session": training.session, "training": training}
    if not path.is_file():
        raise DataError(f"{path} is neither a saved result, an artefact nor a model that `moments train` made")
    kinds: dict[Any, tuple[str, Any]] = {
        "session": ("session", Session), "worth": ("worths", Worths), "training-worth": ("learning", TrainingWorth),
        "training-certificate": ("faster", TrainingCertificate), "explanation": ("explanation", Explanation),
        "certificate": ("certificate", Certificate),
    }  # fmt: skip

    def built(data: Any) -> dict[str, Any]:
        kind = data.get("kind") if isinstance(data, dict) else None
        name, cls = kinds.get(kind, ("", None)) if isinstance(kind, str) else ("", None)
        if cls is None:
            raise DataError(f"its kind is {kind!r:.40}; known are {', '.join(kinds)}")
        return {name: cls.from_dict(data)}

    return schema.read(path, "a saved result", built)


def _print(results: dict[str, Any], console: Any) -> None:
    from llm_moments.render import console as views

    if "training" in results:
        views.show_training(results["training"], console)
    elif "session" in results:
        views.show_session(results["session"], console)
    if "faster" in results:
        from llm_moments.render import training_certificate as faster

        faster.show(results["faster"], console)
    if "explanation" in results:
        from llm_moments.render import explanation

        explanation.show(results["explanation"], console)
    if "learning" in results:
        from llm_moments.render.learning import show

        show(results["learning"], console)
    if "worths" in results:
        views.show_worths(results["worths"], console)
    if "certificate" in results:
        views.show_certificate(results["certificate"], console)
        if results.get("study"):
            views.show_trials(results["study"], console)
