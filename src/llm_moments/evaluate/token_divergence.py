"""How far two engines' next-token distributions are apart along given texts: finer than whether their texts differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Outputs
from llm_moments.tasks.chat import dialogue_of, prompt_ids

MOST = 32  # texts that `compare` looks along
AT_ONCE = 64  # tokens whose distributions are held in float64
TOKENS = 1024  # of a baseline's answers that changes are held against it along, at most
HELD = 2**28  # bytes of its distributions that are kept meanwhile


@dataclass(frozen=True)
class Along:
    """kl: mean Kullback-Leibler divergence of B's distribution from A's, nats a token; top1: share of the tokens at
    which both find the same one likeliest; tokens: over how many; by_text: float64 [texts], the mean kl of each."""

    kl: float
    top1: float
    tokens: int
    by_text: np.ndarray


def divergence_along(pipe_a: Any, pipe_b: Any, prompts: Sequence[Any], texts: Sequence[str]) -> Along:
    """Both engines read the same token ids: A's prompt, then the text (the baseline's own answer, say).

    prompts: inputs as the pipelines take them. InputError where the two have other tokens; EngineError where an
    engine cannot tell its distributions.
    """
    sums, same, counts = [], 0, []
    for ids, told in told_after(pipe_a, prompts, texts, pipe_b):
        if not told:
            continue
        a, b = (_engine(pipe).logprobs([*ids, *told], len(ids)) for pipe in (pipe_a, pipe_b))
        if a.shape != b.shape:
            raise InputError(f"{a.shape[1]:,} tokens in the vocabulary of A, {b.shape[1]:,} in B's: not the same ones")
        sums.append(divergence_of(a, b).sum())
        counts.append(len(told))
        same += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
    if not counts:
        raise InputError("there is no text to compare along: all are empty")
    total = sum(counts)
    return Along(float(sum(sums) / total), same / total, total, np.array(sums) / np.array(counts))


def told_after(
    pipe: Any, prompts: Sequence[Any], texts: Sequence[str], other: Any = None
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of the text after it, as far as the context reaches. other: a pipeline whose tokens
    must be the same ones."""
    for ids, text in zip(prompt_ids(pipe, prompts), texts, strict=True):
        yield ids, _same_tokens(pipe, other or pipe, str(text))[: max(pipe.model.max_length - len(ids), 0)]


def divergence_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [n] from two arrays [n, vocabulary] of log-probabilities: KL(A‖B) in nats; 0 log 0 is 0."""
    found = np.empty(len(a))
    for at in range(0, len(a), AT_ONCE):
        p, q = a[at : at + AT_ONCE].astype(np.float64), b[at : at + AT_ONCE].astype(np.float64)
        apart = np.where(p > -np.inf, p - q, 0.0)
        found[at : at + AT_ONCE] = (np.exp(p) * apart).sum(axis=1)
    return np.maximum(found, 0.0)


def _engine(pipe: Any) -> Any:
    return pipe.engines.get(pipe.engine_settings)


def _same_tokens(pipe_a: Any, pipe_b: Any, text: str) -> list[int]:
    for pipe in (pipe_a, pipe_b):
        if pipe.model.format == "remote":
            raise EngineError(f"{pipe.model.name} has its tokenizer elsewhere; its tokens are not known here")
    mine = dialogue_of(pipe_a.model).encode_plain(text)
    if pipe_a.model is not pipe_b.model and mine != dialogue_of(pipe_b.model).encode_plain(text):
        raise InputError("the two models have other tokens for the same text; their distributions cannot be compared")
    return mine


def along_answers(pipe_a: Any, pipe_b: Any, values: Sequence[Any], outputs: Outputs) -> Along | None:
    """Along A's own answers to the first rows; None where the outputs are no texts or an engine cannot tell."""
    if "text" not in outputs or not pipe_a.task.prompted:
        return None
    try:
        return divergence_along(pipe_a, pipe_b, list(values[:MOST]), [str(text) for text in outputs["text"][:MOST]])
    except (EngineError, InputError):
        return None


@dataclass(frozen=True)
class Moved:
    """How far a pipeline's next-token distributions are from the baseline's along its answers, by text, float64 [texts]:
    kl, sums of KL divergences (nats); nll, sums of what the text's tokens lose in log-likelihood (nats); other: tokens
    at which another one is the likeliest; tokens: of the text."""

    kl: np.ndarray
    nll: np.ndarray
    other: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Told:
    """A baseline's own answers as tokens, with its next-token distributions along them: what changes are held against.

    rows: which of the values have an answer that is used; whole: float32 [tokens, vocabulary] of each."""

    pipe: Any
    values: list[Any]
    rows: list[int]
    prompts: list[list[int]]
    told: list[list[int]]
    whole: list[np.ndarray]

    @classmethod
    def of(cls, pipe: Any, values: Sequence[Any], texts: Sequence[str], most: int = TOKENS) -> Told:
        """Of the first texts, so many tokens in all (fewer of a large vocabulary). EngineError, InputError where the
        engine cannot tell its distributions, or no answer has a token."""
        found = cls(pipe, [], [], [], [], [])
        left = most
        for row, (ids, told) in enumerate(told_after(pipe, values, texts)):
            if not told or not ids:
                continue
            table = _engine(pipe).logprobs([*ids, *told[:left]], len(ids))
            left = min(left, HELD // (4 * table.shape[1]) - sum(map(len, found.told)))
            for kept, one in zip(
                (found.values, found.rows, found.prompts, found.told, found.whole),
                (values[row], row, ids, told[: len(table)], table), strict=True,
            ):  # fmt: skip
                kept.append(one)  # type: ignore[attr-defined]
            left -= len(table)
            if left <= 0:
                break
        if not found.rows:
            raise InputError("there is no text to compare along: all are empty")
        return found

    def against(self, pipe: Any) -> Moved | None:
        """None where nothing before the decoding is another one: the distributions are the same."""
        prompts = prompt_ids(pipe, self.values)
        if pipe.engine_settings == self.pipe.engine_settings and prompts == self.prompts:
            return None
        kl, nll, other = [], [], []
        for ids, told, whole in zip(prompts, self.told, self.whole, strict=True):
            now = _engine(pipe).logprobs([*ids, *told], len(ids))
            if now.shape != whole.shape:
                raise InputError(f"{now.shape[1]:,} tokens in the vocabulary, {whole.shape[1]:,} in the baseline's")
            at = np.arange(len(told))
            kl.append(divergence_of(whole, now).sum())
            nll.append((whole[at, told].astype(np.float64) - now[at, told]).sum())
            other.append((whole.argmax(axis=1) != now.argmax(axis=1)).sum())
        return Moved(*(np.array(one, np.float64) for one in (kl, nll, other, [len(told) for told in self.told])))
