"""The fastest training that reaches the validation loss of the usual one (transformers' defaults), as a file of settings
for `moments train --config`; exit 3 if there is none.

With --weigh: what the steps of a training are worth, by short real trainings on the data: each block's gradients, each
block frozen, each augmentation, and how much more data would bring.

Example: moments tune encoder/ --data train.csv --eval test.csv --budget 10m --out faster/

Example: moments tune encoder/ --weigh --data train.csv --eval test.csv --html worth.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.verb import verb


@verb
def tune(
    model: o.ModelArg,
    data: o.DataOpt,
    rows: o.Labelled,
    views: o.NoTrace,
    said: o.Said,
    evaluate: Annotated[
        str | None,
        typer.Option("--eval", parser=paths.text, help="Examples to judge by; with --weigh else a fifth of the data."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=paths.path, help="A folder for the result, which the same command goes on with."),
    ] = None,
    weigh: Annotated[
        bool, typer.Option("--weigh", help="Price the steps of the training; search for nothing.")
    ] = False,
    budget: Annotated[str, typer.Option("--budget", envvar="MOMENTS_BUDGET", help="Time for all of it.")] = "10m",
    max_rise: Annotated[
        float | None, typer.Option("--max-rise", help="Share by which the validation loss may rise; else 0.05.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="With --weigh: a smaller drop counts as none; else 0.01.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="With --weigh: runs of each change; else 3.")] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="With --weigh: every block alone, however many there are.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the usual training, such as epochs=2 or translate_there=DIR."),
    ] = None,
    device: o.DeviceOpt = "auto",
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.cli.training import faster, priced, refuse, settings_named

    settings = settings_named(set_, bare=True)
    if weigh:
        refuse({"--max-rise": max_rise}, "--weigh")
        priced(
            model, data, evaluate, rows, said, views, budget=budget, seeds=seeds, settings=settings,
            max_drop=0.01 if max_drop is None else max_drop, exhaustive=exhaustive, out=out, overwrite=overwrite, device=device,
        )  # fmt: skip
        return
    refuse(
        {
            "--seeds": seeds, "--max-drop": max_drop, "--exhaustive": exhaustive or None, "--html": views.html,
            "--tensorboard": views.tensorboard, "--csv": views.csv, "--parquet": views.parquet,
        },
        without="--weigh",
    )  # fmt: skip
    faster(
        model, rows.read(data), rows.judged(evaluate), said, budget=budget, max_rise=max_rise, settings=settings,
        out=out or Path("tuned"), overwrite=overwrite, device=device,
    )  # fmt: skip
