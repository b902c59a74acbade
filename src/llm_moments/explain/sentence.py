"""The one plain sentence on top of an explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_moments.explain.explanation import Explanation

SHARE = 0.5  # of what the model speaks for the answer with: a part that takes so much alone is what it rests on
FEW = 5  # parts that are named
MATTERS = 1.0  # nats that one token of a text must lose without a part
TOGETHER = 2.0  # nats that an answer must lose without several parts together, of which none matters alone
ONE = {"pieces": "piece", "turns": "turn", "paragraphs": "paragraph", "sentences": "sentence", "words": "word"}


def in_a_sentence(found: Explanation) -> str:
    return _of_a_text(found) if found.tokens else _of_a_label(found)


def _of_a_text(found: Explanation) -> str:
    strongest = found.strongest(1)
    if not strongest:
        return "This answer was given to an input of which nothing could be left out."
    first = strongest[0]
    worth, token = first.worth or 0.0, first.token or 0.0
    if token < MATTERS or worth <= 0:
        together = max((pair.worth for pair in found.pairs), default=0.0)
        if together >= TOGETHER:
            one = next(pair for pair in found.pairs if pair.worth == together)
            both = found.named((one.one, one.other))
            return f"This answer rests on {both} together ({together:.1f} {found.unit}); neither alone takes much."
        if (found.without_all or 0.0) >= TOGETHER:
            return (
                f"This answer rests on no {ONE.get(found.parts_are, 'part')} alone (at most {max(worth, 0):.1f} {found.unit}); all of "
                f"them together take {found.without_all:.1f}."
            )
        return (
            f"This answer stands on nothing you gave: without {first.called}, the strongest of {len(found.parts)} "
            f"{found.parts_are}, it loses {max(worth, 0):.1f} {found.unit}."
        )
    if found.test.orders and not found.test.holds:
        return (
            f"No {found.parts_are} were found that this answer rests on: leaving out those that seem to matter took "
            f"{found.test.lost:.2f} {found.unit}, as many by chance {found.test.by_chance:.2f}."
        )
    more = f", and on {found.strongest(2)[1].called} ({found.strongest(2)[1].worth:.1f})" if _second(found) else ""
    return f"This answer rests on {first.called} ({worth:.1f} {found.unit}){more}."


def _second(found: Explanation) -> bool:
    """Whether another part takes at least half as much."""
    two = found.strongest(2)
    return len(two) > 1 and (two[1].token or 0.0) >= MATTERS and 2 * (two[1].worth or 0.0) >= (two[0].worth or 0.0)


def _of_a_label(found: Explanation) -> str:
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
