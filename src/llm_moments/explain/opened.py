"""What is seen closer of an answer: parts that matter taken apart further, and its tokens with what each of them rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from llm_moments.core import Outputs
from llm_moments.core.parts import AnswerToken, Part
from llm_moments.explain.ablation import Ablation
from llm_moments.explain.explanation import PartWorth
from llm_moments.explain.important import losses

MATTERS = 1.0  # of the unit: what a part must be worth to be taken apart further, or one token of the answer must lose
MOST = 3  # parts that are taken apart, at each level


def worths_of(ablation: Ablation, worths: Mapping[int, float]) -> tuple[PartWorth, ...]:
    """Every part with what is known of it; those that matter most are taken apart where they can be."""
    given = sorted(set(ablation.parts.given) & set(worths), key=lambda at: -worths[at])
    opened = {at: _inside(ablation, at) for at in given[:MOST] if worths[at] >= MATTERS}
    return tuple(_worth(ablation, at, part, worths.get(at), opened) for at, part in enumerate(ablation.parts.parts))


def _worth(
    ablation: Ablation, at: int, part: Part, worth: float | None, opened: Mapping[int, tuple[PartWorth, ...]]
) -> PartWorth:
    token = None if worth is None else ablation.most_of_a_token([at])
    return PartWorth(part.name, part.place, worth, part.title, part.asks, token, opened.get(at, ()))


def _inside(ablation: Ablation, at: int) -> tuple[PartWorth, ...]:
    inner = None if ablation.late() else ablation.parts.inner(at)
    if inner is None:
        return ()
    closer = ablation.within(inner)
    return worths_of(closer, losses(closer))


def tokens_of(ablation: Ablation, value: Any, answer: Outputs) -> Iterator[AnswerToken]:
    """The answer's tokens, each with what it loses without each part of the input."""
    whole = ablation.tokens(ablation.whole)
    found = ablation.pipe.task.answer_tokens(ablation.pipe, value, answer)
    if whole is None or not found:
        yield from found
        return
    sets = [ablation.without([at]) for at in range(len(ablation.parts))]
    lost = [whole - ablation.tokens(kept) if ablation.known(kept) else None for kept in sets]  # type: ignore[operator]
    for at, token in enumerate(found):
        yield replace(token, loses=tuple(None if one is None else float(one[at]) for one in lost))


def faithful(ablation: Ablation, why: str, given: bool) -> str:
    """Where an answer was judged, and whether it is the same one there; '' where that goes without saying."""
    if not ablation.pipe.task.streams:
        return ""
    forward = ablation.pipe.settled().plan.settings("forward")
    where = f"judged in {forward.get('engine')} {forward.get('precision')}" + (
        f": {why}" if why else ", which answered"
    )
    if given:
        return f"{where}. The answer was given, not made."
    if bool(ablation.same([ablation.whole])[0]):
        return f"{where}. There it is the same answer, word for word."
    tokens = ablation.tokens(ablation.whole)
    least = (
        ""
        if tokens is None
        else f" (the least likely of its tokens has a probability of {float(np.exp(tokens.min())):.3f})"
    )
    return f"{where}. There it is not what the likeliest tokens make{least}."
