"""Every error of the package.

MomentsError              exit 1   something failed
├── EngineError           exit 1   an engine cannot export or run this model
│   ├── EngineMissing     exit 2   an engine's package is not installed
│   ├── Unfinished        exit 1   an engine failed in the middle; what it had answered is kept
│   └── RowsFailed        exit 1   the model fails on these rows, also on each alone
│       └── RowsTooLong   exit 2   they are longer than the plan takes, and may not be cut
├── WriteError            exit 1   a disk that is full, or a place that may not be written
└── InputError            exit 2   bad usage or bad input: the user can mend it
    ├── DataError                  a file, row or value of the examples
    ├── ModelError                 a folder that is not a (safe) model
    ├── PlanError                  an unknown knob or an impossible value
    ├── ArtefactError              half-written, changed or foreign artefact
    └── OutputExists               the output is there already
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class MomentsError(Exception):
    """Root of the tree; the command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 1


class EngineError(MomentsError):
    """An engine cannot export or run this model; a search lists it with the reason and goes on."""


class EngineMissing(EngineError):
    """An optional package is absent."""

    exit_code = 2

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} is not installed. Install it with: pip install 'llm-moments[{extra}]'")


class Unfinished(EngineError):
    """An engine failed in the middle. done: its answers to the first inputs; outputs: the same as the task has them."""

    def __init__(self, said: str, done: Sequence[Any]):
        super().__init__(said)
        self.done: Sequence[Any] = done
        self.outputs: Any = done


class RowsFailed(EngineError):
    """The model fails on some rows, also on each alone. rows: why, by the place among those that were given, from 0."""

    kind = "the model fails on"  # what is said of those that are left out
    alone: type[MomentsError] = EngineError  # what one of them raises when it is named with its file

    def __init__(self, rows: Mapping[int, str]):
        first = min(rows)
        more = f" (and {len(rows) - 1} more such rows)" if len(rows) > 1 else ""
        super().__init__(self._said(first, more, rows[first]))
        self.rows = dict(rows)

    @staticmethod
    def _said(first: int, more: str, why: str) -> str:
        return f"the model fails on row {first + 1} of those it was given{more}: {why}"

    def moved(self, place: Callable[[int], int]) -> RowsFailed:
        """The same, by the places among more rows."""
        return type(self)({int(place(row)): why for row, why in self.rows.items()})


class WriteError(MomentsError):
    """A disk is full, or the place may not be written; the message says what is left there."""


class InputError(MomentsError):
    exit_code = 2


class DataError(InputError):
    pass


class RowsTooLong(RowsFailed):
    """Rows that would have to be cut, where the plan says that none may be (on_overflow = fail)."""

    exit_code = 2
    kind = "too long"
    alone = DataError

    @staticmethod
    def _said(first: int, more: str, why: str) -> str:
        return f"{why}{more}"


class ModelError(InputError):
    pass


class PlanError(InputError):
    pass


class ArtefactError(InputError):
    pass


class OutputExists(InputError):
    def __init__(self, path: object, why: str = ""):
        said = f"{path} exists already{f': {why}' if why else ''}"
        super().__init__(f"{said}. Choose another place or pass --overwrite.")
