"""Make a smaller model that answers as a larger one does; the examples need no labels.

Example: moments distill my-model --data texts.csv --student layers=3 --out small-model"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def distill(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", parser=paths.text, help="A model folder, an artefact, or a hub id.")
    ],
    data: o.DataOpt,
    out: Annotated[Path, typer.Option("--out", parser=paths.path, help="The folder that the student is saved to.")],
    rows: o.Labelled,
    teaching: o.Teaching,
    page: o.Page,
    said: o.Said,
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
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.train.distill import distill as learn

    page.free(data=data, overwrite=True)
    examples, judged = rows.read(data), rows.judged(evaluate)
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "seed": seed, "checkpoint_every": checkpoint_every,
        "model_options": o.named_values(model_option, "--model-option"),
    }  # fmt: skip
    rarer = {"learning_rate": learning_rate, "max_length": max_length, "image_size": image_size}
    settings |= {name: value for name, value in rarer.items() if value is not None}
    pipe = teaching.open(teacher)
    with tell.progress(said.fmt) as tick:
        done = learn(
            pipe, examples, out, student=student, evaluate=judged, temperature=temperature, hidden=hidden,
            quantize=quantize, overwrite=overwrite, progress=tick, device=teaching.device, **settings,
        )  # fmt: skip
    tell.skipped(examples, judged)
    tell.warnings(done.warnings)
    said.tell(done, "console:show_training")
    page.write(session=done.session, training=done)
