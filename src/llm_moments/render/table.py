"""Results as flat rows: for CSV, Parquet and the other views."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_moments.base.atomic import replacing
from llm_moments.base.visible import visible
from llm_moments.data import tables
from llm_moments.record.session import Session, StepCost

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a sheet takes for the beginning of one (OWASP, CSV injection)


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


def write_csv(table: Sequence[dict[str, Any]], path: str | Path) -> None:
    """For people, who open it as a sheet: a text that the sheet would run as a formula gets an apostrophe before it."""
    with replacing(Path(path)) as made:
        tables.write_csv(lambda: table, made, shown=in_sheet)


def in_sheet(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = visible(value, keep="\n")
    return f"'{text}" if text.startswith(FORMULA) else text


def write_parquet(table: Sequence[dict[str, Any]], path: str | Path) -> None:
    with replacing(Path(path)) as made:
        tables.write_parquet(lambda: table, made)
