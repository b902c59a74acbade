"""Vectors of texts by a sentence encoder, pooled and normalised as its folder says.

Example: moments embed my-encoder --data notes.csv --out vectors.parquet

Example: moments embed my-encoder "a text" --json"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import paths, tell
from llm_moments.cli.verb import verb


@verb
def embed(
    model: o.ModelArg,
    rows: o.Bare,
    opened: o.Embedding,
    said: o.Said,
    inputs: Annotated[list[str] | None, typer.Argument(metavar="TEXT…", help="Texts.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", envvar="MOMENTS_DATA", parser=paths.text, help="A file of texts, or - for stdin."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=paths.path, help="vectors.parquet (id, embedding) or vectors.npy (rows alone)."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="A text put before each input, such as 'query: ', if not the folder's."),
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    from llm_moments.base.errors import InputError
    from llm_moments.cli.bills import Cuts, row_of
    from llm_moments.cli.run import sparing
    from llm_moments.data.readers import given
    from llm_moments.data.tables import to_json
    from llm_moments.evaluate.embed import TASK, WRITTEN, vectors, write

    if inputs and data:
        raise InputError("give texts or --data, not both")
    if not inputs and not data and sys.stdin.isatty():
        raise InputError("nothing to make a vector of: give a text, --data FILE, or text on stdin")
    if out is not None and out.suffix.lower() not in WRITTEN:
        raise InputError(f"--out {out}: vectors are written as {' or '.join(WRITTEN)}")
    o.free(out, data=data or "-", overwrite=overwrite)
    pipe = opened.open(model, TASK)
    if prompt is not None:
        pipe = pipe.with_(**{"prefix.prompt": prompt})
    pipe = sparing(pipe, o.named_values(opened.set_, "--set"))
    source = given(inputs, on_error=rows.on_error, limit=rows.limit) if inputs else rows.read(data or "-")
    made = vectors(pipe, source, partial(_left_out, source))
    if out is None:
        cuts, count = Cuts(), 0
        for examples, outputs in made:
            for example, answer in zip(examples, pipe.task.answers(outputs), strict=True):
                cuts.add(answer)
                if said.fmt != "quiet":
                    print(to_json({"id": example.id, **row_of(answer)}) if said.fmt == "json" else answer.text)
            count += len(examples)
        cuts.tell(said.fmt)
    else:
        with tell.progress(said.fmt) as tick:
            count, cut = write(_ticking(made, tick), out)
        if cut and said.fmt != "quiet":
            print(
                f"note: {cut:,} tokens of texts that were too long were cut; the model never saw them", file=sys.stderr
            )
        if said.fmt == "json":
            tell.json({"out": str(out), "rows": count, "cut_tokens": cut, "skipped": dict(source.errors)})
        elif said.fmt == "human":
            print(f"{count:,} vectors in {out}")
    tell.skipped(source)
    if not count and not source.errors:
        raise InputError(f"{source.path}: there is no text in it")


def _left_out(source: Any, examples: Any, failed: Any) -> None:
    """Rows that the model fails on are named with their file, or left out and counted."""
    for at, why in sorted(failed.rows.items()):
        row = f"row {examples[at].id}: {why}"
        if source.on_error != "skip":
            raise failed.alone(f"{source.path}, {row}. Mend it or pass --on-error skip.")
        source.skipped(failed.kind, row)


def _ticking(made: Iterable[Any], tick: Any) -> Iterator[Any]:
    """The same, with progress told."""
    done = 0
    for some in made:
        done += len(some[0])
        tick(None, f"{done:,} texts")
        yield some
