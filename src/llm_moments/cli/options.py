"""Options that several verbs share, and what is done with them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from llm_moments.cli import paths, tell
from llm_moments.cli.settings import take
from llm_moments.cli.verb import Options

if TYPE_CHECKING:
    from llm_moments.core import Pipeline, Plan

Config = Annotated[
    str | None,
    typer.Option("--config", envvar="MOMENTS_CONFIG", metavar="FILE", is_eager=True, callback=take, parser=paths.text,
                 help="Settings in TOML; the command line and MOMENTS_* variables come first."),
]  # fmt: skip
ModelArg = Annotated[
    str, typer.Argument(metavar="MODEL", parser=paths.text, help="A model folder, an artefact, or a hub id.")
]
FORMATS = "CSV, TSV, JSONL, JSON, Parquet, .txt, .tab, IDX, a folder, or -."
DataOpt = Annotated[str, typer.Option("--data", envvar="MOMENTS_DATA", parser=paths.text, help=FORMATS)]
DeviceOpt = Annotated[str, typer.Option("--device", envvar="MOMENTS_DEVICE", help="auto, cpu, cuda or mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
MaxDrop = typer.Option("--max-drop", envvar="MOMENTS_MAX_DROP", help="Most that the score may drop; 0.01 is a point.")


@dataclass(frozen=True)
class Rows(Options):
    """How a file of examples is read."""

    text_column: Annotated[
        str | None,
        typer.Option(
            "--text-column", envvar="MOMENTS_TEXT_COLUMN", help="The column of texts or images, if it is not found."
        ),
    ] = None
    pair_column: Annotated[
        str | None, typer.Option("--pair-column", envvar="MOMENTS_PAIR_COLUMN", help="The column of second texts.")
    ] = None
    label_column: Annotated[
        str | None, typer.Option("--label-column", envvar="MOMENTS_LABEL_COLUMN", help="The column of references.")
    ] = None
    group_column: Annotated[
        str | None,
        typer.Option(
            "--group-column",
            envvar="MOMENTS_GROUP_COLUMN",
            help="The column of users, documents or speakers, whose rows are not independent: each counts once.",
        ),
    ] = None
    encoding: Annotated[
        str | None, typer.Option("--encoding", envvar="MOMENTS_ENCODING", help="Of a text file that is not UTF-8.")
    ] = None
    on_error: Annotated[
        str, typer.Option("--on-error", envvar="MOMENTS_ON_ERROR", help="fail, or skip and count bad rows.")
    ] = "fail"
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first rows.")] = None

    def read(self, path: str, **other: Any) -> Any:
        """The examples of a file; other: in the place of these options."""
        from llm_moments.data.readers import read

        told = {name.removesuffix("_column"): value for name, value in asdict(self).items()}
        found = read(path, **{**told, **other})
        tell.notes(found)
        return found

    def judged(self, path: str | None) -> Any:
        """All rows of the file that a training is judged by; None without one."""
        return self.read(path, limit=None) if path else None


@dataclass(frozen=True)
class Labelled(Rows):
    without = ("group_column",)


@dataclass(frozen=True)
class Bare(Rows):
    without = ("label_column", "group_column")


@dataclass(frozen=True)
class Asked(Options):
    """How a model that makes texts is asked."""

    CHOICES: ClassVar[dict[str, str]] = {  # of the plan, that these options are
        "system": "template.system", "max_new_tokens": "decode.max_new_tokens", "temperature": "decode.temperature",
        "top_p": "decode.top_p", "seed": "decode.seed", "stop": "decode.stop",
    }  # fmt: skip
    system: Annotated[str | None, typer.Option("--system", help="System prompt of a dialogue that has none.")] = None
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")] = (
        None
    )
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="0: the likeliest token; above: drawn, more freely.")
    ] = None
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw from the likeliest tokens that have this share together.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of drawn tokens: the same draws the same.")] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="A text that ends an answer; may be given again.")
    ] = None

    def choices(self) -> dict[str, Any]:
        """Those that were given."""
        given = {choice: getattr(self, name) for name, choice in self.CHOICES.items()}
        return {choice: value for choice, value in given.items() if value is not None and value != []}


@dataclass(frozen=True)
class Opened(Asked):
    """How a model is opened."""

    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One choice of the plan, such as truncate.max_length=64.")
    ] = None
    plan: Annotated[
        Path | None, typer.Option("--plan", parser=paths.path, help="A plan in TOML, in the place of the model's own.")
    ] = None
    device: DeviceOpt = "auto"
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            envvar="MOMENTS_TASK",
            help="What the model is for, if it could be for several things: chat, text-generation, …",
        ),
    ] = None
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="What texts are judged by: 'exact match', 'token F1', contains (the reference), chrF, of speech WER or CER; without making any: likelihood (of the "
            "references), accuracy or 'normalised accuracy' (of the choices in a row).",
        ),
    ] = None
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code from the model folder.")] = (
        False
    )

    def open(self, model: str, task: str | None = None, also: Mapping[str, Any] | None = None) -> Pipeline:
        """The pipeline, with the choices that were given; those of options of their own, or also, come after --set's."""
        from llm_moments.assembly.load import load
        from llm_moments.base.errors import InputError

        known_device(self.device)
        if self.plan is not None and not self.plan.is_file():
            raise InputError(f"--plan {self.plan}: there is no such file")
        plan = _plan(self.plan) if self.plan else None
        pipe = load(
            model, task=task or self.task, metric=self.metric, plan=plan, device=self.device,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        choices = {**named_values(self.set_, "--set"), **(self.choices() if also is None else also)}
        return pipe.with_(**choices) if choices else pipe


@dataclass(frozen=True)
class Billed(Opened):
    """What is done with an input that is too long, and what is told beside an answer."""

    on_overflow: Annotated[
        str | None, typer.Option("--on-overflow", help="cut an input that is too long and say so (else), or fail.")
    ] = None
    timings: Annotated[
        bool,
        typer.Option("--timings", help="Tell what each answer took: tokens read, cut and made, why it ended, seconds."),
    ] = False

    def open(self, model: str, task: str | None = None, also: Mapping[str, Any] | None = None) -> Pipeline:
        from llm_moments.cli.bills import opened, overflowing

        begun = time.perf_counter()
        pipe = super().open(model, task, also)
        if self.timings:
            opened(time.perf_counter() - begun)
        return pipe if self.on_overflow is None else overflowing(pipe, self.on_overflow)


@dataclass(frozen=True)
class Answering(Billed):
    without = ("metric",)
    CHOICES: ClassVar[dict[str, str]] = {**Asked.CHOICES, "logprobs": "decode.logprobs"}
    logprobs: Annotated[
        int | None,
        typer.Option("--logprobs", min=0, help="Tell each token's log-probability, and of so many alternatives."),
    ] = None
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, max=1000, help="So many drawn answers to each input, with seeds from --seed on."
        ),
    ] = 1
    json_schema: Annotated[
        Path | None,
        typer.Option("--json-schema", parser=paths.path, help="A file with the JSON schema that answers keep to."),
    ] = None

    def choices(self) -> dict[str, Any]:
        schema = (
            {"decode.json_schema": paths.json_object(self.json_schema, "--json-schema")} if self.json_schema else {}
        )
        return {**super().choices(), **schema}


