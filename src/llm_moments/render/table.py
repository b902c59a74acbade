"""Results as flat rows: for CSV, Parquet and the other views."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_moments.atomic import write_atomic
from llm_moments.record.session import Session, StepCost


def rows(result: Any) -> list[dict[str, Any]]:
    """One row a step (Session), a change (list of Worth) or a trial (list of Trial)."""
    if isinstance(result, Session):
        total = result.root.wall_s
        return [step_row(step, depth, total) for depth, step in result.root.walk()]
    return [{k: _plain(v) for k, v in asdict(item).items()} for item in result]


def step_row(step: StepCost, depth: int, total: float) -> dict[str, Any]:
    """share: of the whole run; padding: share of the computed tokens that were padding."""
    counts = step.counts
    padded, tokens = counts.get("padded_tokens"), counts.get("tokens")
    return {
        "step": step.name, "depth": depth, "calls": step.calls, "wall_s": step.wall_s, "cpu_s": step.cpu_s,
        "share": step.wall_s / total if total else None, "items": counts.get("items"), "items_per_s": step.rate("items"),
        "tokens": tokens, "tokens_per_s": step.rate("tokens"), "padded_tokens": padded,
        "padding": 1 - tokens / padded if padded and tokens is not None else None,
        "cut_rows": counts.get("cut_rows"), "cut_tokens": counts.get("cut_tokens"),
        "limit": step.limit.value if step.limit else None,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, dict | list | tuple) else value


def _names(table: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def write_csv(table: Sequence[dict[str, Any]], path: str | Path) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=_names(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomic(Path(path), stream.getvalue())


def write_parquet(table: Sequence[dict[str, Any]], path: str | Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = Path(path)
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_name(f".{whole.name}.{os.getpid()}")
    try:
        pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in _names(table)} for row in table]), part)
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)
