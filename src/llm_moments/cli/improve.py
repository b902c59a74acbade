"""Find a cheaper plan that keeps the answers, and prove it on examples set apart; exit 3 if there is none,
4 if questions wait for answers.

Example: moments improve my-model --data reviews.csv --max-drop 0.01 --out improved/

Example: moments improve my-model --unlabelled traffic.jsonl --questions 100 --out improved/

A faster training is found by moments tune."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.verb import verb


@verb
def improve(
    model: o.ModelArg,
    rows: o.Rows,
    opened: o.Opened,
    tables: o.Tables,
    said: o.Said,
    data: Annotated[
        str | None, typer.Option("--data", envvar="MOMENTS_DATA", parser=paths.text, help=o.FORMATS)
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
    max_drop: Annotated[float, o.MaxDrop] = 0.01,
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
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.base.errors import InputError
    from llm_moments.cli.improving import Call, go
    from llm_moments.cli.training import faster, older, refuse, settings_named

    if not data and (train or not unlabelled):
        raise InputError(f"give examples: --data FILE{'' if train else ', or some without labels: --unlabelled FILE'}")
    if train:
        older("improve", "tune")
        refuse(
            {
                "--plan": opened.plan, "--trust-remote-code": opened.trust_remote_code or None, "--heal": heal or None,
                "--heal-data": heal_data, "--first": first, "--objective": objective if objective != "throughput" else None,
                "--csv": tables.csv, "--parquet": tables.parquet, "--max-drop": max_drop if max_drop != 0.01 else None,
                "--tensorboard": tables.tensorboard, "--group-column": rows.group_column, "--unlabelled": unlabelled,
                "--questions": questions, **opened.choices(),
            },
            "--train",
        )  # fmt: skip
        faster(
            model, rows.read(str(data)), rows.judged(evaluate), said, budget=budget, max_rise=max_rise,
            settings=settings_named(opened.set_), out=out, overwrite=overwrite, device=opened.device,
        )  # fmt: skip
        return
    refuse({"--eval": evaluate, "--max-rise": max_rise}, without="--train")
    if not unlabelled:
        refuse({"--questions": questions}, without="--unlabelled")
    call = Call(
        model, str(out), data, unlabelled, questions or 100, max_drop, objective, budget, heal, heal_data, first,
        asked=opened.choices(), choices=opened.set_, plan=str(opened.plan) if opened.plan else None, device=opened.device,
        task=opened.task, metric=opened.metric, trust_remote_code=opened.trust_remote_code, **asdict(rows),
    )  # fmt: skip
    go(call, said, tables, overwrite=overwrite)
