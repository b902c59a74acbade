"""Leaving out each layer of a model that makes texts: judged along the baseline's own answers first.

Decoding anew without each layer would take as long as decoding for each. Along a text that is there, one pass tells
the next token's distribution at every place, and what lies before the layer that is left out is not computed again.
"""

from __future__ import annotations

import inspect
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
from llm_moments.evaluate.token_divergence import divergence_of, told_after
from llm_moments.tasks.chat import dialogue_of
from llm_moments.tasks.metrics import common_prefix
from llm_moments.weigh.changes import skips
from llm_moments.weigh.clock import Clock, Tick
from llm_moments.weigh.layers import Layers
from llm_moments.weigh.price import judged, priced
from llm_moments.weigh.weighing import Weighing
from llm_moments.weigh.worth import Worth

TOKENS = 1024  # of the baseline's answers that layers are judged along, about
TEXTS = 128  # answers at most
LOWEST = 2  # layers of the least divergence that answers are made without; one at random is an audit
ANEW = LOWEST + 1
ALONG = "layers left out along the baseline's answers"


@dataclass(frozen=True)
class Seen:
    """Of one text and one layer left out, along the text's tokens. kl: KL divergence of the next token's distribution
    from the whole model's, nats [tokens]; nll: rise of the text's negative log-likelihood, nats [tokens]; start: the
    answer as far as it would have been the same, with the first token that would not, where there is one."""

    kl: np.ndarray
    nll: np.ndarray
    start: str


def weigh_text_layers(
    base: Pipeline, part: Evaluation, outputs: Outputs, *, exhaustive: bool = False, timed: bool = True,
    seed: int = 0, tick: Tick = lambda done, message: None, weighing: Weighing | None = None,
) -> Layers:  # fmt: skip
    """outputs: the base's texts on the part. exhaustive: answers are made anew without each of the layers.

    weighing: keeps a budget; then as many texts are gone along as there is time for."""
    clock = weighing.clock if weighing else Clock(tick=tick)
    one = weighing.one if weighing else partial(priced, base, part, outputs, timed=timed)
    if why := _why_not(base):
        return Layers([], f"none: {why}")
    if "text" not in outputs:
        return _one_by_one(base, weighing, one)
    along: dict[int, list[Seen]] = {}
    try:
        _along(base, part, outputs, along, clock, weighing.costs.base if weighing else 0.0)
    except (EngineError, ModelError, InputError) as error:
        return Layers([], f"none: {error}")
    if not along:
        empty = "there is no text to judge layers along; all answers are empty"
        return Layers([], f"none: {clock.why if clock.missing else empty}")
    layers = len(next(iter(along.values())))
    means = np.array([np.concatenate([seen[at].kl for seen in along.values()]).mean() for at in range(layers)])
    order = [int(at) for at in np.argsort(means, kind="stable")]
    audit = np.random.default_rng(seed).permutation(order[LOWEST:])[:1].tolist()
    anew = set(range(layers)) if exhaustive else {*order[:LOWEST], *audit}
    settings = base.engine_settings
    if not follows(engine_class(settings["engine"]), "skip_layers", settings.get("precision", "fp32")):
        anew = set()
    worths = []
    for at, change in enumerate(skips(layers)):
        worth = _worth(base, part, outputs, along, at)
        if at in anew:
            clock.tell(f"{change.name}, answers made anew")
            made = one(change)
            worth = made if made.verdict == "unavailable" else replace(made, kl=worth.kl, nll=worth.nll)
            if change.name in clock.missing:  # what was seen along the texts stays
                anew, worth = anew - {at}, _worth(base, part, outputs, along, at)
        worths.append(worth)
    tokens = sum(len(seen[0].kl) for seen in along.values())
    screen = (
        f"every layer left out along {tokens:,} tokens of {len(along)} of the baseline's answers (in fp32), "
        f"{len(anew)} of {layers} with answers made anew"
    )
    return Layers(worths, screen)


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
    kl, nll = (
        float(np.concatenate([getattr(seen[at], name) for seen in along.values()]).mean()) for name in ("kl", "nll")
    )
    if part.labelled or not _greedy(base):
        return Worth(
            change.name, change.step, dict(change.choices), "unclear", n=len(rows), kl=kl, nll=nll, ablated=False
        )
    few = part.take(rows)
    before = np.ones(len(rows))
    after = np.array([common_prefix(along[row][at].start, str(outputs["text"][row])) for row in rows])
    found = judged(few, before, after)
    return Worth(
        change.name, change.step, dict(change.choices), "unclear", kl=kl, nll=nll, ablated=False,
        divergence=float(1 - after.mean()), **found,
    )  # fmt: skip


def _greedy(base: Pipeline) -> bool:
    chosen = base.plan.settings("decode")
    return not chosen.get("temperature") and chosen.get("beams", 1) == 1 and chosen.get("repetition_penalty", 1) == 1


def _along(
    base: Pipeline, part: Evaluation, outputs: Outputs, found: dict[int, list[Seen]], clock: Clock, cost: float
) -> None:
    """Puts into `found`, for some rows of the part, what was seen without each of the layers.

    cost: seconds that the first text may take; of the next ones that is known."""
    from llm_moments.engines.sharing import shared

    module = shared(base.engines.model_for(base.plan.settings("forward")))
    dialogue, tokens, seconds = dialogue_of(base.model), 0, cost
    for row, (ids, told) in enumerate(
        told_after(base, part.values[:TEXTS], [str(text) for text in outputs["text"][:TEXTS]])
    ):
        if tokens >= TOKENS:
            return
        if told:
            begin, name = clock.now(), f"{ALONG}: {min(tokens / TOKENS, 1):.0%}"
            seen = clock.run(name, seconds, partial(_seen, module, ids, told, dialogue.decode))
            if seen is None:
                return
            found[row], seconds = seen, clock.now() - begin
            tokens += len(told)


def _seen(module: Any, ids: Sequence[int], told: Sequence[int], text: Callable[[Sequence[int]], str]) -> list[Seen]:
    from llm_moments.models.blocks import layer_run

    found = []
    with _held(module, [*ids, *told]) as run:
        whole = run(None, len(told) + 1)
        likely, at = whole.argmax(1), np.arange(len(told))
        for layer in range(len(layer_run(module))):
            now = run(layer, len(told) + 1)
            other = np.flatnonzero(now.argmax(1) != likely)
            start = told if not len(other) else [*told[: other[0]], int(now[other[0]].argmax())]
            found.append(Seen(divergence_of(whole, now)[:-1], whole[at, told] - now[at, told], text(start)))
    return found


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
