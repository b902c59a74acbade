"""What every single change of the plan would save and lose: lengths, layers, precisions, engines.

Example: moments weigh my-model --data reviews.csv --limit 1000 --html worth.html"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o


def weigh(
    model: o.ModelArg,
    data: o.DataOpt,
    out: Annotated[Path | None, typer.Option("--out", help="Save the list as JSON.")] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", envvar="MOMENTS_MAX_DROP", help="A smaller drop than this counts as none.")
    ] = 0.01,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Leave out every layer on all examples, however many there are.")
    ] = False,
    text_column: o.Text = None,
    pair_column: o.Pair = None,
    label_column: o.Label = None,
    encoding: o.Encoding = None,
    on_error: o.OnError = "fail",
    limit: o.Limit = None,
    set_: o.Set = None,
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
    trust_remote_code: o.Trust = False,
    config: o.Config = None,
) -> None:
    from llm_moments.weigh.weigh import weigh as ablate

    fmt = o.output_format(format, json_)
    examples = o.read_data(data, text_column, pair_column, label_column, encoding, on_error, limit)
    pipe = o.open_pipe(model, set_, plan, device, trust_remote_code, task, metric)
    with o.progress(fmt) as tick:
        worths = ablate(pipe, examples, max_drop=max_drop, exhaustive=exhaustive, progress=tick)
    o.tell_skipped(examples)
    o.write_views(html=html, tensorboard=tensorboard, csv=csv, parquet=parquet, worths=worths)
    if out:
        from llm_moments.atomic import write_atomic

        write_atomic(out, json.dumps(worths.to_dict(), indent=1))
    if fmt == "json":
        o.print_json(worths.to_dict())
    elif fmt == "human":
        from llm_moments.render.console import show_worths, terminal

        show_worths(worths, terminal())
