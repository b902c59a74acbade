"""What there is to learn: label names, the kind of problem, a head for them, targets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_moments.errors import DataError
from llm_moments.model import Model, checked_config


def labels_of(references: Sequence[Any], name: str) -> tuple[list[str], str]:
    """Label names and Hugging Face's problem type; DataError if there is nothing to learn."""
    missing = [row for row, ref in enumerate(references, 1) if ref is None or ref == ""]
    if missing:
        cure = "; name the column of labels with --label-column" if len(missing) == len(references) else ""
        said = f"no label ({len(missing)} of {len(references)} rows have none{cure})"
        raise DataError(f"{name}, row {missing[0]}: {said}")
    lists = [isinstance(ref, list | tuple) for ref in references]
    if any(lists):
        if not all(lists):
            row = lists.index(False) + 1
            raise DataError(
                f"{name}, row {row}: one label ({references[row - 1]!r}) where other rows have lists of them"
            )
        several = {str(label) for ref in references for label in ref}
        return sorted(several), "multi_label_classification"
    if all(_fraction(ref) for ref in references) and not all(float(ref).is_integer() for ref in references):
        return ["LABEL_0"], "regression"
    labels = sorted({_name(ref) for ref in references}, key=lambda x: (not x.lstrip("-").isdigit(), x.zfill(9)))
    if len(labels) < 2:
        raise DataError(f"{name} has one class only ({labels[0]!r}); a classifier needs at least two")
    if len(labels) > 10_000:
        raise DataError(f"{name} has {len(labels):,} different labels; is the label column the right one?")
    return labels, "single_label_classification"


def check_head(references: Sequence[Any], labels: Sequence[str], problem: str, model: Model, name: str) -> str:
    """What to warn of where a head is made anew. DataError naming what a head knows in part only: then some labels
    are likely to be misspelt."""
    theirs = model.labels
    headed = any("ForSequenceClassification" in a or "ForImageClassification" in a for a in _architectures(model))
    if not headed or problem == "regression" or all(re.fullmatch(r"LABEL_\d+", label) for label in theirs):
        return ""
    strange = [label for label in labels if label not in theirs]
    if model.problem_type != problem or len(strange) == len(labels):
        return f"the head of {model.name} is for other labels ({_few(theirs)}); one for {_few(labels)} takes its place"
    if strange:
        row = next(
            i
            for i, r in enumerate(references, 1)
            if strange[0] in map(_name, r if isinstance(r, list | tuple) else [r])
        )
        raise DataError(
            f"{name}, row {row}: the head of {model.name} does not know {_few(strange)}; it knows {_few(theirs)}. Correct "
            "the labels, or begin with a new head: --new-head"
        )
    return ""


def _architectures(model: Model) -> list[str]:
    return [str(a) for a in model.config.get("architectures") or []]


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")


def _name(label: Any) -> str:
    """1.0 is how pandas reads a column of 1 that has gaps: the label is 1."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _fraction(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def with_head(path: Path, labels: list[str], problem: str, seed: int, *, own_labels: bool = True) -> tuple[Any, Model]:
    """The module in float32 with a head for these labels; one that knows them all is kept, with its own order
    and names, unless own_labels is false."""
    import torch

    from llm_moments.engines.loading import loaded
    from llm_moments.nets.kinds import auto_class, fitted

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
