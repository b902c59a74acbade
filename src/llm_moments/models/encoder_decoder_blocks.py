"""The two sides of an encoder-decoder, each with its embeddings, layers and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_moments.base.errors import EngineError
from llm_moments.models.blocks import Block, beside, calls_of, layer_list

SIDES = ("encoder", "decoder")


def sides(module: Any) -> dict[str, list[Block]]:
    """{"encoder": blocks, "decoder": blocks} in the order of the forward pass, as one small pass shows it.

    Embeddings are the modules with weights that run before a side's first layer (of Whisper: its convolutions), the head
    those that run after its last one (of the decoder: the output layer, too). EngineError where a side has no layers.
    """
    paths = {id(child): path for path, child in module.named_modules()}
    found: dict[str, list[Block]] = {}
    for name, part in zip(SIDES, (module.get_encoder(), module.get_decoder()), strict=True):
        path, layers = layer_list(part)
        near = list(beside(part, path).values())
        if name == "decoder":  # what stands beside it in the whole model: the output layer
            apart = [module.get_encoder(), part]
            near += [one for one in beside(module, paths[id(part)]).values() if not _holds(one, apart)]
        found[name] = _side(calls_of(module, [*layers, *near]), list(layers), paths, type(module).__name__)
    return found


def _holds(module: Any, parts: Sequence[Any]) -> bool:
    """Whether one of the parts is that module or inside it."""
    inside = {id(child) for child in module.modules()}
    return any(id(part) in inside for part in parts)


def _side(order: Sequence[Any], layers: Sequence[Any], paths: dict[int, str], name: str) -> list[Block]:
    numbers = {id(layer): number for number, layer in enumerate(layers)}
    at = [i for i, called in enumerate(order) if id(called) in numbers]
    if len(at) != len(layers):
        raise EngineError(f"the layers of {name} are not called once each in a forward pass")
    before = list({id(m): m for m in order[: at[0]]}.values())
    after = [m for m in {id(m): m for m in order[at[-1] + 1 :]}.values() if m not in before]
    found = [Block(f"layer {numbers[id(layer)]}", paths[id(layer)], layer) for layer in (order[i] for i in at)]
    if before:
        found.insert(0, Block("embeddings", paths[id(before[0])], before[0], tuple(before[1:])))
    if after:
        found.append(Block("head", paths[id(after[-1])], after[-1], tuple(after[:-1])))
    return found
