"""Hold B against A on the same examples, paired; exit 3 when it loses more than --max-drop.

Example: moments compare my-model improved/ --data test.csv --max-drop 0.01

Two engines of one model: moments compare my-model --a forward.engine=torch --b forward.engine=openvino --data test.csv"""

from __future__ import annotations

from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def compare(
    a: Annotated[str, typer.Argument(parser=paths.text, help="Model, artefact or hub id that counts as the baseline.")],
    data: o.DataOpt,
    rows: o.Rows,
    judging: o.Judging,
    said: o.Said,
    b: Annotated[
        str | None,
        typer.Argument(parser=paths.text, help="The one that is held against it; the same model if only --b is given."),
    ] = None,
    of_a: Annotated[
        list[str] | None, typer.Option("--a", help="A choice of A's plan alone, such as forward.engine=torch.")
    ] = None,
    of_b: Annotated[
        list[str] | None, typer.Option("--b", help="A choice of B's plan alone, such as decode.lookup=5.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", envvar="MOMENTS_BUDGET", help="Time for all of it, such as 90s: as many rows as fit."),
    ] = None,
    max_drop: Annotated[float | None, o.MaxDrop] = None,
) -> None:
    from llm_moments.evaluate.compare import compare as held

    examples = rows.read(data)
    with tell.progress(said.fmt) as tick:
        found = held(
            a, b, examples, max_drop=max_drop, progress=tick, device=judging.device, task=judging.task,
            metric=judging.metric, plan=judging.choices(), budget=budget,
            choices=(o.named_values(of_a, "--a"), o.named_values(of_b, "--b")),
        ).to_dict()  # fmt: skip
    tell.skipped(examples)
    tell.counted(found["counted"])
    tell.busy(found["busy"])
    said.tell(found, "console:show_comparison")
    if found["within"] is False:
        raise typer.Exit(3)