@dataclass(frozen=True)
class Embedding(Billed):
    without = (*Asked.CHOICES, "task", "metric", "timings")


@dataclass(frozen=True)
class Chatting(Billed):
    without = ("task", "metric")


@dataclass(frozen=True)
class Judging(Opened):
    without = ("set_", "plan", "trust_remote_code")


@dataclass(frozen=True)
class Explained(Opened):
    without = ("metric",)


@dataclass(frozen=True)
class Teaching(Opened):
    without = (*Asked.CHOICES, "set_", "plan", "task", "metric")


@dataclass(frozen=True)
class Said(Options):
    """How the result is told."""

    known: ClassVar[tuple[str, ...]] = ("human", "json", "quiet")
    format: Annotated[str, typer.Option("--format", envvar="MOMENTS_FORMAT", help="human, json or quiet.")] = "human"
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False
    config: Config = None

    def __post_init__(self) -> None:
        from llm_moments.base.errors import InputError

        if self.format not in self.known:
            *most, last = self.known
            raise InputError(f"--format is {', '.join(most)} or {last}, not {self.format!r}")
        tell.FORMAT.set("json" if self.json_ else self.format)

    @property
    def fmt(self) -> str:
        return "json" if self.json_ else self.format

    def tell(self, result: Any, shown: str) -> None:
        """The result, for a program or for a person. shown: "module:function" below render/ that prints it."""
        if self.fmt == "json":
            tell.json(result if isinstance(result, dict) else result.to_dict())
        elif self.fmt == "human":
            from llm_moments.render.console import terminal

            module, _, function = shown.partition(":")
            getattr(import_module(f"llm_moments.render.{module}"), function)(result, terminal())


