"""`explain --data`: explanations of a file's rows, kept as they are done, and what they have in common."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_moments.cli import options as o
from llm_moments.cli import tell


def go(
    pipe: Any, data: str, rows: o.Rows, page: o.Page, said: o.Said, *, parts: str | None, depth: int, budget: str | None,
    out: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Rows go to out (a table, with a journal while it is made) and an explanation each to the folder beside it."""
    from llm_moments.base.errors import InputError
    from llm_moments.data.watch import Watch
    from llm_moments.explain.over import BUDGET, Over
    from llm_moments.explain.overview import summed_up

    watch = None if data == "-" else Watch(data, content=out is not None)
    source = rows.read(data)
    over = Over(pipe, source, parts=parts, depth=depth, budget=budget or BUDGET)
    told = watch.content if watch else f"stdin at {time.time_ns()}"
    key = [
        pipe.model.digest,
        pipe.plan.key,
        told,
        json.dumps(source.columns),
        str(source.limit),
        str(parts),
        str(depth),
    ]
    with tell.progress(said.fmt) as tick:
        found = list(
            _kept(over, source, out, "/".join(key), overwrite, tick) if out else _explained(over, source, tick)
        )
    if not found and not source.errors:
        raise InputError(f"{source.path}: there is no row in it to explain")
    if watch:
        watch.check("Begin again.")
    notes = [f"There was no time for more than {len(found):,} rows (--budget)."] if over.left else []
    summary = summed_up([row for row, _ in found], model=pipe, data=source.path, seconds=over.seconds, notes=notes)
    said.tell(summary, "explanations:show")
    tell.skipped(source)
    if page.html:
        shown = [{**row, "page": _page(n, row, one, page.html)} for n, (row, one) in enumerate(found, 1)]
        page.write(overview=summary, explained=shown)


def _explained(over: Any, examples: Any, tick: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """(row, explanation) of each example."""
    from llm_moments.explain.overview import row_of

    for example, found in over(examples, tick):
        yield {"id": example.id, **row_of(found)}, found


def _kept(
    over: Any, source: Any, out: Path, key: str, overwrite: bool, tick: Any
) -> Iterator[tuple[dict[str, Any], Any]]:  # fmt: skip
    """The same, those of a call before that was cut short among them; each is on disk before the next is begun."""
    from llm_moments.data.output import AnswerWriter
    from llm_moments.explain.explanation import Explanation

    left_out = (lambda one: source.skipped("left out before", f"row {one.id}")) if source.on_error == "skip" else None
    with AnswerWriter(out, key, overwrite=overwrite) as writer:
        rest = iter(()) if writer.finished else writer.rest(iter(source), left_out)
        first = next(rest, None)  # the journal is looked through before what it holds is told
        if writer.done and not writer.finished:
            print(f"going on after {writer.done:,} finished rows", file=sys.stderr)
        for row in list(writer.kept()):
            yield row, Explanation.load(out.parent / row["explanation"])
        for row, found in _explained(over, itertools.chain(() if first is None else (first,), rest), tick):
            file = out.with_suffix(".rows") / f"{writer.done + 1}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            found.save(file)
            row["explanation"] = f"{file.parent.name}/{file.name}"
            writer.write([row])
            yield row, found
        if writer.done or source.errors:
            writer.finish()
        else:
            writer.partial.unlink()


def _page(number: int, row: dict[str, Any], found: Any, html: Path) -> str:
    """A page of its own for a row's explanation; gives where it is, as the page of all links to it."""
    from llm_moments.base.atomic import write_atomic
    from llm_moments.render.html import report

    folder = html.with_suffix(".rows")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{number}.html", report(explanation=found, title=f"row {row['id']}"))
    return f"{folder.name}/{number}.html"
