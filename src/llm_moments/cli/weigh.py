"""What every single change of the plan would save and lose: lengths, layers, precisions, engines.

Example: moments weigh my-model --data reviews.csv --limit 1000 --html worth.html

What the steps of a training are worth: moments tune --weigh."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def weigh(
    model: o.ModelArg,
    data: o.DataOpt,
    rows: o.Rows,
    opened: o.Opened,
    views: o.NoTrace,
    said: o.Said,
    out: Annotated[Path | None, typer.Option("--out", parser=paths.path, help="Save the list as JSON.")] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", envvar="MOMENTS_MAX_DROP", help="A smaller drop than this counts as none.")
    ] = 0.01,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Leave out every layer on all examples, however many there are.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", hidden=True, help="Now: moments tune --weigh.")] = False,
    evaluate: Annotated[
        str | None,
        typer.Option("--eval", hidden=True, parser=paths.text, help="With --train: examples to judge by."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            envvar="MOMENTS_BUDGET",
            help="Time for all of it, 10m if nothing is said; what promises most is measured first, and the end "
            "names what was not, with the time that would do.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", hidden=True, help="With --train: runs of each change.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.cli.training import older, priced, refuse, settings_named
    from llm_moments.weigh.weigh import BUDGET
    from llm_moments.weigh.weigh import weigh as ablate
    from llm_moments.weigh.worth import Interrupted

    if train:
        older("weigh", "tune --weigh")
        wrong = {
            "--plan": opened.plan,
            "--trust-remote-code": opened.trust_remote_code or None,
            "--group-column": rows.group_column,
        }
        refuse({**wrong, **opened.choices()}, "--train")
        priced(
            model, data, evaluate, rows, said, views, budget=budget, seeds=seeds, settings=settings_named(opened.set_),
            max_drop=max_drop, exhaustive=exhaustive, out=out, overwrite=overwrite, device=opened.device,
        )  # fmt: skip
        return
    refuse({"--eval": evaluate, "--seeds": seeds}, without="--train")
    views.free(out, data=data, overwrite=overwrite)
    examples = rows.read(data)
    pipe = opened.open(model)
    stopped = False
    try:
        with tell.progress(said.fmt) as tick:
            worths = ablate(
                pipe, examples, max_drop=max_drop, exhaustive=exhaustive, budget=budget or BUDGET, progress=tick
            )
    except Interrupted as cut:
        worths, stopped = cut.worths, True
    tell.skipped(examples)
    tell.counted(worths.about.get("counted", ""))
    tell.busy(worths.about.get("busy", ""))
    if out:  # first of all: what comes after may fail
        from llm_moments.base.atomic import write_atomic

        write_atomic(out, json.dumps(worths.to_dict(), indent=1))
    said.tell(worths, "console:show_worths")
    views.write(worths=worths)
    if said.fmt != "quiet":
        _tell_missing(worths.about)
    if stopped:
        raise KeyboardInterrupt


def _tell_missing(about: dict[str, Any]) -> None:
    """On stderr, what there was no time for."""
    if not (missing := about.get("not_measured")):
        return
    some = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
    would = about.get("budget_that_would_do")
    cure = f"; about --budget {would} would do" if would else ""
    print(f"not measured: {some}{cure}", file=sys.stderr)
