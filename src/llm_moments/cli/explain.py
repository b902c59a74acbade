"""One answer opened up: which parts of the input it rests on, what never reached the model, what layers and other plans
would change, and what it cost.

Example: moments explain my-model "The plot was thin, but I loved every minute."

Example: moments explain improved/ "A long text …" --parts sentences --html answer.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def explain(
    model: o.ModelArg,
    text: Annotated[str, typer.Argument(metavar="INPUT", parser=paths.text, help="A text, or the name of an image.")],
    opened: o.Explained,
    page: o.Page,
    said: o.Said,
    second: Annotated[
        str | None, typer.Option("--pair", parser=paths.text, help="The second text, of models that take two.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option("--parts", help="What the input is taken apart into: words (else), sentences, patches."),
    ] = None,
    depth: Annotated[
        int,
        typer.Option("--depth", min=0, max=2, help="0: parts; 1: layers and other plans; 2: attention and MLP too."),
    ] = 1,
    budget: Annotated[
        str,
        typer.Option("--budget", envvar="MOMENTS_BUDGET", help="Time after which layers and other plans are left out."),
    ] = "30s",
    out: Annotated[Path | None, typer.Option("--out", parser=paths.path, help="Save it as JSON.")] = None,
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.explain.explain import explain as opened_up

    page.free(out, data="-", overwrite=overwrite)
    pipe = opened.open(model)
    value = (text, second) if second is not None else text
    with tell.progress(said.fmt) as tick:
        found = opened_up(pipe, value, parts=parts, depth=depth, budget=budget, progress=tick)
    if out:
        found.save(out)
    said.tell(found, "explanation:show")
    page.write(explanation=found)
