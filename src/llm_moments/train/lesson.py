"""What there is to learn: label names, the kind of problem, a head for them, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.core import Example
from llm_moments.data.labels import (
    MULTI,
    REGRESSION,
    SEPARATOR,
    SINGLE,
    Known,
    class_names,
    few,
    finite,
    is_list,
    is_several,
    labelled,
    listed,
    number,
    places,
    text_of,
)
from llm_moments.evaluate.evaluation import refuse
from llm_moments.models.model import Model, checked_config

MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Lesson:
    """The examples that can be learnt from, the names of their classes, Hugging Face's problem type, and what to warn
    of where a head is made anew."""

    examples: list[Example]
    labels: list[str]
    problem: str
    said: str = ""


def lesson_of(examples: Sequence[Example], name: str, old: Model | None = None, data: Any = None) -> Lesson:
    """old: the model whose head is kept if it knows the labels. data: where the examples come from; with on_error "skip"
    a row whose label means nothing is left out and counted there. DataError if there is nothing to learn."""
    own = old if old is not None and _headed(old) else None
    problem = _problem([e.reference for e in examples], old if old is not None and _has_head(old) else None)
    faults = [_fault(e.reference, problem) for e in examples]
    if all(faults) and not any(labelled(e.reference, problem) for e in examples):
        count = len(examples)
        raise DataError(f"{name}, row 1: no label ({count} of {count} rows have none; name the column of labels with --label-column)")  # fmt: skip
    examples = _left(examples, faults, data, name)
    column = [e.reference for e in examples]
    if problem == REGRESSION:
        return Lesson(examples, ["LABEL_0"], problem)
    lists = any(map(is_list, column))
    if lists and not all(map(is_list, column)) and any(is_list(v) for v in column):
        wrong = ["" if is_list(v) or listed(v) != [v] else f"one label ({v!r:.60}) where other rows have lists of them" for v in column]  # fmt: skip
        examples = _left(examples, [w and ("wrong kind of label", w) for w in wrong], data, name)
        column = [e.reference for e in examples]
    labels = _labels(column, problem, name)
    if own is None:
        return Lesson(examples, labels, problem, _marks(column, labels, problem))
    return _with_own_head(own, Lesson(examples, labels, problem), name, data)


def labels_of(references: Sequence[Any], name: str) -> tuple[list[str], str]:
    """Label names and Hugging Face's problem type; DataError if there is nothing to learn."""
    found = lesson_of([Example(None, value) for value in references], name)
    return found.labels, found.problem


def _problem(column: Sequence[Any], own: Model | None) -> str:
    there = [v for v in column if labelled(v, SINGLE)]
    known = Known(own.labels) if own is not None and own.problem_type in (SINGLE, MULTI) else None
    if known is not None and own is not None and own.problem_type == MULTI and _knows_any(known, there):
        return MULTI
    if sum(map(is_list, there)) * 2 >= max(len(there), 1):
        return MULTI
    if any(not is_list(v) and is_several(v) and not (known and known.named(v)) for v in there):
        return MULTI
    numbers = [n for n in map(number, there) if n is not None]
    if own is not None and own.problem_type == REGRESSION and len(numbers) == len(there):
        return REGRESSION
    broken = any(n != n.to_integral_value() for n in numbers)
    return REGRESSION if broken and len(numbers) * 2 > len(there) else SINGLE


def _knows_any(known: Known, column: Sequence[Any]) -> bool:
    return any(known.place(one) is not None for value in column for one in listed(value, known))


def _fault(value: Any, problem: str) -> tuple[str, str] | None:
    """Why a label cannot be learnt, whatever the names: its kind and the words; None if it can."""
    if not labelled(value, problem):
        return "no label", "no label"
    if problem == REGRESSION:
        try:
            finite(value)
        except DataError as error:
            return "not a number", str(error)
        return None
    if problem == SINGLE and is_list(value):
        return "wrong kind of label", f"a list of labels ({value!r:.60}) where other rows have one label"
    for one in listed(value) if problem == MULTI else [value]:
        if not isinstance(one, str | bytes) and number(one) is None:
            return "wrong kind of label", f"the label {one!r:.60} is no name and no finite number"
    return None


def _left(examples: Sequence[Example], faults: Sequence[Any], data: Any, name: str) -> list[Example]:
    kept, without = [], sum(bool(f) and f[0] == "no label" for f in faults)
    for row, (example, fault) in enumerate(zip(examples, faults, strict=True), 1):
        if not fault:
            kept.append(example)
            continue
        kind, why = fault
        refuse(f"no label ({without} of {len(examples)} rows have none)" if kind == "no label" else why, example, row, data, name, kind)  # fmt: skip
    if not kept:
        raise DataError(f"{name}: no row is left to learn from")
    return kept


