"""Leaving out each layer of a model that makes texts: judged along the baseline's own answers first.

Decoding anew without each layer would take as long as decoding for each. Along a text that is there, one pass tells
the next token's distribution at every place, and what lies before the layer that is left out is not computed again.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError, InputError, ModelError
from llm_moments.core import Outputs, Pipeline
from llm_moments.core.change import Change
from llm_moments.engines.base import engine_class, follows
from llm_moments.evaluate.evaluation import Evaluation
from llm_moments.evaluate.token_divergence import Moved, divergence_of, told_after
from llm_moments.tasks.chat import dialogue_of
from llm_moments.tasks.metrics import common_prefix
from llm_moments.weigh.changes import skips
from llm_moments.weigh.clock import Clock, Tick
from llm_moments.weigh.layers import Layers
from llm_moments.weigh.moved import along as moved_fields
from llm_moments.weigh.price import judged, priced
from llm_moments.weigh.weighing import Weighing
from llm_moments.weigh.worth import Worth

TOKENS = 1024  # of the baseline's answers that layers are judged along, about
TEXTS = 128  # answers at most
LOWEST = 2  # layers of the least divergence that answers are made without; one at random is an audit
PAIR = 2  # texts: of one alone there is no interval
BESIDE = "layers left out along the baseline's answers"
ALONG = ("kl", "kl_low", "kl_high", "nll", "tokens_changed", "n")  # what a Worth has of the texts


@dataclass(frozen=True)
class Seen:
    """Of one text and one layer left out, along the text's tokens. kl: KL divergence of the next token's distribution
    from the whole model's, nats [tokens]; nll: rise of the text's negative log-likelihood, nats [tokens]; start: the
    answer as far as it would have been the same, with the first token that would not, where there is one; other: tokens
    at which another one is the likeliest."""

    kl: np.ndarray
    nll: np.ndarray
    start: str
    other: int


def weigh_text_layers(
    base: Pipeline, part: Evaluation, outputs: Outputs, *, exhaustive: bool = False, timed: bool = True,
    seed: int = 0, tick: Tick = lambda done, message: None, weighing: Weighing | None = None,
) -> Layers:  # fmt: skip
    """Of models that are judged by likelihoods: there is no answer to go along (those that make texts: `layers_along`)."""
    if why := _why_not(base):
        return Layers([], f"none: {why}")
    return _one_by_one(base, weighing, weighing.one if weighing else partial(priced, base, part, outputs, timed=timed))


def layers_along(
    base: Pipeline, part: Evaluation, outputs: Outputs, clock: Clock, seconds: float = math.inf
) -> tuple[Layers, np.ndarray]:
    """Each layer left out along the baseline's texts on the part, and the mean divergence that this brings, nats [layers]
    (empty where nothing was found). seconds: after so many no further text is gone along."""
    none = np.empty(0)
    if why := _why_not(base):
        return Layers([], f"none: {why}"), none
    along: dict[int, list[Seen]] = {}
    try:
        _along(base, part, outputs, along, clock, clock.now() + seconds)
    except (EngineError, ModelError, InputError) as error:
        return Layers([], f"none: {error}"), none
    if not along:
        empty = "there is no text to judge layers along; all answers are empty"
        return Layers([], f"none: {clock.why if clock.missing else empty}"), none
    layers = range(len(next(iter(along.values()))))
    tokens = sum(len(seen[0].kl) for seen in along.values())
    said = f"every layer left out along {tokens:,} tokens of {len(along)} of the baseline's answers (in fp32)"
    means = np.array([np.concatenate([seen[at].kl for seen in along.values()]).mean() for at in layers])
    return Layers([_worth(base, part, outputs, along, at) for at in layers], said), means


def answers_anew(
    base: Pipeline, layers: Layers, means: np.ndarray, one: Callable[[Change], Worth], *, exhaustive: bool = False,
    seed: int = 0,
) -> Layers:  # fmt: skip
    """The layers of the least divergence and one at random, an audit, left out in making answers; what was seen along the
    texts stays where one of them cannot be. exhaustive: all layers."""
    order = [int(at) for at in np.argsort(means, kind="stable")]
    audit = np.random.default_rng(seed).permutation(order[LOWEST:])[:1].tolist()
    settings = base.engine_settings
    follow = follows(engine_class(settings["engine"]), "skip_layers", settings.get("precision", "fp32"))
    chosen = [] if not follow else order if exhaustive else [*order[:LOWEST], *audit]
    worths, changes, anew = list(layers.worths), skips(len(order)), 0
    for at in chosen:
        made, along = one(changes[at]), worths[at]
        if made.verdict != "unavailable":
            seen = {name: getattr(along, name) for name in ALONG}
            worths[at], anew = replace(made, **seen), anew + 1
    return Layers(worths, f"{layers.screen}, {anew} of {len(order)} with answers made anew")


def _why_not(base: Pipeline) -> str:
    if base.model.format not in ("transformers", "gguf") or not base.task.prompted:
        return f"the layers of a {base.model.format} model for {base.task.name} are not weighed"
    if base.plan.settings("forward").get("skip_layers"):
        return "the plan leaves out layers already"
    return ""


def _one_by_one(base: Pipeline, weighing: Weighing | None, one: Callable[[Change], Worth]) -> Layers:
    """Where likelihoods are judged there is no answer to go along: one pass without the layer tells all there is."""
    from llm_moments.engines.sharing import shared
    from llm_moments.models.blocks import layer_count

    settings = base.plan.settings("forward")
    engine, precision = settings.get("engine", "transformers"), settings.get("precision", "fp32")
    if not follows(engine_class(engine), "skip_layers", precision):
        return Layers([], f"none: {engine} cannot leave out layers")
    todo = skips(layer_count(shared(base.engines.model_for(settings))))
    if weighing:
        weighing.plan(todo)
    return Layers([one(change) for change in todo], "every layer left out on all examples")


def _worth(base: Pipeline, part: Evaluation, outputs: Outputs, along: dict[int, list[Seen]], at: int) -> Worth:
    """By what was seen along the texts. The drop is known without references only: then an answer counts as far as
    it is the baseline's, and where that ends is where another token is the likeliest."""
    change, rows = skips(at + 1)[at], list(along)
    every = [seen[at] for seen in along.values()]
    columns = ([float(seen.kl.sum()), float(seen.nll.sum()), seen.other, len(seen.kl)] for seen in every)
    moved = Moved(*np.array(list(columns), np.float64).T)
    told = moved_fields(moved, None if part.units is None else np.asarray(part.units[rows]))
    found = Worth(change.name, change.step, dict(change.choices), "unclear", ablated=False, **told)
    if part.labelled or not _greedy(base):
        return found
    after = np.array(
        [common_prefix(seen.start, str(outputs["text"][row])) for seen, row in zip(every, rows, strict=True)]
    )
    scored = judged(part.take(rows), np.ones(len(rows)), after)
    return replace(found, divergence=float(1 - after.mean()), **scored)


