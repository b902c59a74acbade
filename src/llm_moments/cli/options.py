"""Options that several verbs share, and what is done with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_moments.cli import paths
from llm_moments.cli.settings import take

if TYPE_CHECKING:
    from llm_moments.core import Pipeline, Plan

FORMAT = ContextVar("format", default="human")  # of the verb that runs, for what is said beside its result
Config = Annotated[
    str | None,
    typer.Option("--config", envvar="MOMENTS_CONFIG", metavar="FILE", is_eager=True, callback=take, parser=paths.text,
                 help="Settings in TOML; the command line and MOMENTS_* variables come first."),
]  # fmt: skip
ModelArg = Annotated[
    str, typer.Argument(metavar="MODEL", parser=paths.text, help="A model folder, an artefact, or a hub id.")
]
DataOpt = Annotated[
    str,
    typer.Option(
        "--data",
        envvar="MOMENTS_DATA",
        parser=paths.text,
        help="CSV, TSV, JSONL, JSON, Parquet, .txt, .tab, IDX, a folder, or -.",
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        "--text-column", envvar="MOMENTS_TEXT_COLUMN", help="The column of texts or images, if it is not found."
    ),
]
Pair = Annotated[
    str | None, typer.Option("--pair-column", envvar="MOMENTS_PAIR_COLUMN", help="The column of second texts.")
]
Label = Annotated[
    str | None, typer.Option("--label-column", envvar="MOMENTS_LABEL_COLUMN", help="The column of references.")
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group-column", envvar="MOMENTS_GROUP_COLUMN",
        help="The column of users, documents or speakers, whose rows are not independent: each counts once.",
    ),
]  # fmt: skip
Encoding = Annotated[
    str | None, typer.Option("--encoding", envvar="MOMENTS_ENCODING", help="Of a text file that is not UTF-8.")
]
OnError = Annotated[
    str, typer.Option("--on-error", envvar="MOMENTS_ON_ERROR", help="fail, or skip and count bad rows.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first rows.")]
Device = Annotated[str, typer.Option("--device", envvar="MOMENTS_DEVICE", help="auto, cpu, cuda or mps.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One choice of the plan, such as truncate.max_length=64.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", parser=paths.path, help="A plan in TOML, in the place of the model's own.")
]
Task = Annotated[
    str | None,
    typer.Option("--task", envvar="MOMENTS_TASK", help="What the model is for, if it could be for several things: chat, text-generation, …"),
]  # fmt: skip
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="What texts are judged by: 'exact match', 'token F1', chrF, of speech WER or CER; without making any: likelihood (of the "
        "references), accuracy or 'normalised accuracy' (of the choices in a row).",
    ),
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code from the model folder.")]
Format = Annotated[str, typer.Option("--format", envvar="MOMENTS_FORMAT", help="human, json or quiet.")]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Html = Annotated[
    Path | None, typer.Option("--html", parser=paths.path, help="Write a report that needs nothing but a browser.")
]
TensorBoard = Annotated[
    Path | None, typer.Option("--tensorboard", parser=paths.path, help="Write scalars to this folder.")
]
Csv = Annotated[Path | None, typer.Option("--csv", parser=paths.path, help="Write the table as CSV.")]
Parquet = Annotated[Path | None, typer.Option("--parquet", parser=paths.path, help="Write the table as Parquet.")]


def output_format(chosen: str, as_json: bool) -> str:
    from llm_moments.base.errors import InputError

    if chosen not in ("human", "json", "quiet"):
        raise InputError(f"--format is human, json or quiet, not {chosen!r}")
    FORMAT.set(chosen)
    return "json" if as_json else chosen


def open_pipe(
    model: str, sets: list[str] | None, plan: Path | None, device: str, trust: bool, task: str | None = None,
    metric: str | None = None, asked: dict[str, Any] | None = None,
) -> Pipeline:  # fmt: skip
    """asked: choices of the plan that options of their own stand for (cli/asking.py); they come after --set."""
    from llm_moments.assembly.load import load
    from llm_moments.base.errors import InputError

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"--device is auto, cpu, cuda or mps, not {device!r}")
    if plan is not None and not plan.is_file():
        raise InputError(f"--plan {plan}: there is no such file")
    chosen = _plan(plan) if plan else None
    pipe = load(model, task=task, metric=metric, plan=chosen, device=device, trust_remote_code=trust)
    choices = {**named_values(sets, "--set"), **(asked or {})}
    return pipe.with_(**choices) if choices else pipe


def _plan(file: Path) -> Plan:
    from llm_moments.base.errors import PlanError
    from llm_moments.core import Plan

    try:
        return Plan.from_toml(file.read_text(encoding="utf-8-sig"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"--plan {file}: {error}") from error


def print_pieces(pieces: Iterable[str]) -> None:
    """Each piece as it comes."""
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def named_values(words: list[str] | None, option: str) -> dict[str, Any]:
    """NAME=VALUE words, values as JSON where they are."""
    from llm_moments.base.errors import PlanError

    choices: dict[str, Any] = {}
    for text in words or ():
        name, equals, value = text.partition("=")
        if not equals:
            wanted = "step.knob=value" if option == "--set" else "name=value"
            raise PlanError(f"{option} takes {wanted}, not {text!r}")
        try:
            choices[name] = json.loads(value)
        except ValueError:
            choices[name] = value
    return choices


def read_data(
    path: str, text: str | None = None, pair: str | None = None, label: str | None = None,
    encoding: str | None = None, on_error: str = "fail", limit: int | None = None, group: str | None = None,
) -> Any:  # fmt: skip
    from llm_moments.data.readers import read

    found = read(
        path, text=text, pair=pair, label=label, encoding=encoding, on_error=on_error, limit=limit, group=group
    )
    tell_notes(found)
    return found


def tell_notes(data: Any) -> None:
    """How the examples were taken, once each, on stderr; nothing with --format quiet."""
    if FORMAT.get() != "quiet":
        for said in data.notes:
            print(f"{data.path}: {said}", file=sys.stderr)
    data.notes.clear()


def free(*outputs: Path | None, data: str, overwrite: bool = False, tensorboard: Path | None = None) -> None:
    """Before anything is done: no output is the file of examples, none replaces what is there unasked, and each can be
    written as far as one can tell."""
    from llm_moments.base.errors import InputError, OutputExists

    for place in (p for p in outputs if p is not None):
        if place.exists():
            if Path(data).exists() and place.samefile(data):
                raise InputError(f"{place} is the file of examples itself; choose another place for what is written")
            if not overwrite:
                raise OutputExists(place)
            if place.is_dir():
                raise InputError(f"{place} is a folder; name a file that may be written there")
        _writable(place.parent)
    if tensorboard is not None:
        _writable(tensorboard)
        from llm_moments.render.tensorboard import Scalars

        Scalars.needed()


def _writable(folder: Path) -> None:
    import os

    from llm_moments.base.errors import InputError

    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; there can be nothing below it, such as {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} may not be written to; choose another place for what is written")


def tell_skipped(*sources: Any) -> None:
    """What `--on-error skip` left out, by kind, and the first rows of it; and what was noted while they were used."""
    for data in (source for source in sources if source is not None):
        tell_notes(data)
        if sum(data.errors.values()):
            kinds = ", ".join(f"{count} {kind}" for kind, count in data.errors.items())
            print(f"skipped rows{f' of {data.path}' if len(sources) > 1 else ''}: {kinds}", file=sys.stderr)
            for line in data.reported[:5]:
                print(f"  {line}", file=sys.stderr)


def tell_counted(counted: str) -> None:
    """Rows that are not independent of one another, where there are any."""
    if counted:
        print(f"counted once: {counted}", file=sys.stderr)


def print_json(value: Any) -> None:
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
