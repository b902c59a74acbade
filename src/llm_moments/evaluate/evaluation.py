"""Examples made ready for judging: normalised inputs, references in the model's own labels, splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.errors import DataError
from llm_moments.core import Example, Outputs, Pipeline
from llm_moments.data import labels
from llm_moments.data.independent import has_group, units
from llm_moments.data.readers import source_of

HEALING = {"calibrate": 0.05, "heal": 0.35, "search": 0.2, "certify": 0.4}
PARTS = {"calibrate": 0.05, "search": 0.35, "certify": 0.6}


@dataclass(frozen=True)
class Evaluation:
    """Inputs with their references, or without: then the baseline's own answers are the references.

    units: uint64 [n], the same for rows that are not independent (independent.py); None: all are. Each unit counts
    once: drops and flips are of units, and so is the number of examples that is asked for. Scores are means over rows, as
    anybody else would count them.
    """

    pipe: Pipeline
    values: Sequence[Any]
    references: Sequence[Any] | None
    units: np.ndarray | None = None
    grouped: bool = False  # by a column, too

    def __len__(self) -> int:
        return len(self.values)

    @property
    def labelled(self) -> bool:
        return self.references is not None

    @property
    def metric(self) -> str:
        name = self.pipe.task.metric()
        if self.labelled:
            return name
        return f"agreement with the baseline ({self.pipe.task.agrees or name})"

    def scores(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        """float64 [n]: the score of each example, higher is better."""
        task = self.pipe.task
        if self.references is None:
            return task.agreement(outputs, baseline)
        return task.scores(outputs, self.references)

    @cached_property
    def independent(self) -> int:
        """How many of the rows are independent of one another."""
        return len(self) if self.units is None else len(np.unique(self.units))

    @property
    def told(self) -> str:
        """How many rows there are, and what of them was found to hang together."""
        if self.independent == len(self):
            return f"{len(self):,} rows, all independent"
        what = (
            "groups (with equal and near-equal inputs)" if self.grouped else "inputs (but for case, marks and numbers)"
        )
        return f"{len(self):,} rows, {self.independent:,} independent {what}; each counts once"

    def drop(self, before: np.ndarray, after: np.ndarray, *, confidence: float = 0.95) -> stats.Bound:
        """Bounds for the drop from one array of scores [n] to the other, in the range that such scores have."""
        bounds = self.pipe.task.bounds()
        if self.independent == len(self):
            return stats.drop_bound(before, after, confidence=confidence, bounds=bounds)
        return stats.unit_drop_bound(before, after, self.units, confidence=confidence, bounds=bounds)

    def drops(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """float64 [units]: the drop of each independent unit."""
        return before - after if self.independent == len(self) else stats.unit_drops(before, after, self.units)

    def flips(self, before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
        """(harmful, beneficial): how many units became worse, and how many better."""
        drops = self.drops(before, after)
        return int((drops > 0).sum()), int((drops < 0).sum())

    def needs(self, before: np.ndarray, after: np.ndarray, max_drop: float, confidence: float = 0.95) -> int | None:
        """How many independent examples would prove a drop below max_drop, if others are like these; None: no number."""
        drops, n = self.drops(before, after), self.independent
        if np.isin(drops, (-1.0, 0.0, 1.0)).all():
            worse, better = self.flips(before, after)
            return stats.needed_examples(max_drop, worse / n, better / n, confidence=confidence)
        return stats.needed_examples_for_scores(
            max_drop, float(drops.mean()), float(drops.std()), confidence=confidence
        )

    def take(self, rows: Sequence[int]) -> Evaluation:
        references = None if self.references is None else [self.references[i] for i in rows]
        units = None if self.units is None else self.units[np.asarray(rows, int)]
        return Evaluation(self.pipe, [self.values[i] for i in rows], references, units, self.grouped)

    def few(self, count: int) -> Evaluation:
        """So many rows: the first of each unit before any second one, so that they tell the most."""
        if self.units is None or count >= len(self) or self.independent == len(self):
            return self.take(range(min(count, len(self))))
        return self.take(sorted(np.argsort(earlier(self.units), kind="stable")[:count].tolist()))


def earlier(units: np.ndarray) -> np.ndarray:
    """int [n]: how many rows of its own unit come before each."""
    order = np.argsort(units, kind="stable")
    _, starts, counts = np.unique(units[order], return_index=True, return_counts=True)
    before = np.empty(len(units), int)
    before[order] = np.arange(len(units)) - np.repeat(starts, counts)
    return before


def assumption(bound: stats.Bound) -> str:
    """What a bound takes for granted, in words; empty where it takes nothing."""
    if bound.assumed is None:
        return ""
    return (
        "These scores have no least value: the bound holds if no example, seen or not, "
        f"loses more than {bound.assumed:.3g} (taken from the scores that were seen)."
    )


def opened(data: Any, **options: Any) -> Any:
    """A path as the stream of its examples, so that what is skipped is counted there; anything else as it is."""
    from llm_moments.data import readers

    return readers.read(data, **options) if isinstance(data, str | Path) else data


def gather(data: Any, *, judge: Pipeline | None = None, **options: Any) -> tuple[list[Example], str]:
    """Examples in memory, and the name of where they came from. data: a path or an iterable.

    judge: a pipeline that is to be judged by the references (`judging`).
    """
    data = opened(data, **options)
    name = source_of(data).path
    examples = [as_example(x) for x in data]
    if not examples:
        raise DataError(f"{name}: there is no example in it")
    return (examples if judge is None else judging(judge, examples, data, name)), name


def judging(
    pipe: Pipeline, examples: list[Example], data: Any, name: str, *, varied: bool = True
) -> list[Example]:  # fmt: skip
    """The examples whose references the pipeline knows: one that it does not know is an error that names file and row
    or, if bad rows are skipped, skipped and counted. varied: whether one reference for all rows is an error, too."""
    has = _labelled(pipe, examples)
    if sum(has) * 2 <= len(examples):
        return examples  # judged by the baseline's own answers
    _without(examples, has, data, name)
    kept, seen, label = [], set(), None
    task = pipe.task
    column = [] if task.joins else [e.reference for e, there in zip(examples, has, strict=True) if there]
    read = task.reader(column)
    for number, (example, there) in enumerate(zip(examples, has, strict=True), 1):
        try:
            if not there and source_of(data).on_error == "skip":
                continue  # it was counted as skipped
            if there:
                given = task.prepared(example).reference
                seen.add(repr(read(given)))
                label = given
            kept.append(example)
        except DataError as error:
            refuse(re.sub(r"^row \S+: ", "", str(error)), example, number, data, name, "unknown label")
    if not kept:
        raise DataError(f"{name}: no row has a reference that {pipe.model.name} knows. Is --label-column right?")
    if varied and len(kept) > 1 and len(seen) == 1 and not task.joins:
        limited = " (of the first rows: --limit)" if source_of(data).limit else ""
        raise DataError(
            f"{name}{limited}: every row has the label {label!r}, and what a change costs there says nothing of other "
            "answers. Add rows of the others, or give rows without labels."
        )
    return kept


def _without(examples: Sequence[Example], has: Sequence[bool], data: Any, name: str) -> None:
    """Tells of rows without a label where most have one: what is judged by labels is judged without them."""
    rows = [
        (number, example) for number, (example, there) in enumerate(zip(examples, has, strict=True), 1) if not there
    ]
    if source_of(data).on_error == "skip":
        for number, example in rows:
            refuse("no label", example, number, data, name, "no label")
    elif rows:
        first = rows[0][1].id or rows[0][0]
        source_of(data).notes.append(
            f"{len(rows):,} of {len(examples):,} rows have no label (the first: {first}); they are not judged by"
        )


def _labelled(pipe: Pipeline, examples: Sequence[Example]) -> list[bool]:
    """Which rows have a reference; none has where nothing is in any of them."""
    there = [labels.is_list(e.reference) or not labels.missing(e.reference) for e in examples]
    if all(labels.missing(e.reference) for e in examples if not labels.is_list(e.reference)):
        return there
    told = (pipe.task.has_label(e.reference) for e in examples)
    return [is_there if said is None else said for is_there, said in zip(there, told, strict=True)]


def refuse(why: str, example: Example, number: int, data: Any, name: str, kind: str) -> None:
    """A row that cannot be used: DataError that names file and row or, if bad rows are skipped, counted. number: its
    place, where it has no id."""
    source = source_of(data)
    column = source.columns.get("id")
    row = f"the row with {column} {example.id!r}" if column else f"row {example.id or number}"
    if source.on_error == "fail":
        skip = ", pass --on-error skip," if source is data else ""
        raise DataError(f"{name}, {row}: {why}. Mend it{skip} or name another column with --label-column.")
    source.skipped(kind, f"{row}: {why}")


# What texts are made of, and how what should come out is called beside it.
MADE_OF = {
    "audio": ("text", "transcript", "transcription", "sentence", "reference"),
    "source": ("target", "translation", "reference"),
    "src": ("tgt", "target", "reference"),
}


def as_example(value: Any) -> Example:
    """A bare input or a row with its columns, as an Example; one that is, as it is."""
    if isinstance(value, Example):
        return value
    return Example(*_plain(value), group=value.get("group") if isinstance(value, dict) else None)


def _plain(value: Any) -> tuple[Any, Any]:
    if isinstance(value, dict):
        for asked, answers in MADE_OF.items():
            if asked in value:
                return {asked: value[asked]}, next((value[k] for k in answers if k in value), None)
        label = next((value[k] for k in ("label", "labels", "reference", "answer") if k in value), None)
        known = ("text", "text_pair", "image", "messages", "prompt", "audio", "choices")
        return {k: value[k] for k in known if k in value}, label
    return value, None


def evaluation(pipe: Pipeline, examples: Sequence[Example], labelled: bool | None = None) -> Evaluation:
    """All examples if none or all have references; those that have one if most do. labelled: what was decided for a
    whole of which these are a part, so that all its parts are judged by one metric."""
    has = _labelled(pipe, examples)
    labelled = sum(has) * 2 > len(examples) if labelled is None else labelled
    used = [e for e, there in zip(examples, has, strict=True) if there or not labelled]
    which, grouped = units(used), any(map(has_group, used))
    used = [pipe.task.prepared(example) for example in used]
    values = [pipe.task.normalise(e.input) for e in used]
    references = pipe.task.references([e.reference for e in used]) if labelled else None
    return Evaluation(pipe, values, references, which, grouped)


def split(pipe: Pipeline, examples: Sequence[Example], *, heal: bool = False) -> dict[str, Evaluation]:
    """Calibration, search and certification split, by a hash of the normalised input or its group; with heal one to
    learn from, too."""
    from llm_moments.data import readers

    parts = readers.split(examples, fractions=HEALING if heal else PARTS)
    labelled = evaluation(pipe, examples).labelled
    return {name: evaluation(pipe, part, labelled) for name, part in parts.items()}


def split_to_ask(
    pipe: Pipeline, labelled: Sequence[Example], unlabelled: Sequence[Example], *, heal: bool = False
) -> dict[str, Evaluation]:
    """The splits where questions are asked: labelled rows are searched on, all others certify; what is (nearly) in both
    certifies nothing. Without any labelled row a part of the others is searched on, by agreement."""
    from llm_moments.data import readers

    bare = [replace(example, reference=None) for example in unlabelled]
    fractions = HEALING if heal else PARTS
    if not labelled:
        parts = readers.split(bare, fractions=fractions)
        return {name: evaluation(pipe, part, False) for name, part in parts.items()}
    parts = readers.split(labelled, fractions={name: share for name, share in fractions.items() if name != "certify"})
    known = set(units(labelled).tolist())
    parts["certify"] = [e for e, unit in zip(bare, units(bare).tolist(), strict=True) if unit not in known]
    judged = evaluation(pipe, labelled).labelled
    return {name: evaluation(pipe, part, judged and name != "certify") for name, part in parts.items()}
