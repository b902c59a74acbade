"""Find a cheaper plan that keeps the answers, and prove it on examples set apart; exit 3 if there is none.

With --train: the fastest training plan that reaches the validation loss of the usual one (transformers' defaults), as a
file of settings for `moments train --config`.

Example: moments improve my-model --data reviews.csv --max-drop 0.01 --out improved/

Example: moments improve encoder/ --train --data train.csv --eval test.csv --budget 10m --out faster/"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.asking import asking


@asking
def improve(
    model: o.ModelArg,
    data: o.DataOpt,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", envvar="MOMENTS_MAX_DROP", help="Most that the score may drop; 0.01 is a point."),
    ] = 0.01,
    objective: Annotated[
        str, typer.Option("--objective", envvar="MOMENTS_OBJECTIVE", help="throughput, latency, memory or size.")
    ] = "throughput",
    budget: Annotated[
        str, typer.Option("--budget", envvar="MOMENTS_BUDGET", help="Time for all of it: 90s, 10m, 1h.")
    ] = "10m",
    out: Annotated[
        Path,
        typer.Option("--out", parser=paths.path, help="The artefact; the same command goes on with a study in it."),
    ] = Path("improved"),
    heal: Annotated[
        bool,
        typer.Option("--heal", help="Also teach models of a third or half of the layers, on a part of the examples."),
    ] = False,
    heal_data: Annotated[
        str | None,
        typer.Option("--heal-data", metavar="FILE", parser=paths.text, help="Or on these, which need no labels."),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--first", help="linear: train a linear model of words on a part of the examples, to be asked first."
        ),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Improve the training, not the answering.")] = False,
    evaluate: Annotated[
        str | None, typer.Option("--eval", parser=paths.text, help="With --train: examples to judge by.")
    ] = None,
    max_rise: Annotated[
        float | None,
        typer.Option("--max-rise", help="With --train: share by which the validation loss may rise; else 0.05."),
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
            help="One choice of the plan, such as truncate.max_length=64, or with --train of the usual "
            "training, such as train.epochs=2.",
        ),
    ] = None,
    plan: o.PlanFile = None,
    device: o.Device = "auto",
    format: o.Format = "human",
    json_: o.Json = False,
    tensorboard: o.TensorBoard = None,
    csv: o.Csv = None,
    parquet: o.Parquet = None,
    overwrite: o.Overwrite = False,
    task: o.Task = None,
    metric: o.Metric = None,
    trust_remote_code: o.Trust = False,
    config: o.Config = None,
) -> None:
    from llm_moments.cli.training import faster, refuse, settings_named
    from llm_moments.cli.views import write_views

    fmt = o.output_format(format, json_)
    if train:
        refuse(
            {
                "--plan": plan, "--trust-remote-code": trust_remote_code or None, "--heal": heal or None, "--heal-data": heal_data, "--first": first,
                "--objective": objective if objective != "throughput" else None, "--csv": csv, "--parquet": parquet,
                "--max-drop": max_drop if max_drop != 0.01 else None, "--tensorboard": tensorboard, "--group-column": group_column, **(asked or {}),
            },
            "--train",
        )  # fmt: skip
        columns = (text_column, pair_column, label_column, encoding, on_error)
        faster(
            model, o.read_data(data, *columns, limit), o.read_data(evaluate, *columns) if evaluate else None, fmt=fmt,
            budget=budget, max_rise=max_rise, settings=settings_named(set_), out=out, overwrite=overwrite, device=device,
        )  # fmt: skip
        return
    refuse({"--eval": evaluate, "--max-rise": max_rise}, without="--train")
    from llm_moments.improve.improve import improve as search

    o.free(csv, parquet, data=data, overwrite=True, tensorboard=tensorboard)
    examples = o.read_data(data, text_column, pair_column, label_column, encoding, on_error, limit, group_column)
    taught = o.read_data(heal_data, text_column, pair_column, None, encoding, on_error) if heal_data else None
    pipe = o.open_pipe(model, set_, plan, device, trust_remote_code, task, metric, asked)
    with o.progress(fmt) as tick:
        done = search(
            pipe,
            examples,
            max_drop=max_drop,
            objective=objective,
            budget=budget,
            out=out,
            overwrite=overwrite,
            progress=tick,
            heal=taught if taught is not None else heal,
            first=first,
        )
    o.tell_skipped(examples)
    o.tell_counted(done.certificate.counted)
    found = done.to_dict()
    if fmt == "json":
        o.print_json(found)
    elif fmt == "human":
        from llm_moments.render.console import show_improvement, terminal

        show_improvement(found, terminal())
    write_views(tensorboard=tensorboard, csv=csv, parquet=parquet, study=done.study, certificate=done.certificate)
    if not done.certified:
        raise typer.Exit(3)
