"""Where time and memory go: the tree of steps, measured on your own examples.

Example: moments record my-model --data reviews.csv --limit 500 --html cost.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def record(
    model: o.ModelArg,
    data: o.DataOpt,
    rows: o.Bare,
    opened: o.Opened,
    views: o.Views,
    said: o.Said,
    out: Annotated[Path | None, typer.Option("--out", parser=paths.path, help="Save the session as JSON.")] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=0, max=2, help="0: steps; 1: layers; 2: attention and MLP too.")
    ] = 1,
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.record.record import record as observe

    views.free(out, data=data, overwrite=overwrite)
    examples = rows.read(data)
    pipe = opened.open(model)
    with tell.progress(said.fmt) as tick:
        session = observe(pipe, examples, depth=depth, progress=tick)
    tell.skipped(examples)
    tell.busy(session.busy)
    if out:
        session.save(out)
    said.tell(session, "console:show_session")
    views.write(session=session)
