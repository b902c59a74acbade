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
        if len({type(member) for member in child}) != 1 or not next(child.children(), None):
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

    The embeddings are the sibling before the layers' parent that holds an `Embedding`; the head is
    whatever of the outermost module comes after the encoder and has parameters.
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
    """Top-level siblings after the base model, as one block each time one of them has parameters."""
    base = path.split(".")[0]
    after = False
    last: tuple[str, Any] | None = None
    for name, child in module.named_children():
        if after and any(True for _ in child.parameters()):
            last = last or (name, child)
        after = after or name == base
    if last:
        yield Block("head", last[0], last[1])


def skip(module: Any, indices: Sequence[int]) -> Any:
    """The same module with some layers replaced by the identity on the hidden states."""
    path, layers = layer_list(module)
    if any(i >= len(layers) for i in indices):
        raise EngineError(f"this model has the layers 0 to {len(layers) - 1}; cannot skip {list(indices)}")
    if len(layers) == 1:
        raise EngineError("this model has one layer (or shares one among all); it cannot be skipped")
    for index in indices:
        layers[index] = _identity(layers[index])
    return module


def _identity(layer: Any) -> Any:
    import torch

    class Skipped(torch.nn.Module):
        """Gives back its first input, in a tuple if the layer that stood here returns one."""

        def __init__(self) -> None:
            super().__init__()
            for name in ("attention_type", "is_sliding", "layer_type"):  # read by some parents
                if hasattr(layer, name):
                    setattr(self, name, getattr(layer, name))

        def forward(self, hidden_states: Any = None, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states,) if as_tuple else hidden_states

    as_tuple = _returns_tuple(layer)
    return Skipped()


def _returns_tuple(layer: Any) -> bool:
    """Read from the return annotation or the source; a wrong guess fails loudly in the first pass."""
    import inspect

    source = inspect.getsource(type(layer).forward)
    returns = [line.strip() for line in source.splitlines() if line.strip().startswith("return ")]
    last = returns[-1] if returns else ""
    return last in {"return outputs", "return (hidden_states,)"} or last.startswith(("return (", "return tuple"))
