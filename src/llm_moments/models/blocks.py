"""Finds the layers of any `torch.nn.Module` and leaves some of them out.

A model's layers are the longest run of sibling blocks of one class: the largest `ModuleList` (or
`Sequential`) all of whose members are of one class with parameters of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_moments.base.errors import EngineError


@dataclass(frozen=True)
class Block:
    """A part of the forward pass: `embeddings`, `layer 0` … `layer n` or `head`, and where it is.

    `module` is its main module; `also` are others that work beside it, such as a pooler before the
    classifier. `turn`: which call of the module in a pass this block is, for modules called often.
    """

    name: str
    path: str
    module: Any
    also: tuple[Any, ...] = ()
    turn: int = 0


RESHAPES = -1
Patterns = dict[str, "re.Pattern[str]"]  # name of a block -> what its operations are called in a graph


def float_parts(module: Any, settings: Mapping[str, Any]) -> Patterns:
    """The blocks that `keep_float` names, by the modules' paths, which exported graphs keep."""
    wanted = list(settings.get("keep_float", ()))
    if not wanted:
        return {}
    known = {block.name: block for block in blocks(module.inner)}
    if missing := [name for name in wanted if name not in known]:
        raise EngineError(f"no layer {missing} to keep in float in this model; it has {', '.join(known)}")
    called = Counter(id(block.module) for block in known.values())
    if shared := [name for name in wanted if called[id(known[name].module)] > 1]:
        raise EngineError(f"{shared} cannot be kept in float alone: this model uses one layer's weights many times")
    paths = {id(child): path for path, child in module.named_modules()}
    return {name: _called(paths[id(m)] for m in (known[name].module, *known[name].also)) for name in wanted}


def _called(paths: Iterable[str]) -> re.Pattern[str]:
    ways = "|".join("[./_]".join(map(re.escape, path.split("."))) for path in paths)
    return re.compile(rf"(.*[./_])?({ways})[./].*")


def matching(parts: Patterns, names: Sequence[str]) -> list[str]:
    """The operations of a graph that belong to these blocks; EngineError for a block that has none."""
    found = {part: [name for name in names if pattern.match(name)] for part, pattern in parts.items()}
    if empty := [part for part, some in found.items() if not some]:
        shown = ", ".join(names[:5])
        raise EngineError(f"{empty} cannot be kept in float: no operation of the graph bears its name ({shown}, …)")
    return sorted({name for some in found.values() for name in some})


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


def layer_run(module: Any) -> list[tuple[str, Any]]:
    """The layers with their paths. In a network of stages for images (ResNet, ConvNeXt, Swin …) they are the
    blocks within the stages, where every stage holds a run of them."""
    path, layers = layer_list(module)
    run = [(f"{path}.{i}", layer) for i, layer in enumerate(layers)]
    if getattr(module, "input_shape", None) is None:
        return run
    inner = [_inner_run(name, stage) for name, stage in run]
    return [pair for found in inner for pair in found] if all(inner) else run


def _inner_run(path: str, stage: Any) -> list[tuple[str, Any]]:
    """The blocks of one stage; [] if it holds no run of blocks that have parts of their own."""
    import torch

    for name, child in [("", stage), *stage.named_children()]:
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential) and len(child):
            kinds = {type(member) for member in child if not hasattr(member, "stands_for_a_layer")}
            if len(kinds) <= 1 and all(
                len(list(member.children())) > 1 or hasattr(member, "stands_for_a_layer") for member in child
            ):
                inside = f"{path}.{name}" if name else path
                return [(f"{inside}.{i}", member) for i, member in enumerate(child)]
    return []


def blocks(module: Any) -> list[Block]:
    """Embeddings, layers and head, in the order of the forward pass, as one pass over four tokens shows it.

    Embeddings are the modules with weights that run beside the layers and before the first one, the
    head those that run after the last one. A layer that is called again (ALBERT has one for all its
    layers) is a block for each call.
    """
    path, _ = layer_list(module)
    run = layer_run(module)
    members = {id(layer): name for name, layer in run}
    near = beside(module, path)
    order = calls_of(module, [*(layer for _, layer in run), *near.values()])
    at = [i for i, called in enumerate(order) if id(called) in members]
    if not at:
        raise EngineError(f"the layers of {type(module).__name__} take no part in its forward pass")
    paths = {id(child): name for name, child in near.items()}
    before = _once(c for c in order[: at[0]] if id(c) in paths)
    after = _once(c for c in order[at[-1] + 1 :] if id(c) in paths and c not in before)
    found, turns = [], Counter[int]()
    for number, layer in enumerate(order[i] for i in at):
        found.append(Block(f"layer {number}", members[id(layer)], layer, (), turns[id(layer)]))
        turns[id(layer)] += 1
    if before:
        main = next((c for c in before if _embeds(c)), before[0])
        found.insert(0, Block("embeddings", paths[id(main)], main, tuple(c for c in before if c is not main)))
    if after:
        found.append(Block("head", paths[id(after[-1])], after[-1], tuple(after[:-1])))
    return found


