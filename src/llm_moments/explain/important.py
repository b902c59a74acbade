"""Which parts an answer rests on, and whether that is true: each is left out, and the order is held against chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from llm_moments.explain.ablation import Ablation
from llm_moments.explain.explanation import AgainstChance, PairWorth


def losses(ablation: Ablation) -> dict[int, float]:
    """What the answer loses without each part, by its number; of very many parts only those that were found to matter, and
    those that there was time for."""
    n, pace = len(ablation.parts), ablation.pace
    if n < 2:
        return {}  # without its only part nothing is left to ask about: some models take no empty input
    if n <= pace.alone:
        every: dict[int, float] = {}
        for at in range(0, n, pace.at_once):
            if every and ablation.late():
                break
            some = range(at, min(at + pace.at_once, n))
            every |= dict(zip(some, _lost(ablation, [(one,) for one in some]), strict=True))
        return every
    found: dict[tuple[int, ...], float] = {}
    groups = [tuple(part.tolist()) for part in np.array_split(ablation.parts.given, pace.groups) if len(part)]
    begun = ablation.asked
    while groups and ablation.asked - begun < n and not (found and ablation.late()):  # never more than one by one
        found |= dict(zip(groups, _lost(ablation, groups), strict=True))
        most = sorted(found, key=lambda group: -abs(found[group]))[: pace.width]
        split = [group for group in most if len(group) > 1]
        for group in split:
            del found[group]
        groups = [half for g in split for half in (g[: len(g) // 2], g[len(g) // 2 :])]
    asks = [at for at, part in enumerate(ablation.parts.parts) if part.asks]
    question = dict(zip(asks, _lost(ablation, [(at,) for at in asks]), strict=True))
    return {group[0]: lost for group, lost in found.items() if len(group) == 1} | question


def _lost(ablation: Ablation, sets: Sequence[tuple[int, ...]]) -> list[float]:
    whole = float(ablation.support([ablation.whole])[0])
    return [whole - float(left) for left in ablation.support([ablation.without(some) for some in sets])]


def order(ablation: Ablation, worths: dict[int, float]) -> list[int]:
    """The parts, what the answer loses most by first. Two that matter alone need not matter together, and the other way
    round: the first few are found one after the other, each beside those before it."""
    pace, given = ablation.pace, set(ablation.parts.given)
    rest = sorted(given & set(worths), key=lambda at: (-worths[at], at))
    found: list[int] = []
    while rest and len(found) < pace.together and not ablation.late():
        near = rest[: pace.near] if found else rest[:1]
        left = ablation.support([ablation.without([*found, at]) for at in near])
        found.append(near[int(np.argmin(left))])
        rest.remove(found[-1])
    return found + rest


def faith(ablation: Ablation, ordered: list[int], seed: int = 0) -> AgainstChance:
    """The order of the parts, held against orders by chance."""
    rng = np.random.default_rng(seed)
    given, pace = ablation.parts.given, ablation.pace
    sizes = tuple(k for k in pace.sizes if k <= max(len(given) // 2, 1) and k <= len(ordered))
    if len(given) < 2 or not sizes or ablation.late():
        return AgainstChance(sizes, 0.0, 0.0, 0, 0)
    orders = [[given[at] for at in rng.permutation(len(given))] for _ in range(pace.orders)]
    orders = [
        some for some in orders if any(set(some[:k]) != set(ordered[:k]) for k in sizes)
    ]  # others than the found one
    if not orders:
        return AgainstChance(sizes, 0.0, 0.0, 0, 0)
    sets = [tuple(some[:k]) for some in (ordered, *orders) for k in sizes]
    lost = np.reshape(_lost(ablation, sets), (len(orders) + 1, len(sizes))).mean(axis=1)
    return AgainstChance(sizes, float(lost[0]), float(lost[1:].mean()), int((lost[1:] < lost[0]).sum()), len(orders))


def smallest_that_keeps(ablation: Ablation, ordered: list[int]) -> list[int] | None:
    """Few parts that give the answer by themselves, in the order of the input; None where no few do."""
    if not _given_by_all(ablation):
        return None
    steps = range(1, min(len(ordered), ablation.pace.longest) + 1)
    kept = ablation.same([ablation.only(ordered[:k]) for k in steps])
    if not kept.any():
        return None
    return _fewer(ordered[: int(kept.argmax()) + 1], ablation.only, ablation, True)


def fewest_that_turn(ablation: Ablation, ordered: list[int]) -> list[int] | None:
    """Few parts without which the answer is another one; None where no few are."""
    if not _given_by_all(ablation):
        return None
    most = min(len(ordered), len(ablation.parts) - 1, ablation.pace.longest)  # something is left each time
    steps = range(1, most + 1)
    turned = ~ablation.same([ablation.without(ordered[:k]) for k in steps])
    if not turned.any():
        return None
    return _fewer(ordered[: int(turned.argmax()) + 1], ablation.without, ablation, False)


def _given_by_all(ablation: Ablation) -> bool:
    """Whether the whole input gives the answer: one that was drawn, or that a person gave, need not be the model's own."""
    return not ablation.late() and bool(ablation.same([ablation.whole])[0])


def pairs(ablation: Ablation, worths: dict[int, float]) -> list[PairWorth]:
    """What the answer loses without two of the strongest parts together: where both say the same, neither matters alone."""
    strongest = sorted(set(ablation.parts.given) & set(worths), key=lambda at: (-worths[at], at))[: ablation.pace.pairs]
    some = list(combinations(strongest, 2))
    if len(ablation.parts) < 3 or ablation.late():
        return []
    return [PairWorth(one, other, lost) for (one, other), lost in zip(some, _lost(ablation, some), strict=True)]


def _fewer(
    some: list[int], set_of: Callable[[list[int]], tuple[bool, ...]], ablation: Ablation, same: bool
) -> list[int]:
    """Without those that are not needed for it, the least first."""
    for one in reversed(some[:-1]):
        less = [at for at in some if at != one]
        if less and bool(ablation.same([set_of(less)])[0]) == same:
            some = less
    return sorted(some)