def _greedy(base: Pipeline) -> bool:
    chosen = base.plan.settings("decode")
    return not chosen.get("temperature") and chosen.get("beams", 1) == 1 and chosen.get("repetition_penalty", 1) == 1


def _along(
    base: Pipeline, part: Evaluation, outputs: Outputs, found: dict[int, list[Seen]], clock: Clock, until: float
) -> None:
    """Puts into `found`, for some rows of the part, what was seen without each of the layers. At least for two rows,
    where the clock has the time; no further one is begun after `until`."""
    from llm_moments.engines.sharing import shared

    module = shared(base.engines.model_for(base.plan.settings("forward")))
    dialogue, tokens, seconds = dialogue_of(base.model), 0, 0.0
    for row, (ids, told) in enumerate(
        told_after(base, part.values[:TEXTS], [str(text) for text in outputs["text"][:TEXTS]])
    ):
        if tokens >= TOKENS or (len(found) >= PAIR and clock.now() + seconds > until):
            return
        if told:
            begin, name = clock.now(), f"{BESIDE}: {min(tokens / TOKENS, 1):.0%}"
            seen = clock.run(name, seconds, partial(_seen, module, ids, told, dialogue.decode))
            if seen is None:
                return
            found[row], seconds = seen, clock.now() - begin
            tokens += len(told)


def _seen(*given: Any) -> list[Seen]:
    return list(seen_without(*given))


def seen_without(
    module: Any, ids: Sequence[int], told: Sequence[int], text: Callable[[Sequence[int]], str]
) -> Iterator[Seen]:
    """What is seen along the tokens `told` after `ids` without each of the layers, one after the other."""
    from llm_moments.models.blocks import layer_run

    with _held(module, [*ids, *told]) as run:
        whole = run(None, len(told) + 1)
        likely, at = whole.argmax(1), np.arange(len(told))
        for layer in range(len(layer_run(module))):
            now = run(layer, len(told) + 1)
            other = np.flatnonzero(now.argmax(1) != likely)
            start = told if not len(other) else [*told[: other[0]], int(now[other[0]].argmax())]
            lost = whole[at, told] - now[at, told]
            yield Seen(divergence_of(whole, now)[:-1], lost, text(start), int((other < len(told)).sum()))


@contextmanager
def _held(module: Any, ids: Sequence[int]) -> Iterator[Callable[[int | None, int], np.ndarray]]:
    """A function (layer or None, tokens) -> float32 [tokens, vocabulary]: log-probabilities of what comes after each of
    the last tokens, without that layer. What comes before the layer is taken from the pass of the whole model."""
    import torch

    from llm_moments.models.blocks import layer_run

    layers = [layer for _, layer in layer_run(module)]
    hidden: list[Any] = [None] * len(layers)  # what goes into each layer of the whole model
    forms = [0] * len(layers)  # how many things each gives back; 0: the bare hidden state
    left: int | None = None
    fewer = {"logits_to_keep"} & set(inspect.signature(module.forward).parameters)

    def through(number: int, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        if left is not None and number <= left:
            passed = hidden[number] if number == left else given
            return (passed, *[None] * (forms[number] - 1)) if forms[number] else passed
        out = own(*args, **kwargs)
        if left is None:
            hidden[number], forms[number] = given, len(out) if isinstance(out, tuple) else 0
        return out

    def run(layer: int | None, tokens: int) -> np.ndarray:
        nonlocal left
        left = layer
        with torch.inference_mode():
            given = {"input_ids": torch.tensor([list(ids)]), "use_cache": False, **dict.fromkeys(fewer, tokens)}
            return np.asarray(torch.log_softmax(module(**given).logits[0, -tokens:].float(), dim=-1).numpy())

    for number, layer in enumerate(layers):
        layer.forward = partial(through, number, layer.forward)
    try:
        yield run
    finally:
        for layer in layers:
            del layer.forward  # the class's own is seen again
