"""Hold B against A on the same examples, paired; exit 3 when it loses more than --max-drop.

Example: moments compare my-model improved/ --data test.csv --max-drop 0.01"""

from __future__ import annotations

from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def compare(
    a: Annotated[str, typer.Argument(parser=paths.text, help="Model, artefact or hub id that counts as the baseline.")],
    b: Annotated[str, typer.Argument(parser=paths.text, help="The one that is held against it.")],
    data: o.DataOpt,
    rows: o.Rows,
    judging: o.Judging,
    said: o.Said,
    max_drop: Annotated[float | None, o.MaxDrop] = None,
) -> None:
    from llm_moments.evaluate.compare import compare as held

    examples = rows.read(data)
    with tell.progress(said.fmt) as tick:
        found = held(
            a, b, examples, max_drop=max_drop, progress=tick, device=judging.device, task=judging.task,
            metric=judging.metric, plan=judging.choices(),
        ).to_dict()  # fmt: skip
    tell.skipped(examples)
    tell.counted(found["counted"])
    said.tell(found, "console:show_comparison")
    if found["within"] is False:
        raise typer.Exit(3)
