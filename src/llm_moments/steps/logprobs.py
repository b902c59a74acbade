"""The log-probability of each token of an answer, as the model itself gives it: before temperature, penalties and the rules
of a schema. One more pass over prompt and answer tells it, so that every engine with `logprobs` can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core.outputs import Column, Outputs, Ragged
from llm_moments.engines.generator import Generated, Prompt


def told_logprobs(
    engine: Any, prompts: Sequence[Prompt], made: Sequence[Generated], most: int, start: tuple[int, ...]
) -> dict[str, Column]:
    """Details of the outputs, ragged, a value a token of the answer: `tokens` (ids), `logprobs` (nats), and of each token after
    those of the other the `most` likeliest at its place, `top_tokens`, `top_logprobs`, the likeliest first. start: as `Decode`
    has it."""
    rows = [_row(engine, prompt, one, most, start) for prompt, one in zip(prompts, made, strict=True)]
    ids, own, best, theirs = zip(*rows, strict=True)
    told: dict[str, Column] = {"tokens": Ragged.of(ids, np.int64), "logprobs": Ragged.of(own, np.float32)}
    if most:
        told["top_tokens"] = Ragged.of([some.ravel() for some in best], np.int64)
        told["top_logprobs"] = Ragged.of([some.ravel() for some in theirs], np.float32)
    return told


def _row(engine: Any, prompt: Prompt, one: Generated, most: int, start: tuple[int, ...]) -> tuple[Any, ...]:
    if one.ids is None:
        raise EngineError(f"{engine.name} does not tell the tokens of its answers; take decode.logprobs back")
    ids = np.array(one.ids, np.int64)
    if not len(ids):
        return ids, [], np.empty(0), np.empty(0)
    before = list(prompt.decoder or start) if engine.encodes else list(prompt.ids)
    table = engine.logprobs([*before, *one.ids], len(before), prompt)
    best = np.argpartition(-table, min(most, table.shape[1]) - 1, axis=1)[:, :most]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(table, best, 1), axis=1, kind="stable"), 1)
    return ids, table[np.arange(len(ids)), ids], best, np.take_along_axis(table, best, 1)


def tokens_of(outputs: Outputs, piece: Callable[[int], str]) -> list[Any]:
    """Of each row its tokens as OpenAI's API has them: {"token", "id", "logprob", "top_logprobs": [{"token", "id", "logprob"}]};
    None each where nobody asked. piece: the text of one token."""
    found = (outputs.details.get(name) for name in ("tokens", "logprobs", "top_tokens", "top_logprobs"))
    columns = [one for one in found if isinstance(one, Ragged)]
    if not columns:
        return [None] * len(outputs)
    return [_tokens(piece, [one.row(at) for one in columns]) for at in range(len(outputs))]


def _tokens(piece: Callable[[int], str], row: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    ids, own, *others = row
    best, theirs = (one.reshape(len(ids), -1) if len(ids) else one for one in others or (own[:, None][:, :0],) * 2)
    return [_token(piece, *values) for values in zip(ids, own, best, theirs, strict=True)]


def _token(piece: Callable[[int], str], token: Any, logprob: Any, best: Any, theirs: Any) -> dict[str, Any]:
    others = [_one(piece, *pair) for pair in zip(best.tolist(), theirs.tolist(), strict=True)]
    return {**_one(piece, int(token), float(logprob)), "top_logprobs": others}


def _one(piece: Callable[[int], str], token: int, logprob: float) -> dict[str, Any]:
    return {"token": piece(token), "id": token, "logprob": logprob}
