"""What is said beside a result, on stderr: progress, warnings, rows that were left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

FORMAT = ContextVar("format", default="human")  # of the verb that runs, for what is said beside its result


def pieces(pieces: Iterable[str]) -> None:
    """Each piece as it comes."""
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def waiting(stream: Any) -> Callable[[str], None]:
    """Tells what takes long on that stream, whatever stands in the place of stderr meanwhile; nothing with --format quiet."""

    def tell(said: str) -> None:
        if FORMAT.get() != "quiet":
            print(f"{said} …", file=stream, flush=True)

    return tell


def notes(data: Any) -> None:
    """How the examples were taken, once each, on stderr; nothing with --format quiet."""
    if FORMAT.get() != "quiet":
        for said in data.notes:
            print(f"{data.path}: {said}", file=sys.stderr)
    data.notes.clear()


def skipped(*sources: Any) -> None:
    """What `--on-error skip` left out, by kind, and the first rows of it; and what was noted while they were used."""
    for data in (source for source in sources if source is not None):
        notes(data)
        if sum(data.errors.values()):
            kinds = ", ".join(f"{count} {kind}" for kind, count in data.errors.items())
            print(f"skipped rows{f' of {data.path}' if len(sources) > 1 else ''}: {kinds}", file=sys.stderr)
            for line in data.reported[:5]:
                print(f"  {line}", file=sys.stderr)


def warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def counted(counted: str) -> None:
    """Rows that are not independent of one another, where there are any."""
    if counted:
        print(f"counted once: {counted}", file=sys.stderr)


def busy(said: str) -> None:
    """That others used the machine while figures were taken, where they did."""
    if said and FORMAT.get() != "quiet":
        print(f"note: {said}", file=sys.stderr)


def json(value: Any) -> None:
    from llm_moments.data.tables import to_json

    print(to_json(value, indent=1))


@contextmanager
def progress(fmt: str) -> Iterator[Any]:
    """A callable (share done or None, message), shown as a bar with the time left on stderr."""
    if fmt == "quiet" or not sys.stderr.isatty():
        yield _plain(fmt)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from llm_moments.cli.screen import Screen, raw
    from llm_moments.render.console import safe

    console = Console(file=raw(sys.stderr), emoji=False)
    columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        sys.stdout, sys.stderr = (
            Screen(sys.stdout),
            Screen(sys.stderr),
        )  # what is printed meanwhile stands above the bar
        task = bar.add_task("starting", total=1.0)
        yield lambda done, message: bar.update(task, completed=done, description=safe(message))


def _plain(fmt: str) -> Any:
    import time

    last = [0.0]

    def tell(done: float | None, message: str) -> None:
        if fmt != "quiet" and time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            print(f"{'' if done is None else f'{done:4.0%} '}{message}", file=sys.stderr)

    return tell
