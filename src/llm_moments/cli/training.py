"""What `tune` does with its options; `weigh --train` and `improve --train` are older words for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_moments.cli import options as o
from llm_moments.cli import tell


def refuse(given: Mapping[str, Any], beside: str = "", *, without: str = "") -> None:
    """No option is taken and then ignored: InputError for one that has no meaning here."""
    from llm_moments.base.errors import InputError

    if wrong := [name for name, value in given.items() if value is not None]:
        why = f"says nothing beside {beside}" if beside else f"goes with {without} only"
        raise InputError(f"{', '.join(wrong)} {why}; leave it out{'' if beside else f' or add {without}'}")


def older(verb: str, now: str) -> None:
    """Says how a flag that still works is called now."""
    print(f"note: moments {verb} --train is `moments {now}` now", file=sys.stderr)


def settings_named(words: list[str] | None, *, bare: bool = False) -> dict[str, Any]:
    """NAME=VALUE words as fields of the training's settings. bare: the name may stand without `train.`"""
    from llm_moments.base.errors import InputError

    made = {}
    for name, value in o.named_values(words, "--set").items():
        if not bare and not name.startswith("train."):
            raise InputError(
                f"with --train, --set takes settings of the training, such as train.epochs=2, not {name!r}"
            )
        field = name.removeprefix("train.").replace("-", "_")
        made[field] = tuple(value) if isinstance(value, list) else value
    return made


def settings_set(words: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE words as settings of a training; step.knob=VALUE ones as its choices of the plan."""
    named = o.named_values(words, "--set")
    made = {name.replace("-", "_"): value for name, value in named.items() if "." not in name}
    return {
        **{name: tuple(value) if isinstance(value, list) else value for name, value in made.items()},
        "choices": {name: value for name, value in named.items() if "." in name},
    }


def priced(
    model: str, data: str, evaluate: str | None, rows: o.Rows, said: o.Said, views: o.Views, *, budget: str | None,
    seeds: int | None, settings: dict[str, Any], max_drop: float, exhaustive: bool, out: Path | None, overwrite: bool, device: str,
) -> None:  # fmt: skip
    """`tune --weigh`."""
    from llm_moments.weigh.training import SEEDS, weigh_training

    views.free(data=data, overwrite=overwrite)
    examples, judged = rows.read(data), rows.judged(evaluate)
    with tell.progress(said.fmt) as tick:
        found = weigh_training(
            model, examples, evaluate=judged, budget=budget or "10m", max_drop=max_drop, exhaustive=exhaustive,
            seeds=SEEDS if seeds is None else seeds, out=out, progress=tick, device=device, **settings,
        )  # fmt: skip
    if out is not None:
        found.save(out / "worth.json")
    tell.skipped(examples, judged)
    said.tell(found, "learning:show")
    views.write(learning=found)


def faster(
    model: str, examples: Any, judged: Any, said: o.Said, *, budget: str, max_rise: float | None,
    settings: dict[str, Any], out: Path, overwrite: bool, device: str,
) -> None:  # fmt: skip
    """`tune`; exit 3 where no plan could be certified."""
    import typer

    from llm_moments.base.errors import InputError
    from llm_moments.improve.training import improve_training

    if judged is None:
        raise InputError("a training plan is judged by its validation loss: give examples with --eval")
    with tell.progress(said.fmt) as tick:
        done = improve_training(
            model, examples, evaluate=judged, out=out, budget=budget, max_rise=0.05 if max_rise is None else max_rise,
            overwrite=overwrite, progress=tick, device=device, **settings,
        )  # fmt: skip
    tell.skipped(examples, judged)
    said.tell(done, "training_certificate:show")
    if said.fmt == "human":
        from llm_moments.render.console import say, terminal

        made = f"settings: {out}/train.toml   (moments train MODEL --data … --config {out}/train.toml --out …)"
        say(terminal(), made, whole=True)
        say(terminal(), f"report:   {out}/report.html", whole=True)
    if not done.certified:
        raise typer.Exit(3)
