"""Go on with an improvement whose questions were answered; exit 4 while they wait, 3 if nothing can be certified.

`moments improve MODEL --unlabelled FILE --out OUT` puts the rows on which plans differ into OUT/questions.csv. Write the
right label into each (or, of texts, which answer is better: 1, 2 or equal); rows that are left empty count as harm.

Example: moments certify improved/

Example: moments certify improved/ --answers answered.csv"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths
from llm_moments.cli.verb import verb


@verb
def certify(
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=paths.path, help="The folder that `improve` asked in.")],
    tables: o.Tables,
    said: o.Said,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", parser=paths.path, help="The questions with their answers; else OUT/questions.csv."),
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Time for the rest: 90s, 10m, 1h.")] = None,
) -> None:
    from llm_moments.cli.improving import go, saved

    call = saved(out)
    call = replace(call, out=str(out), budget=budget or call.budget)
    go(call, said, tables, answers=answers)
