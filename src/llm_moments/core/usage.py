"""The bill of an answer: what was read, cut and made for it, how it ended, and how long that took."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from llm_moments.core.outputs import Outputs


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one answer, in the words of servers' APIs; None where the engine does not tell, or it is not meant.

    prompt_tokens: that the model was given, after the cut; of them template_, system_, history_ and user_tokens (of a
    dialogue; contents are counted alone, so that a token across a joint counts as the template's). cut_tokens: of the
    prompt that it never saw. cached_tokens: at the beginning of the prompt that a cache spared: the first token at which the
    prefix missed is the one of that number, from 0. completion_tokens: made, without the one that ends an answer (a server
    counts as it likes). finish_reason: "stop" or "length"; stop_string: the one that ended it. draft_tokens: guessed ahead;
    draft_accepted: of them kept. Seconds: load_s, until the engine was open (0 where it was); prefill_s, in the engine up to
    the first token; ttft_s, from the moment the input was there up to the first token, load, template and tokenizing among
    them; tpot_s, a token after the first one.
    """

    prompt_tokens: int | None = None
    cut_tokens: int | None = None
    template_tokens: int | None = None
    system_tokens: int | None = None
    history_tokens: int | None = None
    user_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    stop_string: str | None = None
    draft_tokens: int | None = None
    draft_accepted: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def usages(outputs: Outputs) -> list[Usage]:
    """Of each row what its details say."""
    known = {one.name: told(outputs, one.name) for one in fields(Usage) if one.name in outputs.details}
    return [Usage(**{name: column[at] for name, column in known.items()}) for at in range(len(outputs))]


def told(outputs: Outputs, name: str) -> list[Any]:
    """One of the details, a value a row; None each where nothing is told of it."""
    column = outputs.details.get(name)
    return [_value(name, value) for value in column] if isinstance(column, np.ndarray) else [None] * len(outputs)


def _value(name: str, value: Any) -> Any:
    """A text that is empty and a number that is none say nothing."""
    if isinstance(value, str):
        return str(value) or None
    if math.isnan(value):
        return None
    return float(value) if name.endswith("_s") else int(value)


def numbers(values: Any) -> np.ndarray:
    """float64 [n]: a column of details, NaN where a row's is None."""
    return np.array([math.nan if value is None else value for value in values], np.float64)
