"""Options that several verbs share, and what is done with them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_moments.cli.settings import take

if TYPE_CHECKING:
    from llm_moments.core import Pipeline, Plan

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline

Config = Annotated[
    str | None,
    typer.Option("--config", envvar="MOMENTS_CONFIG", metavar="FILE", is_eager=True, callback=take,
                 help="Settings in TOML; the command line and MOMENTS_* variables come first."),
]  # fmt: skip
ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, an artefact, or a hub id.")]
DataOpt = Annotated[
    str,
    typer.Option(
        "--data", envvar="MOMENTS_DATA", help="CSV, TSV, JSONL, JSON, Parquet, .txt, .tab, IDX, a folder, or -."
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
PlanFile = Annotated[Path | None, typer.Option("--plan", help="A plan in TOML, in the place of the model's own.")]
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
Html = Annotated[Path | None, typer.Option("--html", help="Write a report that needs nothing but a browser.")]
TensorBoard = Annotated[Path | None, typer.Option("--tensorboard", help="Write scalars to this folder.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write the table as CSV.")]
Parquet = Annotated[Path | None, typer.Option("--parquet", help="Write the table as Parquet.")]


def output_format(chosen: str, as_json: bool) -> str:
    from llm_moments.errors import InputError

    if chosen not in ("human", "json", "quiet"):
        raise InputError(f"--format is human, json or quiet, not {chosen!r}")
    return "json" if as_json else chosen


def open_pipe(
    model: str, sets: list[str] | None, plan: Path | None, device: str, trust: bool, task: str | None = None,
    metric: str | None = None, asked: dict[str, Any] | None = None,
) -> Pipeline:  # fmt: skip
    """asked: choices of the plan that options of their own stand for (cli/asking.py); they come after --set."""
    from llm_moments.errors import InputError
    from llm_moments.model import load

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"--device is auto, cpu, cuda or mps, not {device!r}")
    if plan is not None and not plan.is_file():
        raise InputError(f"--plan {plan}: there is no such file")
    chosen = _plan(plan) if plan else None
    pipe = load(model, task=task, metric=metric, plan=chosen, device=device, trust_remote_code=trust)
    choices = {**named_values(sets, "--set"), **(asked or {})}
    return pipe.with_(**choices) if choices else pipe


def _plan(file: Path) -> Plan:
    from llm_moments.core import Plan
    from llm_moments.errors import PlanError

    try:
        return Plan.from_toml(file.read_text(encoding="utf-8-sig"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"--plan {file}: {error}") from error


def print_pieces(pieces: Iterable[str]) -> None:
    """Each piece as it comes; on a terminal without what would steer it (a model may write anything)."""
    shown = sys.stdout.isatty()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    for piece in pieces:
        print(CONTROL.sub("", piece) if shown else piece, end="", flush=True)
    print(flush=True)


def named_values(words: list[str] | None, option: str) -> dict[str, Any]:
    """NAME=VALUE words, values as JSON where they are."""
    from llm_moments.errors import PlanError

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
    from llm_moments.data import read

    return read(path, text=text, pair=pair, label=label, encoding=encoding, on_error=on_error, limit=limit, group=group)


def free(*outputs: Path | None, data: str, overwrite: bool = False) -> None:
    """Before anything is done: no output is the file of examples, and none replaces what is there unasked."""
    from llm_moments.errors import InputError, OutputExists

    for path in (p for p in outputs if p is not None and p.exists()):
        if Path(data).exists() and path.samefile(data):
            raise InputError(f"{path} is the file of examples itself; choose another place for what is written")
        if not overwrite:
            raise OutputExists(path)


def tell_skipped(data: Any) -> None:
    """What `--on-error skip` left out, by kind, and the first rows of it."""
    if sum(data.errors.values()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in data.errors.items())
        print(f"skipped rows: {kinds}", file=sys.stderr)
        for line in data.reported[:5]:
            print(f"  {line}", file=sys.stderr)


def tell_counted(counted: str) -> None:
    """Rows that are not independent of one another, where there are any."""
    if counted:
        print(f"counted once: {counted}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


@contextmanager
def progress(fmt: str) -> Iterator[Any]:
    """A callable (share done or None, message), shown as a bar with the time left on stderr."""
    if fmt == "quiet" or not sys.stderr.isatty():
        yield _plain(fmt)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda done, message: bar.update(task, completed=done, description=message)


def _plain(fmt: str) -> Any:
    import time

    last = [0.0]

    def tell(done: float | None, message: str) -> None:
        if fmt != "quiet" and time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            print(f"{'' if done is None else f'{done:4.0%} '}{message}", file=sys.stderr)

    return tell


def write_views(
    *, html: Path | None = None, tensorboard: Path | None = None, csv: Path | None = None, parquet: Path | None = None,
    **results: Any,
) -> None:  # fmt: skip
    """Writes the views that were asked for. results: session, worths, study, certificate, training."""
    from llm_moments.atomic import write_atomic

    if html:
        from llm_moments.render.html import report

        write_atomic(html, report(**results))
    if tensorboard:
        from llm_moments.render.tensorboard import write

        write(tensorboard, **{name: result for name, result in results.items() if name not in ("training", "learning")})
    if tensorboard and results.get("learning") is not None:
        from llm_moments.render.learning import write_scalars

        write_scalars(tensorboard, results["learning"])
    if csv or parquet:
        from llm_moments.render.table import rows, write_csv, write_parquet

        learning = results.get("learning")
        tables = [*(results.get(k) for k in ("session", "worths", "study")), learning.worths if learning else None]
        table = rows(next(r for r in tables if r is not None))
        if csv:
            write_csv(table, csv)
        if parquet:
            write_parquet(table, parquet)
