"""How far a step is from what this machine can do: counted operations and bytes, measured peaks."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_moments.record.profiles import layer_of
from llm_moments.record.session import Figure, StepCost

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int8-dynamic": 1.0}
PEAK_OF = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16", "int8": "int8", "int8-dynamic": "int8"}
NONE_KNOWN = "the model's sizes are neither in its weights nor in its configuration"


@dataclass(frozen=True)
class Load:
    """What a forward step computed: padded tokens in `batches` passes, and the sum over all rows of the
    square of their padded length."""

    tokens: float
    squares: float
    batches: float


@dataclass(frozen=True)
class Sizes:
    """weights: parameters in the matrices of each layer; hidden: width of the attention."""

    weights: Mapping[int, float]
    hidden: float

    def flops(self, layer: int, load: Load) -> float:
        """2 for each weight and token; attention's scores and sums: every token with all of its row."""
        return 2 * self.weights[layer] * load.tokens + 4 * self.hidden * load.squares

    def bytes(self, layer: int, load: Load, each: float) -> float:
        """Weights are read once a batch, hidden states read and written once a layer: no less than that."""
        return each * (self.weights[layer] * load.batches + 2 * self.hidden * load.tokens)


def sizes(model: Any, skipped: Iterable[int] = ()) -> Sizes | None:
    """Read from the header of the weights' file; from the configuration where there is none."""
    config = model.config
    hidden = next((config[k] for k in ("hidden_size", "dim", "n_embd", "d_model") if config.get(k)), None)
    if not hidden:
        return None
    layers = next((config[k] for k in ("num_hidden_layers", "n_layers", "n_layer") if config.get(k)), 0)
    found: Counter[int] = Counter()
    for name, shape in shapes(model.path):
        layer = layer_of(name)
        if layer and layer.startswith("layer ") and len(shape) >= 2:
            found[int(layer.split()[1])] += math.prod(shape)
    if len(found) == 1 and layers > 1:  # one layer for all of them
        found = Counter(dict.fromkeys(range(layers), next(iter(found.values()))))
    inner = next((config[k] for k in ("intermediate_size", "hidden_dim", "d_inner") if config.get(k)), 4 * hidden)
    if not found:
        found = Counter(dict.fromkeys(range(layers), 4 * hidden * hidden + 2 * hidden * inner))
    left_out = set(skipped)
    kept = {layer: float(weights) for layer, weights in sorted(found.items()) if layer not in left_out}
    return Sizes(kept, float(hidden)) if kept else None


def shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of all tensors: the header of a safetensors file is JSON behind its length."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            head = stream.read(8)
            if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > min(100_000_000, file.stat().st_size):
                continue
            for name, tensor in json.loads(stream.read(length)).items():
                if name != "__metadata__":
                    yield name, tensor["shape"]


def limited(forward: StepCost, model: Any, settings: Mapping[str, Any], load: Load) -> StepCost:
    """The forward step with its share of the machine's measured limit, and so its layers."""
    from llm_moments.base.environment import peaks

    known = sizes(model, settings.get("skip_layers", ()))
    precision = settings.get("precision", "fp32")
    if known is None:
        return replace(forward, limit=Figure.none("share", NONE_KNOWN))
    peak, copy = peaks().get(PEAK_OF[precision]), peaks().get("copy_gb")
    if not peak or not copy:
        return replace(forward, limit=Figure.none("share", f"no peak was measured for {precision}"))

    def least(layers: Iterable[int]) -> float:
        layers = list(layers)
        compute = sum(known.flops(i, load) for i in layers) / peak
        moved = sum(known.bytes(i, load, BYTES[precision]) for i in layers) / copy
        return max(compute, moved) / 1e9

    def share(seconds: float, layers: Iterable[int]) -> Figure:
        if seconds <= 0:
            return Figure.none("share", "no time was measured")
        note = f"operations and bytes counted from shapes and padded tokens; {precision} peak {peak:,.0f} GFLOP/s"
        return Figure(least(layers) / seconds, "share", "modelled", note)

    def opened(step: StepCost) -> StepCost:
        kind, _, number = step.name.partition(" ")
        layer = int(number) if kind == "layer" and number.isdigit() else -1
        return step if layer not in known.weights else replace(step, limit=share(step.wall_s, [layer]))

    if settings.get("bf16_layers"):
        return replace(forward, limit=Figure.none("share", "layers are computed in different precisions"))
    children = tuple(opened(child) for child in forward.children)
    return replace(forward, limit=share(forward.wall_s, known.weights), children=children)
