"""What every single change of the plan would save and lose: lengths, layers, precisions, engines.

Example: moments weigh my-model --data reviews.csv --limit 1000 --html worth.html

What the steps of a training are worth: moments tune --weigh."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.asking import asking


@asking
def weigh(
    model: o.ModelArg,
    data: o.DataOpt,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=paths.path, help="Save the list as JSON."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", envvar="MOMENTS_MAX_DROP", help="A smaller drop than this counts as none.")
    ] = 0.01,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Leave out every layer on all examples, however many there are.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", hidden=True, help="Now: moments tune --weigh.")] = False,
    evaluate: Annotated[
        str | None,
        typer.Option("--eval", hidden=True, parser=paths.text, help="With --train: examples to judge by."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            envvar="MOMENTS_BUDGET",
            help="Time for all of it, 10m if nothing is said; what promises most is measured first, and the end "
            "names what was not, with the time that would do.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", hidden=True, help="With --train: runs of each change.")
    ] = None,
    text_column: o.Text = None,
    pair_column: o.Pair = None,
    label_column: o.Label = None,
    group_column: o.Group = None,
    encoding: o.Encoding = None,
    on_error: o.OnError = "fail",
    limit: o.Limit = None,
    asked: dict[str, Any] | None = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="One choice of the plan, such as truncate.max_length=64.",
        ),
    ] = None,
    plan: o.PlanFile = None,
    device: o.Device = "auto",
    format: o.Format = "human",
    json_: o.Json = False,
    html: o.Html = None,
    tensorboard: o.TensorBoard = None,
    csv: o.Csv = None,
    parquet: o.Parquet = None,
    task: o.Task = None,
    metric: o.Metric = None,
    overwrite: o.Overwrite = False,
    trust_remote_code: o.Trust = False,
    config: o.Config = None,
) -> None:
    from llm_moments.cli.views import write_views

    fmt = o.output_format(format, json_)
    if train:
        from llm_moments.cli.training import older, priced, refuse, settings_named

        older("weigh", "tune --weigh")
        refuse(
            {
                "--plan": plan,
                "--trust-remote-code": trust_remote_code or None,
                "--group-column": group_column,
                **(asked or {}),
            },
            "--train",
        )
        priced(
            model, data, evaluate, (text_column, pair_column, label_column, encoding, on_error), limit, fmt=fmt,
            budget=budget, seeds=seeds, settings=settings_named(set_), max_drop=max_drop, exhaustive=exhaustive, out=out,
            overwrite=overwrite, device=device, html=html, tensorboard=tensorboard, csv=csv, parquet=parquet,
        )  # fmt: skip
        return
    from llm_moments.cli.training import refuse

    refuse({"--eval": evaluate, "--seeds": seeds}, without="--train")
    o.free(out, html, csv, parquet, data=data, overwrite=overwrite, tensorboard=tensorboard)
    examples = o.read_data(data, text_column, pair_column, label_column, encoding, on_error, limit, group_column)
    from llm_moments.weigh.weigh import BUDGET
    from llm_moments.weigh.weigh import weigh as ablate
    from llm_moments.weigh.worth import Interrupted

    pipe = o.open_pipe(model, set_, plan, device, trust_remote_code, task, metric, asked)
    stopped = False
    try:
        with o.progress(fmt) as tick:
            worths = ablate(
                pipe, examples, max_drop=max_drop, exhaustive=exhaustive, budget=budget or BUDGET, progress=tick
            )
    except Interrupted as cut:
        worths, stopped = cut.worths, True
    o.tell_skipped(examples)
    o.tell_counted(worths.about.get("counted", ""))
    if out:  # first of all: what comes after may fail
        from llm_moments.base.atomic import write_atomic

        write_atomic(out, json.dumps(worths.to_dict(), indent=1))
    if fmt == "json":
        o.print_json(worths.to_dict())
    elif fmt == "human":
        from llm_moments.render.console import show_worths, terminal

        show_worths(worths, terminal())
    write_views(html=html, tensorboard=tensorboard, csv=csv, parquet=parquet, worths=worths)
    if fmt != "quiet":
        _tell_missing(worths.about)
    if stopped:
        raise KeyboardInterrupt


def _tell_missing(about: dict[str, Any]) -> None:
    """On stderr, what there was no time for."""
    if not (missing := about.get("not_measured")):
        return
    some = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
    would = about.get("budget_that_would_do")
    cure = f"; about --budget {would} would do" if would else ""
    print(f"not measured: {some}{cure}", file=sys.stderr)
