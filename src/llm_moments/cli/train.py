"""Fine-tune a text classifier from a model folder and a file of labelled examples.

Example: moments train encoder/ --data train.csv --eval test.csv --out my-model"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o


def train(
    model: o.ModelArg,
    data: o.DataOpt,
    out: Annotated[Path, typer.Option("--out", help="The folder that the model is saved to.")],
    evaluate: Annotated[
        str | None, typer.Option("--eval", help="Examples that the trained model is judged on.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the data.")] = 3,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows of one update.")] = 32,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of AdamW, at its peak.")] = 1e-4,
    max_length: Annotated[int, typer.Option("--max-length", help="Tokens a row is cut at.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Of the head, the order and the dropout.")] = 0,
    text_column: o.Text = None,
    pair_column: o.Pair = None,
    label_column: o.Label = None,
    encoding: o.Encoding = None,
    on_error: o.OnError = "fail",
    limit: o.Limit = None,
    format: o.Format = "human",
    json_: o.Json = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
) -> None:
    import json

    from llm_moments.model import NOTES
    from llm_moments.train.train import train as fine_tune

    fmt = o.output_format(format, json_)
    columns = (text_column, pair_column, label_column, encoding, on_error)
    examples = o.read_data(data, *columns, limit)
    judged = o.read_data(evaluate, *columns) if evaluate else None
    with o.progress(fmt) as tick:
        folder = fine_tune(
            model, examples, out, evaluate=judged, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
            max_length=max_length, seed=seed, overwrite=overwrite, progress=tick,
        )  # fmt: skip
    o.tell_skipped(examples)
    notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    if fmt == "json":
        o.print_json({"kind": "training", "out": str(folder), **notes})
    elif fmt == "human":
        print(f"saved {folder}")
        if "evaluation" in notes:
            e = notes["evaluation"]
            print(f"{e['metric']} {e['score']:.4f} on {e['n']:,} examples of {e['data']}")
