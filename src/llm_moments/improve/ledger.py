"""Looks at certification examples, remembered for the model and the examples: another folder gives no fresh chances.

Each look is a small file in the user's cache folder, named by what it says: the same plans looked at again in the same
order, with the same outcome, are the same file. Of the examples a sketch is kept, so that a split of other size (another
budget, --limit, rows added to the data) is known again by the rows that it shares.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic
from llm_moments.base.cache import cache_folder
from llm_moments.base.errors import DataError, WriteError
from llm_moments.improve.certify import Look
from llm_moments.improve.study import say

KEPT = 300  # looks at examples of one model; the oldest go
SKETCH = 512  # row digests of a look: the smallest ones, which are a fair sample
SHARED = 0.05  # of the examples, from which looks at them count


@dataclass(frozen=True)
class Seen:
    """One look. sequence: keys of the plans that had been looked at in that order, this one the last; rows: how many
    examples; sketch: the least of their digests; at: when it was first made."""

    sequence: tuple[str, ...]
    passed: bool
    drop: float
    drop_high: float
    max_drop: float
    metric: str
    rows: int
    sketch: tuple[str, ...]
    at: str

    @property
    def outcome(self) -> tuple[Any, ...]:
        return self.sequence, self.passed, self.drop, self.max_drop, self.metric


class Ledger:
    """The looks at these examples under this model. rows: a digest of each example's input; folder: another place.

    What cannot be read or remembered here is told on stderr, and nothing fails by it.
    """

    def __init__(
        self, model_digest: str, rows: Iterable[bytes], *, max_drop: float, metric: str, folder: Path | None = None
    ):
        known = sorted({hashlib.sha256(row).hexdigest()[:16] for row in rows})
        self.count, self.sketch = len(known), tuple(known[:SKETCH])
        self.max_drop, self.metric = max_drop, metric
        self.folder = (folder or cache_folder()) / "looks" / hashlib.sha256(model_digest.encode()).hexdigest()[:16]

    def seen(self) -> list[Seen]:
        """Every look at some of these examples, the oldest first."""
        found = []
        for file in self._files():
            try:
                one = schema.read(file, "a look that was made", lambda data: schema.result(data, "look", Seen))
            except DataError as error:
                say(f"{error} It does not count among the earlier looks.")
            else:
                if shared(self.sketch, self.count, one.sketch, one.rows) >= SHARED:
                    found.append(one)
        return sorted(found, key=lambda one: one.at)

    def others(self, looks: Sequence[Look]) -> list[Seen]:
        """Looks by other sequences than this one: each a further chance that these examples gave. The same plans in the
        same order with the same outcome cost nothing."""
        own = {tuple(made.outcome[:3]) for made in self._made(looks)}
        return [one for one in self.seen() if one.outcome[:3] not in own]

    def note(self, looks: Sequence[Look]) -> None:
        """Remembers all looks of a sequence so far; where it cannot be done it is told, and nothing fails."""
        try:
            for one in self._made(looks):
                file = self.folder / f"{_name(one)}.json"
                if not file.exists():
                    write_atomic(file, json.dumps({"kind": "look", "format": schema.FORMAT, **asdict(one)}))
            for old in self._files()[:-KEPT]:
                old.unlink(missing_ok=True)
        except (WriteError, OSError) as error:
            say(f"this look is not remembered for other folders: {error}")

    def words(self, looks: Sequence[Look]) -> str:
        """What a reader of the certificate must know of the looks before; empty where there were none."""
        others = self.others(looks)
        if not others:
            return ""
        least = min(shared(self.sketch, self.count, one.sketch, one.rows) for one in others)
        which = (
            "These certification examples" if least > 0.999 else f"{least:.0%} or more of these certification examples"
        )
        failed = sum(not one.passed for one in others)
        return (
            f"{which} were looked at {_times(len(others))} before, by other sequences of plans or for other claims ({failed} of the looks failed; "
            f"the last on {others[-1].at[:10]}): the confidence is that of this sequence alone. New examples would make it whole."
        )

    def _made(self, looks: Sequence[Look]) -> list[Seen]:
        now, keys = datetime.now(UTC).isoformat(timespec="seconds"), tuple(look.key for look in looks)
        return [
            Seen(keys[: at + 1], look.passed, look.drop, look.drop_high, self.max_drop, self.metric, self.count, self.sketch, now)
            for at, look in enumerate(looks)
        ]  # fmt: skip

    def _files(self) -> list[Path]:
        """The oldest first."""
        try:
            found = [(entry.stat().st_mtime_ns, entry.name) for entry in os.scandir(self.folder)]
        except FileNotFoundError:  # nothing yet, or another process has just dropped the oldest
            found = []
        except OSError as error:
            say(f"earlier looks cannot be read: {error}")
            found = []
        return [self.folder / name for _, name in sorted(found) if name.endswith(".json")]


def shared(rows: Sequence[str], count: int, others: Sequence[str], of: int) -> float:
    """About which share of the first set is in the second, from the least digests of each (bottom-k sketches, Cohen
    1997): up to the digest at which a sketch ends, it is whole."""
    ends = [sketch[-1] for sketch, size in ((rows, count), (others, of)) if sketch and len(sketch) < size]
    kept = [digest for digest in rows if not ends or digest <= min(ends)]
    return len(set(kept) & set(others)) / len(kept) if kept else 0.0


def _name(one: Seen) -> str:
    said: Mapping[str, Any] = {"outcome": one.outcome, "rows": one.rows, "sketch": one.sketch}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
