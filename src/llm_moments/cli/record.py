"""Where time and memory go: the tree of steps, measured on your own examples.

Example: moments record my-model --data reviews.csv --limit 500 --html cost.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.asking import asking


@asking
def record(
    model: o.ModelArg,
    data: o.DataOpt,
    out: Annotated[Path | None, typer.Option("--out", parser=paths.path, help="Save the session as JSON.")] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=0, max=2, help="0: steps; 1: layers; 2: attention and MLP too.")
    ] = 1,
    text_column: o.Text = None,
    pair_column: o.Pair = None,
    encoding: o.Encoding = None,
    on_error: o.OnError = "fail",
    limit: o.Limit = None,
    asked: dict[str, Any] | None = None,
    set_: o.Set = None,
    plan: o.PlanFile = None,
    device: o.Device = "auto",
    format: o.Format = "human",
    json_: o.Json = False,
    html: o.Html = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", parser=paths.path, help="Write a Chrome trace, which Perfetto opens.")
    ] = None,
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
    from llm_moments.record.record import record as observe

    fmt = o.output_format(format, json_)
    o.free(out, html, trace, csv, parquet, data=data, overwrite=overwrite, tensorboard=tensorboard)
    examples = o.read_data(data, text_column, pair_column, None, encoding, on_error, limit)
    pipe = o.open_pipe(model, set_, plan, device, trust_remote_code, task, metric, asked)
    with o.progress(fmt) as tick:
        session = observe(pipe, examples, depth=depth, progress=tick)
    o.tell_skipped(examples)
    if out:
        session.save(out)
    if fmt == "json":
        o.print_json(session.to_dict())
    elif fmt == "human":
        from llm_moments.render.console import show_session, terminal

        show_session(session, terminal())
    write_views(html=html, trace=trace, tensorboard=tensorboard, csv=csv, parquet=parquet, session=session)
