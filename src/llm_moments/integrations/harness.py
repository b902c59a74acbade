"""lm-eval's tasks for any plan, and its results example by example, so that two plans are compared paired."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments import stats
from llm_moments.base.errors import DataError, EngineMissing, InputError
from llm_moments.evaluate.compare import Comparison

ABOUT = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}


@dataclass(frozen=True)
class Scores:
    """One metric of one task: float64 [n], higher is better, and for each example its number and hash in the task."""

    task: str
    metric: str
    values: np.ndarray
    ids: tuple[tuple[Any, str], ...]


def evaluate(
    model: Any, tasks: Sequence[Any], *, include_path: str | Path | None = None, limit: int | None = None,
    choices: Mapping[str, Any] | None = None, **options: Any,
) -> list[Scores]:  # fmt: skip
    """Runs lm-eval's tasks on a pipeline (or where to load one from) and gives the scores of each example.

    tasks: names, or a task's own description (a dict). include_path: folder of tasks in YAML. options: further ones of
    `lm_eval.simple_evaluate`, such as num_fewshot or apply_chat_template.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise EngineMissing("lm-eval", "eval") from error
    from llm_moments.integrations.harness_model import MomentsLM

    named = any(isinstance(task, str) for task in tasks)  # lm-eval's own thousands are looked through only for a name
    manager = TaskManager(include_path=str(include_path) if include_path else None, include_defaults=named)
    known = {"bootstrap_iters": 0, **options}  # intervals are made here, paired
    found = lm_eval.simple_evaluate(
        MomentsLM(model, **(choices or {})), tasks=list(tasks), limit=limit, task_manager=manager, **known
    )
    return scores_of(found["samples"], found.get("higher_is_better", {}))


def scores_of(
    samples: Mapping[str, Iterable[Mapping[str, Any]]], better: Mapping[str, Any] | None = None
) -> list[Scores]:
    """From lm-eval's samples by task: one `Scores` for each metric that is a number an example.

    better: lm-eval's own {task: {metric: whether higher is better}}; where lower is better the sign is turned.
    """
    found = []
    for task, rows in samples.items():
        by_name: dict[str, list[tuple[Any, str, float]]] = {}
        kept = list(rows)
        filters = {row.get("filter") for row in kept}
        for row in kept:
            for name in row.get("metrics") or [k for k in row if k not in ABOUT]:
                if isinstance(value := row.get(name), int | float):
                    full = name if len(filters) == 1 else f"{name},{row.get('filter')}"
                    turned = -1 if (better or {}).get(task, {}).get(name) is False else 1
                    by_name.setdefault(full, []).append((row["doc_id"], str(row.get("doc_hash", "")), turned * value))
        for name, told in by_name.items():
            told.sort(key=lambda one: str(one[:2]))
            values = np.array([one[2] for one in told], np.float64)
            found.append(Scores(task, name, values, tuple(one[:2] for one in told)))
    return found


def read(path: str | Path) -> list[Scores]:
    """From a `samples_TASK_….jsonl` that lm-eval has written with --log_samples."""
    try:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        return scores_of({Path(path).stem.removeprefix("samples_"): rows})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no samples of lm-eval: {error}") from error


def compare(
    a: Sequence[Scores], b: Sequence[Scores], *, names: tuple[str, str] = ("A", "B"), max_drop: float | None = None
) -> list[Comparison]:
    """B held against A, paired, for every metric that both have; what was not measured (speed, say) is None."""
    theirs = {(one.task, one.metric): one for one in b}
    both = [(one, theirs[one.task, one.metric]) for one in a if (one.task, one.metric) in theirs]
    if not both:
        raise InputError("the two results have no metric of a task in common")
    return [_held(one, two, names, max_drop) for one, two in both]


def _held(one: Scores, two: Scores, names: tuple[str, str], max_drop: float | None) -> Comparison:
    if one.ids != two.ids:
        raise InputError(f"{one.task}: the two results are of other examples ({len(one.ids)} and {len(two.ids)})")
    bound = stats.drop_bound(one.values, two.values)
    harmful, beneficial = stats.flips(one.values, two.values)
    return Comparison(
        *names, f"{one.task} {one.metric}", len(one.values), float(one.values.mean()), float(two.values.mean()),
        bound.estimate, bound.low, bound.high, harmful, beneficial, None, None, None, None, None, bound.confidence,
        max_drop, None if max_drop is None else bound.high < max_drop,
    )  # fmt: skip
