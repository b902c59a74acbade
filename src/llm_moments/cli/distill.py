"""Make a smaller model that answers as a larger one does; the examples need no labels.

Example: moments distill my-model --data texts.csv --student layers=3 --out small-model"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths


def distill(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", parser=paths.text, help="A model folder, an artefact, or a hub id.")
    ],
    data: o.DataOpt,
    out: Annotated[Path, typer.Option("--out", parser=paths.path, help="The folder that the student is saved to.")],
    student: Annotated[
        str,
        typer.Option(
            "--student",
            parser=paths.text,
            help="What it keeps of the teacher: layers=half, layers=third, layers=3, layers=0,2,5; of each layer "
            "heads=half, neurons=half or their numbers; together as 'layers=3 heads=half neurons=half'; as-is for all. Or a "
            "model folder. Of images also width=half (third, quarter) of a cnn's channels, or cnn: a new one.",
        ),
    ] = "layers=half",
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--eval", parser=paths.text, help="Examples to judge by; without labels, by the teacher's answers."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="By which both answers are softened.")] = 2.0,
    hidden: Annotated[float, typer.Option("--hidden", help="Weight of the hidden states; 0: answers only.")] = 0.0,
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", help="int8: the student learns to bear an engine in int8; its weights stay float."),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the data.")] = 5,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows of one batch.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="At its peak; 0.0003 (cnn: 0.001).")
    ] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Tokens; else the teacher's.")] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Pixels of each side; else the teacher's.")
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option("--model-option", metavar="NAME=VALUE", help="Of a new cnn: channels=[32,64], hidden=512 …."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the order and the dropout.")] = 0,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", metavar="STEPS", help="Updates; 0: after each epoch.")
    ] = 0,
    text_column: o.Text = None,
    pair_column: o.Pair = None,
    label_column: o.Label = None,
    encoding: o.Encoding = None,
    on_error: o.OnError = "fail",
    limit: o.Limit = None,
    device: o.Device = "auto",
    format: o.Format = "human",
    json_: o.Json = False,
    html: o.Html = None,
    overwrite: o.Overwrite = False,
    trust_remote_code: o.Trust = False,
    config: o.Config = None,
) -> None:
    import sys

    from llm_moments.cli.views import write_views
    from llm_moments.train.distill import distill as learn

    fmt = o.output_format(format, json_)
    columns = (text_column, pair_column, label_column, encoding, on_error)
    o.free(html, data=data, overwrite=True)
    examples = o.read_data(data, *columns, limit)
    judged = o.read_data(evaluate, *columns) if evaluate else None
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "seed": seed, "checkpoint_every": checkpoint_every,
        "model_options": o.named_values(model_option, "--model-option"),
    }  # fmt: skip
    said = {"learning_rate": learning_rate, "max_length": max_length, "image_size": image_size}
    settings |= {name: value for name, value in said.items() if value is not None}
    pipe = o.open_pipe(teacher, None, None, device, trust_remote_code)
    with o.progress(fmt) as tick:
        done = learn(
            pipe, examples, out, student=student, evaluate=judged, temperature=temperature, hidden=hidden,
            quantize=quantize, overwrite=overwrite, progress=tick, device=device, **settings,
        )  # fmt: skip
    o.tell_skipped(examples)
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if fmt == "json":
        o.print_json(done.to_dict())
    elif fmt == "human":
        from llm_moments.render.console import show_training, terminal

        show_training(done, terminal())
    write_views(html=html, session=done.session, training=done)
