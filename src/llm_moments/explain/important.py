"""Which parts an answer rests on, and whether that is true: each is left out, and the order is held against chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llm_moments.explain.ablation import Ablation
from llm_moments.explain.explanation import AgainstChance

ALONE = 256  # parts up to which each is left out alone; more are halved, group by group
GROUPS = 32  # that many parts are first left out in
WIDTH = 16  # groups that are halved at a time, those first whose loss is the largest
ORDERS = 19  # by chance
TOGETHER = 4  # parts that are found beside one another
NEAR = 12  # parts that are tried beside those before them
SIZES = (1, 2, 4, 8)  # parts that are left out together, along an order
LONGEST = 32  # parts at most that a smallest set may have


def losses(ablation: Ablation) -> dict[int, float]:
    """What the answer loses without each part, by its number; of very many parts only those that were found to matter."""
    n = len(ablation.parts)
    if n < 2:
        return {}  # without its only part nothing is left to ask about: some models take no empty input
    if n <= ALONE:
        return dict(enumerate(_lost(ablation, [(at,) for at in range(n)])))
    found: dict[tuple[int, ...], float] = {}
    groups = [tuple(part.tolist()) for part in np.array_split(np.arange(n), GROUPS)]
    while groups:
        found |= dict(zip(groups, _lost(ablation, groups), strict=True))
        most = sorted(found, key=lambda group: -abs(found[group]))[:WIDTH]
        split = [group for group in most if len(group) > 1]
        for group in split:
            del found[group]
        groups = [half for g in split for half in (g[: len(g) // 2], g[len(g) // 2 :])]
    return {group[0]: lost for group, lost in found.items() if len(group) == 1}


def _lost(ablation: Ablation, sets: list[tuple[int, ...]]) -> list[float]:
    whole = float(ablation.support([ablation.whole])[0])
    return [whole - float(left) for left in ablation.support([ablation.without(some) for some in sets])]


def order(ablation: Ablation, worths: dict[int, float]) -> list[int]:
    """The parts, what the answer loses most by first. Two that matter alone need not matter together, and the other way
    round: the first few are found one after the other, each beside those before it."""
    rest = sorted(worths, key=lambda at: (-worths[at], at))
    found: list[int] = []
    while rest and len(found) < TOGETHER:
        near = rest[:NEAR] if found else rest[:1]
        left = ablation.support([ablation.without([*found, at]) for at in near])
        found.append(near[int(np.argmin(left))])
        rest.remove(found[-1])
    return found + rest


def faith(ablation: Ablation, ordered: list[int], seed: int = 0) -> AgainstChance:
    """The order of the parts, held against orders by chance."""
    rng = np.random.default_rng(seed)
    n = len(ablation.parts)
    sizes = tuple(k for k in SIZES if k <= max(n // 2, 1) and k <= len(ordered))
    if n < 2:
        return AgainstChance(sizes, 0.0, 0.0, 0, 0)
    orders = [rng.permutation(n).tolist() for _ in range(ORDERS)]
    sets = [tuple(some[:k]) for some in (ordered, *orders) for k in sizes]
    lost = np.reshape(_lost(ablation, sets), (ORDERS + 1, len(sizes))).mean(axis=1)
    return AgainstChance(sizes, float(lost[0]), float(lost[1:].mean()), int((lost[1:] < lost[0]).sum()), ORDERS)


def smallest_that_keeps(ablation: Ablation, ordered: list[int]) -> list[int] | None:
    """Few parts that give the answer by themselves, in the order of the input; None where no few do."""
    steps = range(1, min(len(ordered), LONGEST) + 1)
    kept = ablation.same([ablation.only(ordered[:k]) for k in steps])
    if not kept.any():
        return None
    return _fewer(ordered[: int(kept.argmax()) + 1], ablation.only, ablation, True)


def fewest_that_turn(ablation: Ablation, ordered: list[int]) -> list[int] | None:
    """Few parts without which the answer is another one; None where no few are."""
    steps = range(1, min(len(ordered), len(ablation.parts) - 1, LONGEST) + 1)  # something is left each time
    turned = ~ablation.same([ablation.without(ordered[:k]) for k in steps])
    if not turned.any():
        return None
    return _fewer(ordered[: int(turned.argmax()) + 1], ablation.without, ablation, False)


def _fewer(
    some: list[int], set_of: Callable[[list[int]], tuple[bool, ...]], ablation: Ablation, same: bool
) -> list[int]:
    """Without those that are not needed for it, the least first."""
    for one in reversed(some[:-1]):
        less = [at for at in some if at != one]
        if less and bool(ablation.same([set_of(less)])[0]) == same:
            some = less
    return sorted(some)
