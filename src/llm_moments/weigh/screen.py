"""Screening: which layers look dispensable, from one forward and backward pass over a few examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.core import Pipeline

EXAMPLES = 48


def skip_scores(pipe: Pipeline, values: Sequence[Any]) -> np.ndarray:
    """First-order Taylor of leaving out each layer: float64 [layers], higher matters more.

    mean over tokens of |(h_out - h_in) · dL/dh_out|, where L is the divergence of the outputs from
    themselves when a layer's change of the hidden state is scaled down (Molchanov et al. 2019,
    arXiv:1906.10771, applied to residual blocks). L is the cross-entropy with the model's own answer.
    """
    import torch

    from llm_moments.engines.layers import layer_list
    from llm_moments.engines.torch_eager import load_module

    module = load_module(pipe.model)
    _, layers = layer_list(module)
    kept: dict[int, tuple[Any, Any]] = {}

    def watch(index: int) -> Any:
        def hook(block: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            after.retain_grad()
            kept[index] = (before, after)

        return hook

    handles = [layer.register_forward_hook(watch(i), with_kwargs=True) for i, layer in enumerate(layers)]
    totals = np.zeros(len(layers))
    sample = pipe.with_(**{"forward.engine": "torch", "forward.precision": "fp32", "batch.reuse": False})
    for fields in sample.arrays(values[:EXAMPLES]):
        logits = module(**{name: torch.from_numpy(array) for name, array in fields.items()}).logits
        _own_loss(logits).backward()
        mask = torch.from_numpy(fields["attention_mask"]).bool()
        for index, (before, after) in kept.items():
            effect = ((after - before) * after.grad).sum(-1).detach()
            totals[index] += float(effect[mask].abs().sum())
        module.zero_grad(set_to_none=True)
        kept.clear()
    for handle in handles:
        handle.remove()
    return totals


def _own_loss(logits: Any) -> Any:
    """Cross-entropy with the model's own answers; half the squared output where there is one number."""
    import torch

    if logits.shape[-1] == 1:
        return (logits - logits.detach() * 0.9).square().sum() / 2
    return torch.nn.functional.cross_entropy(logits, logits.detach().argmax(-1), reduction="sum")


def chosen_for_ablation(scores: np.ndarray, *, all_below: int = 9, seed: int = 0) -> list[int]:
    """Which layers are really left out: all if there are few; else the lowest third, both extremes of
    what remains, and two at random as an audit of the screen."""
    count = len(scores)
    if count < all_below:
        return list(range(count))
    order = np.argsort(scores)
    chosen = set(order[: -(-count // 3)].tolist()) | {int(order[-1]), int(order[-2])}
    rest = [int(i) for i in order if int(i) not in chosen]
    audit = np.random.default_rng(seed).choice(rest, min(2, len(rest)), replace=False)
    return sorted(chosen | {int(i) for i in audit})
