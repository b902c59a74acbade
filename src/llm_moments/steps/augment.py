"""What may be done to training examples: names, how much of each, and where the random numbers come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from llm_moments.base.errors import InputError
from llm_moments.base.registry import resolve


@dataclass(frozen=True)
class Change:
    """One way of changing an example. most: the largest amount; usual: the amount if none is said.

    by: the function, `file:name` of this room, of (words of a text, rng, amount), of (images, rng, amount) or, where it
    mixes examples, of (images, soft targets, rng, amount); none of what is made ahead of a training.
    """

    usual: float
    most: float
    means: str
    by: str = ""
    mixes: bool = False


# In this order they are applied.
TEXT: dict[str, Change] = {
    "synonym": Change(0.1, 1.0, "share of the words that another word of the same meaning takes the place of", "augment_text:replaced"),
    "swap": Change(0.1, 1.0, "share of the words that change places with the next one", "augment_text:swapped"),
    "word-dropout": Change(0.1, 1.0, "share of the words that are left out", "augment_text:dropped"),
    "back-translation": Change(0.3, 1.0, "share of the texts that their translation there and back takes the place of"),
}  # fmt: skip
IMAGE: dict[str, Change] = {
    "crop": Change(4, 1024, "pixels of padding round the image before a part of its size is cut out of it", "augment_image:crop"),
    "flip": Change(0.5, 1.0, "share of the images that are mirrored, left to right", "augment_image:flip"),
    "colour": Change(0.2, 1.0, "most that brightness, contrast and saturation change", "augment_image:colour"),
    "mixup": Change(0.2, 10.0, "alpha of the Beta distribution by which two images are mixed", "augment_image:mixup", mixes=True),
    "cutmix": Change(1.0, 10.0, "alpha of the Beta distribution of how much of one image is put into another", "augment_image:cutmix", mixes=True),
}  # fmt: skip


def wanted(
    spec: Mapping[str, float], known: Mapping[str, Change], *, mixes: bool = False
) -> Iterator[tuple[Any, float]]:
    """(function, amount) of what is asked for, in its order."""
    for name, change in known.items():
        if spec.get(name) and change.by and change.mixes == mixes:
            yield resolve(change.by, "steps"), spec[name]


def parse(text: str, known: Mapping[str, Change]) -> dict[str, float]:
    """`word-dropout=0.1,swap` as `{"word-dropout": 0.1, "swap": 0.1}`; InputError for what is not known."""
    found: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, amount = part.partition("=")
        name = name.strip()
        if equals:
            try:
                found[name] = float(amount)
            except ValueError:
                raise InputError(f"augment: {name} takes a number, not {amount!r}") from None
        else:
            found[name] = known[name].usual if name in known else 0.0
    return checked(found, known)


def checked(spec: Mapping[str, float], known: Mapping[str, Change]) -> dict[str, float]:
    """The same without what is 0; InputError naming the unknown change or the impossible amount."""
    for name, amount in spec.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            cure = f"did you mean {near[0]!r}?" if near else f"known here are {', '.join(known)}"
            raise InputError(f"augment: unknown change {name!r}; {cure}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= known[name].most:
            raise InputError(f"augment: {name} ({known[name].means}) is from 0 to {known[name].most:g}, not {amount!r}")
    return {name: float(amount) for name, amount in spec.items() if amount}


def drawn(seed: int, *place: int) -> np.random.Generator:
    """The random numbers of this place in a run (epoch, row in its order): the same after a resumption, other
    ones when the same row comes again."""
    return np.random.default_rng([seed, *place, 0xA06])
