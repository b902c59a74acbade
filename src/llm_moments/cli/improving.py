"""A search as it was asked for: what `improve` begins and `certify` goes on with once questions are answered."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from llm_moments.cli import options as o
from llm_moments.cli import tell

CALL = "study/call.json"  # in the folder of an improvement that has asked questions
WAITS = 4  # exit code: questions wait for answers


@dataclass(frozen=True)
class Call:
    """The options of `moments improve` that decide what is searched."""

    model: str
    out: str
    data: str | None = None
    unlabelled: str | None = None
    questions: int = 100
    max_drop: float = 0.01
    objective: str = "throughput"
    budget: str = "10m"
    heal: bool = False
    heal_data: str | None = None
    first: str | None = None
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    encoding: str | None = None
    on_error: str = "fail"
    limit: int | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    choices: list[str] | None = None
    plan: str | None = None
    device: str = "auto"
    task: str | None = None
    metric: str | None = None
    trust_remote_code: bool = False

    def anywhere(self) -> Call:
        """With paths that hold from any folder; a hub's id or an address stays what it is."""
        paths = ("model", "out", "data", "unlabelled", "heal_data", "plan")
        told = {name: getattr(self, name) for name in paths}
        return replace(self, **{n: os.path.abspath(p) for n, p in told.items() if p and os.path.exists(p)})


def saved(out: Path) -> Call:
    """The call that a folder's questions are of; DataError where it has none."""
    from llm_moments.base import schema
    from llm_moments.base.errors import DataError

    file = out / CALL
    if not file.exists():
        raise DataError(
            f"{out} has no questions: they are asked by moments improve MODEL --unlabelled FILE --out {out}"
        )
    return schema.read(file, "the call of a search", lambda data: schema.convert(data, Call))


def go(call: Call, said: o.Said, tables: o.Tables, *, answers: Path | None = None, overwrite: bool = False) -> None:
    """Searches, says what was found, and exits: 0 certified, 3 not, 4 where questions wait."""
    from llm_moments.base.atomic import write_atomic
    from llm_moments.base.errors import InputError
    from llm_moments.improve.improve import improve as search

    if call.data == "-" and call.unlabelled == "-":
        raise InputError("only one of --data and --unlabelled can be stdin")
    tables.free(data=call.data or call.unlabelled or "", overwrite=True)
    rows = o.Rows(
        call.text_column,
        call.pair_column,
        call.label_column,
        call.group_column,
        call.encoding,
        call.on_error,
        call.limit,
    )
    read = rows.read(call.data) if call.data else None
    taught = rows.read(call.heal_data, label=None, group=None, limit=None) if call.heal_data else None
    bare = rows.read(call.unlabelled, label=None, limit=None) if call.unlabelled else None
    pipe = o.Opened(
        set_=call.choices, plan=Path(call.plan) if call.plan else None, device=call.device, task=call.task,
        metric=call.metric, trust_remote_code=call.trust_remote_code,
    ).open(call.model, also=call.asked)  # fmt: skip
    out = Path(call.out)
    with tell.progress(said.fmt) as tick:
        done = search(
            pipe, read, max_drop=call.max_drop, objective=call.objective, budget=call.budget, out=out, overwrite=overwrite,
            progress=tick, heal=taught if taught is not None else call.heal, first=call.first, unlabelled=bare,
            questions=call.questions, answers=answers,
        )  # fmt: skip
    if call.unlabelled:
        write_atomic(out / CALL, json.dumps(asdict(call.anywhere()), indent=1))
    tell.skipped(read, bare)
    tell.counted(done.certificate.counted)
    tell.busy(done.certificate.busy)
    said.tell(done.to_dict(), "console:show_improvement")
    tables.write(study=done.study, certificate=done.certificate)
    if not done.certified:
        raise typer.Exit(WAITS if done.waiting else 3)