@dataclass(frozen=True)
class Views(Options):
    """What else is written of a result."""

    html: Annotated[
        Path | None, typer.Option("--html", parser=paths.path, help="Write a report that needs nothing but a browser.")
    ] = None
    trace: Annotated[
        Path | None, typer.Option("--trace", parser=paths.path, help="Write a Chrome trace, which Perfetto opens.")
    ] = None
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", parser=paths.path, help="Write scalars to this folder.")
    ] = None
    csv: Annotated[Path | None, typer.Option("--csv", parser=paths.path, help="Write the table as CSV.")] = None
    parquet: Annotated[
        Path | None, typer.Option("--parquet", parser=paths.path, help="Write the table as Parquet.")
    ] = None

    def free(self, *others: Path | None, data: str, overwrite: bool = False) -> None:
        """Before anything is done: each of these and of the others can be written (`free`, below)."""
        free(
            *others,
            self.html,
            self.trace,
            self.csv,
            self.parquet,
            data=data,
            overwrite=overwrite,
            tensorboard=self.tensorboard,
        )

    def write(self, **results: Any) -> None:
        from llm_moments.cli.views import write_views

        write_views(**asdict(self), **results)


@dataclass(frozen=True)
class NoTrace(Views):
    without = ("trace",)


@dataclass(frozen=True)
class Tables(Views):
    without = ("html", "trace")


@dataclass(frozen=True)
class Page(Views):
    without = ("trace", "tensorboard", "csv", "parquet")


def known_device(device: str) -> None:
    from llm_moments.base.errors import InputError

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"--device is auto, cpu, cuda or mps, not {device!r}")


def _plan(file: Path) -> Plan:
    from llm_moments.base.errors import PlanError
    from llm_moments.core import Plan

    try:
        return Plan.from_toml(file.read_text(encoding="utf-8-sig"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"--plan {file}: {error}") from error


def named_values(words: list[str] | None, option: str) -> dict[str, Any]:
    """NAME=VALUE words, values as JSON where they are."""
    from llm_moments.base.errors import PlanError

    choices: dict[str, Any] = {}
    for text in words or ():
        name, equals, value = text.partition("=")
        if not equals:
            wanted = "step.knob=value" if option in ("--set", "--a", "--b") else "name=value"
            raise PlanError(f"{option} takes {wanted}, not {text!r}")
        try:
            choices[name] = json.loads(value)
        except ValueError:
            choices[name] = value
    return choices


def free(*outputs: Path | None, data: str, overwrite: bool = False, tensorboard: Path | None = None) -> None:
    """Before anything is done: no output is the file of examples, none replaces what is there unasked, and each can be
    written as far as one can tell."""
    from llm_moments.base.atomic import refuse_device
    from llm_moments.base.errors import InputError, OutputExists

    for place in (p for p in outputs if p is not None):
        if place.exists():
            if Path(data).exists() and place.samefile(data):
                raise InputError(f"{place} is the file of examples itself; choose another place for what is written")
            refuse_device(place)
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
