"""Bad weather: what is wrong with the data or the run, said before it spoils the result."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from llm_moments.base.errors import MomentsError

EXPLODES = 20.0  # times the usual loss
FIRST = 10  # losses that a run begins with
MEMORY = 50  # losses that are looked back on


class TrainingStopped(MomentsError):
    """The loss is not a number or explodes; the last good checkpoint is kept."""


class LossMonitor:
    """Watches the losses of one run. start: the median of its first ones; 0 until there are enough.

    least: a loss that is as good as none, of a student that begins as its teacher: many times less is little still.
    """

    def __init__(self, losses: Sequence[float] = (), start: float = 0.0, least: float = 0.0) -> None:
        self.last: deque[float] = deque(losses, maxlen=MEMORY)
        self.start, self.least = start, least

    def see(self, loss: float, norm: float) -> str:
        """What is wrong, or nothing. norm: of the gradient, before it is clipped.

        A loss explodes when it is far above both what is usual by now and what the run began with: late in
        a run a single hard batch may be many times the usual.
        """
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm became {norm}"
        usual = sorted(self.last)[len(self.last) // 2] if self.last else 0.0
        if self.start and loss > EXPLODES * max(usual, self.start, self.least):
            return f"the loss jumped to {loss:.4g}, where {usual:.4g} was usual"
        self.last.append(loss)
        if not self.start and len(self.last) == FIRST:
            self.start = sorted(self.last)[FIRST // 2]
        return ""


def warnings(
    train: Sequence[Any], references: Sequence[Any], labels: Sequence[str], evaluated: Sequence[Any], problem: str,
    judged: Sequence[Any] = (),
) -> list[str]:  # fmt: skip
    """train, evaluated: inputs; references, judged: in the model's own labels (indices, lists of them, numbers)."""
    said = []
    if problem != "regression" and labels:
        seen, asked = _classes(references), _classes(judged)
        never = [name for i, name in enumerate(labels) if not seen[i]]
        if never:
            said.append(f"{_some(never)} never occur{'s' if len(never) == 1 else ''} in the training data")
        few = [f"{labels[i]} ({count})" for i, count in seen.items() if 0 < count < 5]
        if few:
            said.append(f"fewer than 5 examples of {_some(few)}")
        unseen = [labels[i] for i in asked if not seen[i]]
        if unseen:
            said.append(f"{_some(unseen)} occur in the evaluation data only")
    if evaluated:
        said += leaks(train, evaluated)
        margin = claim(len(evaluated))
        if margin > 0.02:
            said.append(
                f"{len(evaluated):,} evaluation examples tell an accuracy to within {100 * margin:.1f} points at best; for one "
                f"point {needed(0.01):,} would be needed"
            )
    return said


def leaks(train: Sequence[Any], evaluated: Sequence[Any]) -> list[str]:
    """Evaluation examples that are training examples too, as they are or but for case, space and marks."""
    exact = {_hash(str(value)) for value in train}
    alike = {_hash(plain(value)) for value in train}
    same = [row for row, value in enumerate(evaluated, 1) if _hash(str(value)) in exact]
    near = [row for row, value in enumerate(evaluated, 1) if _hash(plain(value)) in alike]
    near = sorted(set(near) - set(same))
    said = []
    for rows, how in ((same, "exactly"), (near, "but for case, spaces and punctuation")):
        if rows:
            said.append(
                f"{len(rows):,} of {len(evaluated):,} evaluation examples are in the training data {how} (rows {_some(rows)}): "
                "the score will look better than it is"
            )
    return said


def plain(value: Any) -> str:
    text = str(value).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def claim(count: int) -> float:
    """Half the 95% interval of an accuracy of 90% on so many examples."""
    return 1.96 * math.sqrt(0.9 * 0.1 / count)


def needed(margin: float) -> int:
    return math.ceil(0.9 * 0.1 * (1.96 / margin) ** 2)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _classes(references: Sequence[Any]) -> Counter[int]:
    found: Counter[int] = Counter()
    for reference in references:
        found.update(reference if isinstance(reference, list | tuple | set | frozenset) else [reference])
    return found


def _some(things: Sequence[Any], most: int = 5) -> str:
    shown = ", ".join(map(str, things[:most]))
    return shown if len(things) <= most else f"{shown} and {len(things) - most:,} more"
