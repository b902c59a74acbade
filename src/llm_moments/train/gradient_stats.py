"""What happens to each block while a model is trained, seen every few updates from gradients that are there anyway."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from llm_moments.models.blocks import blocks
from llm_moments.train.observers import Observer

EVERY = 5  # updates from one look to the next


@dataclass(frozen=True)
class BlockGradients:
    """Means along a run of one block.

    norm: of its gradient, before clipping. ratio: |Δw| / |w| of an update. fisher: trace of the empirical Fisher
    information a parameter, from the gradients of whole batches (rows · |g|² / parameters, without the mean's own
    part being taken away: an upper estimate, right where the mean gradient is small). None where no look was taken.
    """

    name: str
    parameters: int
    norm: float | None = None
    ratio: float | None = None
    fisher: float | None = None
    looks: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Sums:
    parameters: list[Any]
    norm: float = 0.0
    ratio: float = 0.0
    fisher: float = 0.0
    looks: int = 0
    kept: list[Any] = field(default_factory=list)


class GradientStats(Observer):
    """Looks every few updates, when the gradients are there and after the update.

    EngineError where the module has no run of layers.
    """

    def __init__(self, module: Any, every: int = EVERY):
        self.every, self.at = every, -1
        self.sums: dict[str, _Sums] = {}
        taken: set[int] = set()
        for block in blocks(module):
            mine = [p for part in (block.module, *block.also) for p in part.parameters() if id(p) not in taken]
            taken.update(map(id, mine))
            if mine:  # a layer that is called again has its weights in its first turn
                self.sums[block.name] = _Sums(mine)

    def graded(self, trainer: Any, rows: int) -> None:
        self.at += 1
        if self.at % self.every:
            return
        for sums in self.sums.values():
            trained = [p for p in sums.parameters if p.grad is not None]
            squares = float(sum(p.grad.float().square().sum() for p in trained))
            sums.norm += squares**0.5
            sums.fisher += rows * squares / sum(p.numel() for p in sums.parameters)
            sums.kept = [p.detach().clone() for p in trained]

    def moved(self, trainer: Any) -> None:
        if self.at % self.every:
            return
        for sums in self.sums.values():
            trained = [p for p in sums.parameters if p.grad is not None]
            size = float(sum(p.detach().float().square().sum() for p in sums.parameters)) ** 0.5
            far = (p.detach() - old for p, old in zip(trained, sums.kept, strict=True))
            sums.ratio += float(sum(d.float().square().sum() for d in far)) ** 0.5 / max(size, 1e-30)
            sums.looks += 1
            sums.kept = []

    def seen(self) -> list[BlockGradients]:
        return [self._of(name, sums) for name, sums in self.sums.items()]

    def _of(self, name: str, sums: _Sums) -> BlockGradients:
        count, looks = sum(p.numel() for p in sums.parameters), sums.looks
        if not looks:
            return BlockGradients(name, count)
        return BlockGradients(name, count, sums.norm / looks, sums.ratio / looks, sums.fisher / looks, looks)


def mean_gradients(runs: list[list[BlockGradients]]) -> list[BlockGradients]:
    """Of several runs of one model, each look counting alike."""
    made = []
    for one in runs[0] if runs else ():
        same = [v for run in runs for v in run if v.name == one.name and v.looks]
        looks = sum(v.looks for v in same)

        def mean(name: str, same: list[BlockGradients] = same, looks: int = looks) -> float | None:
            return sum(getattr(v, name) * v.looks for v in same) / looks if looks else None

        made.append(BlockGradients(one.name, one.parameters, mean("norm"), mean("ratio"), mean("fisher"), looks))
    return made
