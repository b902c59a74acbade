"""Find a cheaper plan that keeps the answers, and prove it on examples set apart; exit 3 if there is none,
4 if questions wait for answers.

Example: moments improve my-model --data reviews.csv --max-drop 0.01 --out improved/

Example: moments improve my-model --unlabelled traffic.jsonl --questions 100 --out improved/

A faster training is found by moments tune."""

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
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            envvar="MOMENTS_DATA",
            parser=paths.text,
            help="CSV, TSV, JSONL, JSON, Parquet, .txt, .tab, IDX, a folder, or -.",
        ),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            "--unlabelled",
            metavar="FILE",
            parser=paths.text,
            help="Examples to certify on, without labels: they are asked for where answers differ, in OUT/questions.csv.",
        ),
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", min=1, help="With --unlabelled: most questions; else 100.")
    ] = None,
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
            "--first",
            help="Of texts: linear (tried if you say nothing), a linear model of words that is asked first; or none.",
        ),
    ] = None,
    train: Annotated[bool, typer.Option("--train", hidden=True, help="Now: moments tune.")] = False,
    evaluate: Annotated[
        str | None, typer.Option("--eval", hidden=True, parser=paths.text, help="With --train: examples to judge by.")
    ] = None,
    max_rise: Annotated[
        float | None,
        typer.Option("--max-rise", hidden=True, help="With --train."),
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
    tensorboard: o.TensorBoard = None,
    csv: o.Csv = None,
    parquet: o.Parquet = None,
    overwrite: o.Overwrite = False,
    task: o.Task = None,
    metric: o.Metric = None,
    trust_remote_code: o.Trust = False,
    config: o.Config = None,
) -> None:
    from llm_moments.base.errors import InputError
    from llm_moments.cli.improving import Call, go
    from llm_moments.cli.training import faster, older, refuse, settings_named

    fmt = o.output_format(format, json_)
    if not data and (train or not unlabelled):
        raise InputError(f"give examples: --data FILE{'' if train else ', or some without labels: --unlabelled FILE'}")
    if train:
        older("improve", "tune")
        refuse(
            {
                "--plan": plan, "--trust-remote-code": trust_remote_code or None, "--heal": heal or None, "--heal-data": heal_data, "--first": first,
                "--objective": objective if objective != "throughput" else None, "--csv": csv, "--parquet": parquet,
                "--max-drop": max_drop if max_drop != 0.01 else None, "--tensorboard": tensorboard, "--group-column": group_column,
                "--unlabelled": unlabelled, "--questions": questions, **(asked or {}),
            },
            "--train",
        )  # fmt: skip
        columns = (text_column, pair_column, label_column, encoding, on_error)
        faster(
            model, o.read_data(str(data), *columns, limit), o.read_data(evaluate, *columns) if evaluate else None, fmt=fmt,
            budget=budget, max_rise=max_rise, settings=settings_named(set_), out=out, overwrite=overwrite, device=device,
        )  # fmt: skip
        return
    refuse({"--eval": evaluate, "--max-rise": max_rise}, without="--train")
    if not unlabelled:
        refuse({"--questions": questions}, without="--unlabelled")
    call = Call(
        model, str(out), data, unlabelled, questions or 100, max_drop, objective, budget, heal, heal_data, first, text_column,
        pair_column, label_column, group_column, encoding, on_error, limit, asked or {}, set_,
        str(plan) if plan else None, device, task, metric, trust_remote_code,
    )  # fmt: skip
    go(call, fmt, overwrite=overwrite, tensorboard=tensorboard, csv=csv, parquet=parquet)
