"""Changes of texts that mostly leave their class as it is: words left out, swapped, replaced (Wei and Zou 2019,
arXiv:1901.11196)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from zipfile import BadZipFile

import numpy as np

from llm_moments.base.errors import EngineMissing, InputError
from llm_moments.steps.augment import TEXT, wanted

PIECE = re.compile(r"\S+\s*")  # a word with the space after it
CURE = "Get them with: python -m nltk.downloader wordnet (or point NLTK_DATA to where they are)"
CORE = re.compile(r"^(\W*)([\w'-]*\w)(.*)$", re.DOTALL)  # marks, the word itself, marks and space


def augment(value: Any, rng: np.random.Generator, spec: Mapping[str, float]) -> Any:
    """A text, or each of a pair, after the changes of `spec` (see `steps.augment.TEXT`). A text with one word or
    none stays; of any other at least one word does."""
    if not isinstance(value, str):
        return tuple(augment(text, rng, spec) for text in value)
    pieces = PIECE.findall(value)
    if len(pieces) < 2:
        return value
    for change, amount in wanted(spec, TEXT):
        pieces = change(pieces, rng, amount)
    return "".join(pieces)


def dropped(pieces: list[str], rng: np.random.Generator, share: float) -> list[str]:
    stays = rng.random(len(pieces)) >= share
    if not stays.any():
        stays[rng.integers(len(pieces))] = True
    return [piece for piece, stay in zip(pieces, stays, strict=True) if stay]


def swapped(pieces: list[str], rng: np.random.Generator, share: float) -> list[str]:
    """Each word changes places with the next one with this chance; the spaces stay where they are."""
    words = [piece.rstrip() for piece in pieces]
    spaces = [piece[len(word) :] for piece, word in zip(pieces, words, strict=True)]
    for at in np.flatnonzero(rng.random(len(words) - 1) < share) if len(words) > 1 else ():
        words[at], words[at + 1] = words[at + 1], words[at]
    return [word + space for word, space in zip(words, spaces, strict=True)]


def replaced(
    pieces: list[str], rng: np.random.Generator, share: float, known: Callable[[str], tuple[str, ...]] | None = None
) -> list[str]:
    """Another word of the same meaning in the place of a word that has one. known: words of a word's meaning."""
    known = known or synonyms
    made = list(pieces)
    for at in np.flatnonzero(rng.random(len(pieces)) < share):
        found = CORE.match(pieces[at])
        others = known(found[2].lower()) if found else ()
        if found and others:
            other = others[int(rng.integers(len(others)))]
            made[at] = found[1] + (other.capitalize() if found[2][0].isupper() else other) + found[3]
    return made


def has_synonyms() -> bool:
    """Whether a word net is on this machine."""
    try:
        return bool(synonyms("good"))
    except (EngineMissing, InputError):
        return False


@lru_cache(maxsize=100_000)
def synonyms(word: str) -> tuple[str, ...]:
    """Of the WordNet that nltk has on this machine: what its commonest meaning is also called. EngineMissing without
    nltk, InputError without its data."""
    try:
        from nltk.corpus import wordnet
    except ImportError as error:
        raise EngineMissing("nltk", "augment") from error
    try:
        meanings = wordnet.synsets(word)
    except LookupError as error:
        raise InputError(
            f"augment: synonym needs the data of WordNet, which nltk does not find here. {CURE}"
        ) from error
    except (OSError, BadZipFile, ValueError) as error:
        raise InputError(f"augment: the data of WordNet that nltk finds here are damaged ({error}). {CURE}") from error
    names = {name.replace("_", " ") for meaning in meanings[:1] for name in meaning.lemma_names()}
    return tuple(sorted(name for name in names if name.lower() != word))
