"""Hold B against A on the same examples, paired; exit 3 when it loses more than --max-drop.

Example: moments compare my-model improved/ --data test.csv --max-drop 0.01"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.asking import asking


@asking
def compare(
    a: Annotated[str, typer.Argument(parser=paths.text, help="Model, artefact or hub id that counts as the baseline.")],
    b: Annotated[str, typer.Argument(parser=paths.text, help="The one that is held against it.")],
    data: o.DataOpt,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", envvar="MOMENTS_MAX_DROP", help="Most that the score may drop; 0.01 is a point."),
    ] = None,
    text_column: o.Text = None,
    pair_column: o.Pair = None,
    label_column: o.Label = None,
    group_column: o.Group = None,
    encoding: o.Encoding = None,
    on_error: o.OnError = "fail",
    limit: o.Limit = None,
    asked: dict[str, Any] | None = None,
    task: o.Task = None,
    metric: o.Metric = None,
    device: o.Device = "auto",
    format: o.Format = "human",
    json_: o.Json = False,
    config: o.Config = None,
) -> None:
    from llm_moments.evaluate.compare import compare as held

    fmt = o.output_format(format, json_)
    examples = o.read_data(data, text_column, pair_column, label_column, encoding, on_error, limit, group_column)
    with o.progress(fmt) as tick:
        found = held(
            a, b, examples, max_drop=max_drop, progress=tick, device=device, task=task, metric=metric, plan=asked
        ).to_dict()
    o.tell_skipped(examples)
    o.tell_counted(found["counted"])
    if fmt == "json":
        o.print_json(found)
    elif fmt == "human":
        from llm_moments.render.console import show_comparison, terminal

        show_comparison(found, terminal())
    if found["within"] is False:
        raise typer.Exit(3)
