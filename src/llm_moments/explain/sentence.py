"""The one plain sentence on top of an explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_moments.explain.explanation import Explanation

SHARE = 0.5  # of what the model speaks for the answer with: a part that takes so much alone is what it rests on
FEW = 5  # parts that are named


def in_a_sentence(found: Explanation) -> str:
    strongest = found.strongest(1)
    if not strongest:
        return f"The answer {found.answer} was given to an input with nothing to leave out."
    if found.test.orders and not found.test.holds:
        return (
            f"No {found.parts_are} were found that this answer rests on: leaving out those that seem to matter took "
            f"{found.test.lost:.2f} {found.unit}, as many by chance {found.test.by_chance:.2f}."
        )
    first = strongest[0]
    name, worth = f"“{first.name[:60]}”", f"{first.worth:.1f} {found.unit}"
    if (first.worth or 0.0) <= 0:
        return f"The answer {found.answer} stands on nothing that was given: no part speaks for it."
    if found.turns is not None and len(found.turns) == 1:
        return f"The answer rests on {found.named(found.turns)} ({worth}): without it, it is {found.turned}."
    if found.keeps is not None and len(found.keeps) <= FEW:
        give = (
            f"{found.named(found.keeps)} {'alone gives' if len(found.keeps) == 1 else 'together give'} the same answer"
        )
        many = "; no single one decides" if (first.worth or 0.0) < SHARE * found.support else ""
        return f"{give}{many}."
    if found.turns is not None:
        return (
            f"It takes {len(found.turns)} of {len(found.parts)} {found.parts_are} to turn the answer to {found.turned}: "
            f"{found.named(found.turns[:FEW])}{' …' if len(found.turns) > FEW else ''}."
        )
    return f"The answer stands on many {found.parts_are}: the strongest, {name}, takes {worth} of {found.support:.1f}."
