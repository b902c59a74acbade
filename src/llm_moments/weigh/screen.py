"""Screening: which layers look dispensable, before any of them is left out on all examples.

A model of few layers is screened by gradient, from one forward and backward pass over a few examples; in
one of many, every layer is also left out on a share of the examples, which is an unbiased screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.core import Pipeline

EXAMPLES = 48
SHARE, LEAST = 1 / 8, 32  # of the examples, for leaving out each of many layers
QUARTER = 0.24  # of the cost of leaving every layer out on all examples; the gradients take what is left to 1/4


def skip_scores(pipe: Pipeline, values: Sequence[Any]) -> np.ndarray:
    """First-order Taylor of leaving out each layer: float64 [layers], higher matters more.

    mean over tokens of |(h_out - h_in) · dL/dh_out|, where L is the divergence of the outputs from
    themselves when a layer's change of the hidden state is scaled down (Molchanov et al. 2019,
    arXiv:1906.10771, applied to residual blocks). L is the cross-entropy with the model's own answer.
    """
    import torch

    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import layer_run

    module = load_module(pipe.model)
    layers = [layer for _, layer in layer_run(module)]
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
        mask = torch.from_numpy(fields["attention_mask"]).bool() if "attention_mask" in fields else ...
        for index, (before, after) in kept.items():
            lost = after - before if before.shape == after.shape else after  # there all of it would be gone
            effect = (lost * after.grad).sum(1 if after.ndim == 4 else -1).detach()  # [rows, channels, height, width]
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


def sample_rows(count: int, seed: int) -> list[int]:
    """Which of `count` examples every layer is left out on, in their order."""
    size = min(count, max(LEAST, round(count * SHARE)))
    return sorted(np.random.default_rng(seed).choice(count, size, replace=False).tolist())


def chosen_for_ablation(scores: np.ndarray, *, share: float = SHARE, seed: int = 0) -> list[int]:
    """Which layers are left out on all examples: the lowest of the screen, and one at random as its audit.

    share: of the examples that the screen has taken; all of it stays at a quarter of leaving each layer
    out on all of them, if it can.
    """
    count = len(scores)
    order = [int(i) for i in np.argsort(scores, kind="stable")]
    lowest = max(1, int((QUARTER - share) * count) - 1)
    audit = np.random.default_rng(seed).permutation(order[lowest:])[:1].tolist()
    return sorted({*order[:lowest], *audit})
