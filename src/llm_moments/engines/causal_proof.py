"""Whether an exported language model answers as transformers does: asked once, when its graph is made, and kept beside it.

Exporters can be wrong and say nothing. The engine is asked as it is for answers, in float32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.engines.generator import Decoding, Generator, Prompt
from llm_moments.engines.transformers_generate import TransformersGenerate

FILE = "proof.json"
LENGTHS, NEW = (3, 40), 12  # tokens of random prompts and, at most, of each answer
TEXTS = ("The capital of France is", "def add(a, b):\n    return")
LIKELY = 50  # tokens of each place whose log-probabilities are held against each other
APART = 0.02  # nats: of them, and of two tokens between which rounding may decide


def prove(engine: Generator, reference: TransformersGenerate, model: Any, folder: Path) -> None:
    """Writes beside the graph whether both answer the same on a few prompts, and why not."""
    why = next((said for ids in _prompts(model) if (said := _why_not(engine, reference, ids))), "")
    (folder / FILE).write_text(json.dumps({"same": not why, "why": why}), encoding="utf-8")


def unproven(folder: Path) -> str:
    """Why the graph in a folder may not stand in for transformers; '' where it may."""
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "nobody has held its answers against those of transformers"
    return "" if told == {"same": True, "why": ""} else str(told.get("why"))


def _prompts(model: Any) -> list[list[int]]:
    """Texts, and random tokens, of which no control token is one."""
    vocabulary = int(len(model.tokenizer))
    special = set(model.tokenizer.all_special_ids)
    usual = [token for token in range(min(vocabulary, 5000)) if token not in special]
    drawn = [np.random.default_rng(n).choice(usual, n).tolist() for n in LENGTHS]
    told = [list(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    return [ids for ids in (*told, *drawn) if 0 < len(ids) < model.max_length - NEW]


def _why_not(engine: Generator, reference: TransformersGenerate, ids: Sequence[int]) -> str:
    """The answer's tokens must be the ones that transformers would choose at their places, which one pass over all of
    them tells, and its end where that would end."""
    made = engine.generate([Prompt(tuple(ids))], Decoding(max_new_tokens=NEW))[0]
    answer = made.ids or []
    ends = [token for token in reference.ends() if made.finish == "stop"]
    whole = [*ids, *answer, *ends[:1]]
    told = reference.logprobs(whole, 1)
    apart = _apart(engine.logprobs(whole, 1), told)
    if not apart <= APART:  # NaN, too
        return f"its log-probabilities are up to {apart:.2g} nats from those of transformers"
    places = told[len(ids) - 1 :]
    chosen = [[token] for token in answer] + ([ends] if ends else [])
    if all(max(place[one]) >= place.max() - APART for place, one in zip(places, chosen, strict=False)):
        return ""
    return "its answers are others than those of transformers"


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference among the likeliest tokens of each place."""
    likely = np.argsort(-expected, axis=-1)[:, :LIKELY]
    differences = np.take_along_axis(found, likely, -1) - np.take_along_axis(expected, likely, -1)
    return float(np.abs(differences).max())
