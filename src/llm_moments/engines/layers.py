"""Finds the layers of any `torch.nn.Module` and leaves some of them out.

A model's layers are the longest run of sibling blocks of one class: the largest `ModuleList` (or
`Sequential`) all of whose members are of one class with parameters of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llm_moments.errors import EngineError


@dataclass(frozen=True)
class Block:
    """A part of the forward pass: `embeddings`, `layer 0` … `layer n` or `head`, and where it is."""

    name: str
    path: str
    module: Any


def layer_list(module: Any) -> tuple[str, Any]:
    """The run of sibling blocks with the most parameters: its path and the list itself."""
    import torch

    best: tuple[int, str, Any] = (0, "", None)
    for path, child in module.named_modules():
        if not isinstance(child, torch.nn.ModuleList | torch.nn.Sequential) or not len(child):
            continue
        if len({type(member) for member in child if not hasattr(member, "stands_for_a_layer")}) != 1:
            continue
        weight = sum(p.numel() for p in child.parameters())
        inner = any(len(list(member.children())) for member in child)
        # An outer list wins over the lists inside its members; a list of one (ALBERT's group) is one layer.
        if inner and weight > best[0]:
            best = (weight, path, child)
    if best[2] is None:
        raise EngineError(f"no run of layers was found in {type(module).__name__}")
    return best[1], best[2]


def blocks(module: Any) -> list[Block]:
    """Embeddings, layers and head, in the order of the forward pass.

    The embeddings are the sibling before the layers' parent that holds an `Embedding`; the head is the
    last module beside the base model that has parameters.
    """
    path, layers = layer_list(module)
    found = [Block(f"layer {i}", f"{path}.{i}", layer) for i, layer in enumerate(layers)]
    return [*_embeddings(module, path), *found, *_head(module, path)]


def _embeddings(module: Any, path: str) -> Iterator[Block]:
    import torch

    trunk = path.split(".")
    for depth in range(len(trunk)):
        parent = module.get_submodule(".".join(trunk[:depth]))
        for name, child in parent.named_children():
            if name == trunk[depth]:
                break
            if any(isinstance(m, torch.nn.Embedding) for m in child.modules()):
                yield Block("embeddings", ".".join([*trunk[:depth], name]), child)
                return


def _head(module: Any, path: str) -> Iterator[Block]:
    """The last of the base model's siblings that has parameters: what makes the logits."""
    base = path.split(".")[0]
    others = [(n, c) for n, c in module.named_children() if n != base and any(True for _ in c.parameters())]
    if others:
        yield Block("head", *others[-1])


def skip(module: Any, indices: Sequence[int]) -> Any:
    """The same module with some layers replaced by the identity on the hidden states."""
    path, layers = layer_list(module)
    if any(i >= len(layers) for i in indices):
        raise EngineError(f"this model has the layers 0 to {len(layers) - 1}; cannot skip {list(indices)}")
    if len(layers) == 1:
        raise EngineError("this model has one layer (or shares one among all); it cannot be skipped")
    forms = _forms(module, [layers[i] for i in indices])
    for index, form in zip(indices, forms, strict=True):
        layers[index] = _identity(layers[index], form)
    return module


def _forms(module: Any, chosen: Sequence[Any]) -> list[int]:
    """How many things each layer returns (0: a bare tensor), seen in one pass over four tokens."""
    import torch

    seen: dict[int, int] = {}
    handles = [
        layer.register_forward_hook(
            lambda _, args, out, at=at: seen.__setitem__(at, len(out) if isinstance(out, tuple) else 0)
        )
        for at, layer in enumerate(chosen)
    ]
    try:
        with torch.no_grad():
            module(input_ids=torch.ones((1, 4), dtype=torch.long))
    finally:
        for handle in handles:
            handle.remove()
    return [seen.get(at, 0) for at in range(len(chosen))]


def _identity(layer: Any, form: int) -> Any:
    import torch

    class Skipped(torch.nn.Module):
        """Gives back its first input, as the layer that stood here returns its hidden states."""

        stands_for_a_layer = True

        def __init__(self) -> None:
            super().__init__()
            for name in ("attention_type", "is_sliding", "layer_type"):  # read by some parents
                if hasattr(layer, name):
                    setattr(self, name, getattr(layer, name))

        def forward(self, hidden_states: Any = None, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states, *[None] * (form - 1)) if form else hidden_states

    return Skipped()