def _labels(column: Sequence[Any], problem: str, name: str) -> list[str]:
    if problem == MULTI:
        lists = [listed(v) for v in column]
        hot = places(one for one in lists if one)
        return [f"LABEL_{i}" for i in range(hot)] if hot else class_names(v for one in lists for v in one)
    labels = class_names(column)
    if len(labels) < 2:
        raise DataError(f"{name} has one class only ({labels[0]!r}); a classifier needs at least two")
    if len(labels) > MOST_CLASSES:
        raise DataError(f"{name} has {len(labels):,} different labels; is the label column the right one?")
    return labels


def _has_head(model: Model) -> bool:
    named = any("ForSequenceClassification" in a or "ForImageClassification" in a for a in _architectures(model))
    return named or model.is_linear


def _marks(column: Sequence[Any], labels: Sequence[str], problem: str) -> str:
    """A warning where a mark in the cells may have been taken for what it is not."""
    cells = {text_of(v) for v in column if isinstance(v, str)}
    if problem == MULTI:
        joined = next((cell for cell in sorted(cells) if len(listed(cell)) > 1 and not cells & set(listed(cell))), "")
        return joined and f"cells such as {joined!r} are read as several labels, for {SEPARATOR} separates them"
    for mark in ",;":
        parts = {name: [part.strip() for part in name.split(mark)] for name in labels if mark in name}
        if name := next((n for n, some in parts.items() if any(part in labels for part in some)), ""):
            return f"labels such as {name!r} are taken for one name each; several labels are separated by {SEPARATOR}"
    return ""


def _headed(model: Model) -> bool:
    """Whether it has a head whose classes have names."""
    return _has_head(model) and model.problem_type != REGRESSION and not Known(model.labels).generic


def _with_own_head(model: Model, lesson: Lesson, name: str, data: Any) -> Lesson:
    """With the names of the model's head where it knows all labels; with a warning where it knows none. DataError naming
    what a head knows in part only: then some labels are likely to be misspelt."""
    known, column = Known(model.labels), [e.reference for e in lesson.examples]
    hot = places((one for one in map(listed, column) if one), len(known.names)) if lesson.problem == MULTI else 0
    if model.problem_type != lesson.problem or not (hot or _knows_any(known, column)):
        said = f"the head of {model.name} is for other labels ({few(model.labels)}); one for {few(lesson.labels)} takes its place"  # fmt: skip
        return Lesson(lesson.examples, lesson.labels, lesson.problem, said)
    wrong = ["" if hot else _strange(value, lesson.problem, known) for value in column]
    if used := sorted({w for w in wrong if w}):
        said = f"the head of {model.name} does not know {few(used)}; it knows {few(model.labels)}"
        faults = [w and ("unknown label", f"{said}. Correct the labels, or begin with a new head: --new-head") for w in wrong]  # fmt: skip
        return Lesson(_left(lesson.examples, faults, data, name), model.labels, lesson.problem)
    return Lesson(lesson.examples, model.labels, lesson.problem)


def _strange(value: Any, problem: str, known: Known) -> str:
    """What a head does not know of a label; nothing if it knows it."""
    try:
        known.set_of(value) if problem == MULTI else known.one(value)
    except DataError:
        several = listed(value, known) if problem == MULTI else [value]
        return ", ".join(str(v) for v in several if known.place(v) is None) or str(value)
    return ""


def _architectures(model: Model) -> list[str]:
    return [str(a) for a in model.config.get("architectures") or []]


def with_head(path: Path, labels: list[str], problem: str, seed: int, *, own_labels: bool = True) -> tuple[Any, Model]:
    """The module in float32 with a head for these labels; one that knows them all is kept, with its own order
    and names, unless own_labels is false."""
    import torch

    from llm_moments.models.loading import loaded
    from llm_moments.models.nets.architectures import auto_class, fitted

    config = checked_config(path, False)
    old = Model(path, config)
    if own_labels and old.problem_type == problem and set(labels) <= set(old.labels) and problem != "regression":
        labels = old.labels
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    module = loaded(
        auto_class(config), path, str(path), new_head=True, num_labels=len(labels), id2label=names,
        label2id={v: k for k, v in names.items()}, problem_type=problem, dtype="float32", use_safetensors=True,
    )  # fmt: skip
    described = {**config, "id2label": {str(k): v for k, v in names.items()}, "problem_type": problem}
    model = Model(path, described, known_digest=old.digest)
    return fitted(module, model), model


def targets_of(references: Sequence[Any], model: Model) -> Any:
    import torch

    if model.problem_type == "multi_label_classification":
        rows = torch.zeros(len(references), len(model.labels))
        for row, chosen in enumerate(references):
            rows[row, list(chosen)] = 1.0
        return rows
    kind = torch.float32 if model.problem_type == "regression" else torch.int64
    return torch.tensor(references, dtype=kind)