def layer_count(module: Any) -> int:
    """How many layers a forward pass goes through."""
    return sum(block.name.startswith("layer") for block in blocks(module))


def beside(module: Any, path: str) -> dict[str, Any]:
    """Modules with weights that stand beside the way from the module down to its layers, by path."""
    trunk, found = path.split("."), {}
    for depth, step in enumerate(trunk):
        parent = module.get_submodule(".".join(trunk[:depth]))
        for name, child in parent.named_children():
            if name != step and any(True for _ in child.parameters()):
                found[".".join([*trunk[:depth], name])] = child
    return found


def calls_of(module: Any, watched: Sequence[Any]) -> list[Any]:
    """The watched modules as they are called in one pass, again each time they are called again."""
    called: list[Any] = []
    handles = [child.register_forward_pre_hook(lambda m, args: called.append(m)) for child in watched]
    try:
        _small_pass(module)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _once(modules: Iterable[Any]) -> list[Any]:
    return list({id(m): m for m in modules}.values())


def _embeds(module: Any) -> bool:
    import torch

    return any(isinstance(m, torch.nn.Embedding) for m in module.modules())


def _small_pass(module: Any) -> None:
    import torch

    first = next(module.parameters())
    if (shape := getattr(module, "input_shape", None)) is not None:  # of an image
        with torch.no_grad():
            module(pixel_values=torch.zeros((1, *shape), dtype=first.dtype, device=first.device))
        return
    if getattr(module.config, "is_encoder_decoder", False) and hasattr(module.config, "num_mel_bins"):  # of speech
        frames = 2 * int(module.config.max_source_positions)
        heard = torch.zeros((1, module.config.num_mel_bins, frames), dtype=first.dtype, device=first.device)
        with torch.no_grad():
            begun = torch.full((1, 1), int(module.config.decoder_start_token_id), device=first.device)
            module(input_features=heard, decoder_input_ids=begun)
        return
    token = min(5, int(getattr(module.config, "vocab_size", 6)) - 1)
    ids = torch.full((1, 4), token, dtype=torch.long, device=first.device)
    both = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    with torch.no_grad():
        module(input_ids=ids, **({"decoder_input_ids": ids} if both else {}))


def skip(module: Any, indices: Sequence[int]) -> Any:
    """The same module with some layers replaced by the identity on the hidden states."""
    path, _ = layer_list(module)
    run = layer_run(module)
    calls = layer_count(module)
    if any(i >= calls for i in indices):
        raise EngineError(f"this model has the layers 0 to {calls - 1}; cannot skip {list(indices)}")
    if len(set(indices)) >= calls:
        raise EngineError(f"this model has {calls} layers; not all of them can be skipped")
    if calls != len(run):
        return _fewer_turns(module, path, calls - len(set(indices)))
    forms = _forms(module, [run[i][1] for i in indices])
    for index, form in zip(indices, forms, strict=True):
        name, layer = run[index]
        if form == RESHAPES:
            raise EngineError(f"layer {index} changes the shape of what passes through it; it cannot be skipped")
        module.set_submodule(name, _identity(layer, form))
    return module


def _fewer_turns(module: Any, path: str, turns: int) -> Any:
    """For one layer that stands for all: leaving any of them out is one turn less."""
    config = module.get_submodule(path.rpartition(".")[0]).config
    one_for_all = len(layer_list(module)[1]) == 1
    if one_for_all:
        config.num_hidden_layers = turns
    if not one_for_all or layer_count(module) != turns:
        raise EngineError(f"{type(module).__name__} shares layers in a way in which none can be skipped")
    return module


def _forms(module: Any, chosen: Sequence[Any]) -> list[int]:
    """How many things each layer returns (0: a bare tensor; RESHAPES: another shape than it was given), seen in
    one small pass."""
    seen: dict[int, int] = {}

    def look(at: int, args: Any, out: Any) -> None:
        first = out[0] if isinstance(out, tuple) else out
        same = not args or getattr(args[0], "shape", None) == getattr(first, "shape", None)
        seen[at] = RESHAPES if not same else len(out) if isinstance(out, tuple) else 0

    handles = [
        layer.register_forward_hook(lambda _, args, out, at=at: look(at, args, out)) for at, layer in enumerate(chosen)
    ]
    try:
        _small_pass(module)
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
