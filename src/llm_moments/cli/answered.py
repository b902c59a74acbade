"""Rows and their answers, in their order: a row that is refused or that the model fails on is named, or left out and counted.
And how many rows are answered before they are kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from llm_moments.base.errors import DataError, RowsFailed
from llm_moments.cli.samples import Samples

SHORT_S, LONG_S = 2.0, 6.0  # a portion that took less is followed by a larger one, one that took more by a smaller one
CURE = "Mend it or pass --on-error skip."


def answered(samples: Samples, examples: Sequence[Any], source: Any) -> Iterator[tuple[Any, Any]]:
    """(example, answer) of those that have one. With `source.on_error` "fail" the first of the others is named with its
    file, after the answers before it; with "skip" each is left out and counted there."""
    samples.pipe.steps  # noqa: B018 (a plan that fits no row at all is no row's fault)
    done = 0
    try:
        for answer in samples.run(examples):
            yield examples[done], answer
            done += 1
        return
    except RowsFailed as error:
        failed, kind, alone = error.rows, error.kind, error.alone
    except DataError as error:
        yield from _refused(samples, examples[done:], source, error)
        return
    named = {at: f"row {examples[at].id}: {why}" for at, why in sorted(failed.items())}
    if source.on_error != "skip":
        at = min(named)
        yield from answered(samples, examples[done:at], source)
        raise alone(f"{source.path}, {named[at]}. {CURE}")
    for said in named.values():
        source.skipped(kind, said)
    yield from answered(samples, [e for at, e in enumerate(examples) if at >= done and at not in failed], source)


def _refused(samples: Samples, examples: Sequence[Any], source: Any, error: DataError) -> Iterator[tuple[Any, Any]]:
    """Halves, until the row that is refused is alone: a step may look at many rows together."""
    if len(examples) > 1:
        middle = len(examples) // 2
        for some in (examples[:middle], examples[middle:]):
            yield from answered(samples, some, source)
        return
    why = str(error).rstrip(".")
    if source.on_error != "skip":
        raise DataError(f"{source.path}, row {examples[0].id}: {why}. {CURE}") from error
    source.skipped("refused", f"row {examples[0].id}: {why}")


def portions(pipe: Any, examples: Iterator[Any]) -> Iterator[list[Any]]:
    """The examples in portions that are answered and kept one after the other. Of models that answer in seconds a portion is
    short in time: as many rows as are decoded together, and more while that is soon done. Whoever takes one is timed until
    the next is asked for. Where tokens are drawn, the clock chooses nothing: who is decoded together decides what is drawn."""
    if not pipe.task.streams:
        least = size = pipe.window
    else:
        least = size = min(together(pipe), pipe.window)
    most = least if pipe.plan.get_choice("decode.temperature") else pipe.window
    while chunk := list(itertools.islice(examples, size)):
        begun = time.monotonic()
        yield chunk
        spent = time.monotonic() - begun
        if spent < SHORT_S:
            size = min(2 * size, most)
        elif spent > LONG_S:
            size = max(size // 2, least)


def together(pipe: Any) -> int:
    """Rows that the engine of the plan works on at a time, at least."""
    return int(pipe.plan.settings("forward").get("streams", 1))
