"""Answer texts: from the command line, a file, or stdin; in the order of the input.

Example: moments run my-model --data reviews.csv --out answers.jsonl

Example: moments run my-chat-model "Name a colour." --temperature 0.8 --samples 3 --timings

Example: cat article.txt | moments run my-chat-model "Summarise this in one sentence."

Example: moments run my-whisper talk.wav --out talk.srt
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_moments.base.visible import visible
from llm_moments.cli import options as o
from llm_moments.cli import paths, subtitles, tell
from llm_moments.cli.answered import answered, portions, together
from llm_moments.cli.bills import LINES, Cuts, line, row_of, tokens_told, usage_of
from llm_moments.cli.samples import Samples
from llm_moments.cli.sparing import sparing
from llm_moments.cli.verb import verb
from llm_moments.cli.words import taken
from llm_moments.data.tables import to_json

SHARED = 512  # rows that a worker is given at a time: fewer than a window, so that all of them have some


@verb
def run(
    model: o.ModelArg,
    rows: o.Bare,
    opened: o.Answering,
    said: subtitles.Transcribed,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT…", help="Texts to answer, files of sounds or images, a file of rows, or - for stdin."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", envvar="MOMENTS_DATA", parser=paths.text, help="A file of inputs, or - for stdin."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=paths.path,
            help="answers.jsonl, .csv, .tsv or .parquet; of sounds also .srt, .vtt, .txt or a folder of them. Goes on after an interruption.",
        ),
    ] = None,
    stock: Annotated[
        bool,
        typer.Option(
            "--stock", help="As transformers' own pipeline does it: rows as they come, nothing spared, its own engine."
        ),
    ] = False,
    overwrite: o.Overwrite = False,
    workers: Annotated[
        int, typer.Option("--workers", min=1, envvar="MOMENTS_WORKERS", help="Processes that answer a file together.")
    ] = 1,
) -> None:
    from llm_moments.base.errors import InputError
    from llm_moments.data.readers import given
    from llm_moments.data.watch import Watch

    if inputs and data:
        raise InputError("give texts or --data, not both")
    if not inputs and not data and sys.stdin.isatty():
        raise InputError("nothing to answer: give a text, --data FILE, or text on stdin")
    if workers > 1 and out is None:
        raise InputError("--workers answer a file together: give --out, too")
    if workers > 1 and opened.samples > 1:
        raise InputError("--samples are drawn by one process; leave out --workers")
    kind = subtitles.kind_of(said.fmt, out)
    single = out if not kind else subtitles.one_file(out)
    free = partial(o.free, single, overwrite=overwrite or not kind)
    free(data=data or "-")
    named = o.named_values(opened.set_, "--set")
    pipe = subtitles.timed(opened.open(model), kind or ("" if out else said.fmt), named)
    if not stock and opened.plan is None:
        pipe = sparing(pipe, named)
    samples = Samples(pipe, opened.samples)
    inputs, data = taken(pipe.task, inputs or (), data)
    free(data=data or "-")
    if (
        len(inputs) == 1
        and said.fmt == "human"
        and out is None
        and opened.samples == 1
        and _piece_by_piece(pipe, inputs[0], opened.timings)
    ):
        return
    watch = None if inputs or (data or "-") == "-" else Watch(str(data), content=out is not None)
    source = given(inputs, on_error=rows.on_error, limit=rows.limit) if inputs else rows.read(data or "-")
    if kind:
        count = (
            subtitles.write(samples, source, kind, out, overwrite, said.fmt)
            if out
            else subtitles.show(samples, source, kind)
        )
    elif out is None:
        count = _show(source, samples, said.fmt, watch, opened.timings)
    else:
        content = watch.content if watch else _content(inputs)
        count = _to_file(samples, source, content, out, overwrite, said.fmt, watch, workers, opened.timings)
    tell.skipped(source)
    if not count and not source.errors:
        raise InputError(f"{source.path}: there is no text in it")


def _content(inputs: list[str]) -> str:
    """What answers half written are known by: only those to the same content are gone on with. Of a file: its `Watch`."""
    if inputs:
        return hashlib.sha256(repr(inputs).encode("utf-8", "surrogateescape")).hexdigest()
    return f"stdin at {time.time_ns()}"  # nobody knows whether the next pipe holds the same


def _show(source: Any, samples: Samples, fmt: str, watch: Any, timings: bool) -> int:
    """Answers on stdout as they come; small windows, so that the first is soon there. Gives their number."""
    size, count, cuts = 1, 0, Cuts.of(samples.pipe)
    rows = samples.repeated(source)
    while some := list(itertools.islice(rows, size)):
        if watch:
            watch.check("The answers so far are of what it was.", inside=False)
        for example, answer in answered(samples, some, source):
            cuts.add(answer)
            if fmt == "json":
                print(
                    to_json(
                        {"id": example.id, **samples.told(example), **subtitles.readable(samples.pipe, row_of(answer))}
                    ),
                    flush=size == 1,
                )
            elif fmt == "human":
                print(line_of(answer, example.input), flush=size == 1)
                print(tokens_told(answer), end="")
            if timings and fmt == "human":
                print(f"({line(usage_of(answer))})", file=sys.stderr)
        count += len(some)
        size = min(size * 2, samples.pipe.window)
    if watch:
        watch.check("Begin again.")
    cuts.tell(fmt)
    return count


def _piece_by_piece(pipe: Any, asked: str, timings: bool) -> bool:
    """A made text is shown while it is made; False for a task that gives its answers whole."""
    from llm_moments.record.stream import Stream, generates

    if not generates(pipe):
        return False
    stream, cuts = Stream(pipe, asked), Cuts.of(pipe)
    tell.pieces(stream)
    print(tokens_told(stream.answer), end="")
    cuts.add(stream.answer)
    cuts.tell("human")
    if timings:
        print(f"({line(usage_of(stream.answer))})", file=sys.stderr)
    return True


def line_of(answer: Any, asked: Any) -> str:
    """One answer for a person: the text that was made, or label, score and the beginning of what was asked."""
    if not hasattr(answer, "label"):
        return str(answer.text)
    if isinstance(asked, dict) and "choices" in asked:  # the choice that was made, rather than the question
        asked = str(asked["choices"][int(answer.label)]) if isinstance(asked["choices"], list) else ""
    shown = asked if isinstance(asked, str) else getattr(asked, "name", None) or " | ".join(map(str, asked))
    score = "" if answer.score is None else f"{answer.score:.3f}"
    return f"{visible(answer.label)}\t{score}\t{visible(' '.join(shown.split())[:80])}"


def _to_file(
    samples: Samples,
    source: Any,
    told: str,
    out: Path,
    overwrite: bool,
    fmt: str,
    watch: Any,
    workers: int,
    timings: bool,
) -> int:
    """Gives the number of answers in the file. told: what identifies the content of the source."""
    from llm_moments.data.formats import about_rows
    from llm_moments.data.output import AnswerWriter

    pipe = samples.pipe
    total = min((n for n in (source.limit, about_rows(source.path)) if n), default=None)
    also = [*([f"{samples.count} samples"] if samples.count > 1 else ()), *(["timings"] if timings else ())]
    known = [pipe.model.digest, pipe.plan.key, told, json.dumps(source.columns), str(source.limit)]
    key = "/".join([*known, *also])
    cuts, bill = Cuts.of(pipe), timings or out.suffix.lower() in LINES
    with AnswerWriter(out, key, overwrite=overwrite) as writer, tell.progress(fmt) as tick:
        skips = source.on_error == "skip" and samples.count == 1
        left = (lambda one: source.skipped("left out before", f"row {one.id}")) if skips else None
        examples = iter(()) if writer.finished else writer.rest(samples.repeated(source), left)
        if writer.dropped:
            print(f"{writer.dropped:,} rows of {writer.partial} were damaged; they are answered again", file=sys.stderr)
        if writer.done and not writer.finished:
            print(f"going on after {writer.done:,} finished rows", file=sys.stderr)
        kept = (
            f"The rows finished before are kept in {writer.partial} for the file as it was; --overwrite begins again."
        )
        for found in _answers(samples, examples, source, workers):
            if watch:
                watch.check(kept, inside=False)
            rows: list[dict[str, Any]] = []
            try:
                for example, answer in found:
                    cuts.add(answer)
                    rows.append({"id": example.id, **samples.told(example), **row_of(answer, bill=bill)})
            finally:  # an engine that failed in the middle has answered the first of them
                writer.write(rows)
            whole = None if total is None else total * samples.count
            share = None if whole is None else min(writer.done / whole, 1.0)
            tick(share, f"{writer.done:,} rows" + ("" if whole is None else f" of about {whole:,}"))
        if watch and not writer.finished:
            watch.check(kept)
        count = writer.done
        if not count and not source.errors:
            writer.partial.unlink()
            return 0
        writer.finish()
    cuts.tell(fmt)
    if fmt == "json":
        tell.json({"out": str(out), "rows": count, "skipped": dict(source.errors)})
    elif fmt == "human":
        print(f"{count:,} answers in {out}")
    return int(count)


def _answers(
    samples: Samples, examples: Iterator[Any], source: Any, workers: int
) -> Iterator[Iterator[tuple[Any, Any]]]:
    """(example, answer) of each chunk, in this process or by workers."""
    pipe = samples.pipe
    if workers == 1:
        for chunk in portions(pipe, examples):
            yield answered(samples, chunk, source)
        return
    from llm_moments.assembly.executors.local import Local
    from llm_moments.base.errors import DataError, RowsFailed

    sent: deque[list[Any]] = deque()

    size = together(pipe) if pipe.task.streams else min(pipe.window, SHARED)

    def values() -> Iterator[list[Any]]:
        for chunk in iter(lambda: list(itertools.islice(examples, size)), []):
            sent.append(chunk)
            yield [example.input for example in chunk]

    with Local(pipe, workers) as executor:
        for outputs in executor.map(values()):
            chunk = sent.popleft()
            if isinstance(outputs, RowsFailed | DataError):  # told, or left out and counted, as in one process
                yield answered(samples, chunk, source)
            else:
                yield zip(chunk, pipe.task.answers(outputs), strict=True)
