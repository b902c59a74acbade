"""Results as flat rows: for CSV, Parquet and the other views."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    padding = 1 - counts["tokens"] / counts["padded_tokens"] if counts.get("padded_tokens") else None
    return {
        "step": step.name, "depth": depth, "calls": step.calls, "wall_s": step.wall_s, "cpu_s": step.cpu_s,
        "share": step.wall_s / total if total else None, "items": counts.get("items"), "items_per_s": step.rate("items"),
        "tokens": counts.get("tokens"), "tokens_per_s": step.rate("tokens"), "padding": padding,
        "cut_rows": counts.get("cut_rows"), "cut_tokens": counts.get("cut_tokens"),
        "limit": step.limit.value if step.limit else None,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


def write_csv(table: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]) if table else [])
        writer.writeheader()
        writer.writerows(table)


def write_parquet(table: Sequence[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(table)), path)
