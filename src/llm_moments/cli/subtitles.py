"""`run --format srt|vtt|txt` of sounds: what was said, on stdout, in a file, or a file each in a folder."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from llm_moments.base.errors import InputError, PlanError
from llm_moments.cli import tell
from llm_moments.cli.answered import answered, portions
from llm_moments.cli.options import Said

KINDS = ("srt", "vtt", "txt")
WITH_WORDS = ("srt", "vtt", "json")  # formats that words and their times are asked for


@dataclass(frozen=True)
class Transcribed(Said):
    """Also as subtitles, of what is said in sounds."""

    known: ClassVar[tuple[str, ...]] = (*Said.known, *KINDS)
    format: Annotated[
        str,
        typer.Option("--format", envvar="MOMENTS_FORMAT", help="human, json or quiet; of sounds also srt, vtt or txt."),
    ] = "human"


def kind_of(fmt: str, out: Path | None) -> str:
    """srt, vtt or txt, where the format or else the name of the file says so; '' for any other."""
    suffix = "" if out is None else out.suffix[1:].lower()
    if fmt in KINDS and suffix in KINDS and fmt != suffix:
        raise InputError(f"--format {fmt} and --out {out} do not go together")
    return fmt if fmt in KINDS else suffix if suffix in KINDS else ""


def one_file(out: Path | None) -> Path | None:
    """The place that is a file, not a folder of them."""
    return out if out is not None and out.suffix[1:].lower() in KINDS and not out.is_dir() else None


def timed(pipe: Any, kind: str, named: Any) -> Any:
    """The pipeline whose answers have words with their times, where the format shows them and its plan leaves that open.
    InputError for a model whose answers have no times."""
    if not pipe.task.timed_by:
        if kind in KINDS:
            raise InputError(f"{kind} is what was said and when: {pipe.task.name} has no times, --format human or json")
        return pipe
    if kind not in WITH_WORDS or set(pipe.task.timed_by) & set(named):
        return pipe
    other = pipe.with_(**pipe.task.timed_by)
    try:
        other.steps  # noqa: B018 (some plans have no times for single words: segments are shared out then)
    except PlanError:
        return pipe
    return other


def readable(pipe: Any, row: dict[str, Any]) -> dict[str, Any]:
    """An answer's fields as they are shown: segments of a length that can be read, where its words have times."""
    from llm_moments.data.subtitles import phrases

    segments = row.get("segments") if pipe.task.timed_by else None
    return {**row, "segments": phrases(segments)} if segments and all(s.get("words") for s in segments) else row


def text_of(answer: Any, kind: str) -> str:
    """The whole file of one answer."""
    from llm_moments.data import subtitles

    if kind == "txt":
        return f"{answer.text}\n" if answer.text else ""
    return (subtitles.srt if kind == "srt" else subtitles.vtt)(subtitles.cues(answer.segments))


class Files:
    """Where the answers go: a file for one sound, a folder for several. What is there already is left as it is unless
    overwrite is set, so that a folder is gone on with."""

    def __init__(self, out: Path, kind: str, overwrite: bool):
        self.out, self.kind, self.overwrite = out, kind, overwrite
        self.folder = one_file(out) is None
        self.names: Counter[str] = Counter()
        self.written = self.left = 0
        if self.folder and out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; give --out a folder, or a name that ends in .{kind}")

    def open(self, examples: Iterator[Any]) -> Iterator[Any]:
        """The examples whose file is not there yet."""
        for number, one in enumerate(examples, 1):
            if not self.folder and number > 1:
                raise InputError(f"{self.out} is one file, and there are several sounds: give --out a folder")
            place = self.place(one)
            if place.exists() and self.folder and not self.overwrite:
                self.left += 1
                continue
            yield one, place

    def place(self, example: Any) -> Path:
        if not self.folder:
            return self.out
        name = _stem(example)
        self.names[name] += 1
        return self.out / f"{name}{'' if self.names[name] == 1 else f'-{self.names[name]}'}.{self.kind}"

    def write(self, place: Path, answer: Any) -> None:
        from llm_moments.base.atomic import write_atomic

        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, text_of(answer, self.kind))
        self.written += 1


def _stem(example: Any) -> str:
    """What a sound's file is called, else its row."""
    from llm_moments.data.audio import source_of

    source = source_of(example.input)
    name = "" if source is None else Path(str(getattr(source, "name", source))).stem
    return name or f"row-{example.id}".replace("/", "-")


def show(samples: Any, source: Any, kind: str) -> int:
    """The one sound's on stdout: two would be no file of subtitles. Gives their number."""
    some = list(itertools.islice(source, 2))
    if len(some) > 1:
        raise InputError("there are several sounds: --out FOLDER writes a file for each")
    for _, answer in answered(samples, some, source):
        sys.stdout.write(text_of(answer, kind))
        if not answer.text:
            print("nothing was said", file=sys.stderr)
    return len(some)


def write(samples: Any, source: Any, kind: str, out: Path, overwrite: bool, fmt: str) -> int:
    """A file each. Gives the number of sounds, those with a file from before among them."""
    files = Files(out, kind, overwrite)
    places: dict[int, Path] = {}

    def asked() -> Iterator[Any]:
        for example, place in files.open(iter(source)):
            places[id(example)] = place
            yield example

    with tell.progress(fmt) as tick:
        for chunk in portions(samples.pipe, asked()):
            for example, answer in answered(samples, chunk, source):
                files.write(places[id(example)], answer)
                tick(None, f"{files.written:,} files")
            places.clear()
    if files.left:
        print(f"{files.left:,} were there already and were left as they are (--overwrite)", file=sys.stderr)
    if fmt == "json":
        tell.json({"out": str(out), "files": files.written, "left": files.left, "skipped": dict(source.errors)})
    elif fmt != "quiet":
        print(f"{files.written:,} {kind} {'file' if files.written == 1 else 'files'} in {out}")
    return files.written + files.left
