"""How far the two sides of an encoder-decoder are from what this machine can do, by their matrices and the rows read."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_moments.record.limits import PEAK_OF, shapes
from llm_moments.record.profiles import layer_of
from llm_moments.record.session import Figure, StepCost

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0}
# What CTranslate2 says it computes in, as this project's precisions name it.
COMPUTED = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int8": "int8", "int8_float32": "int8",
            "int8_bfloat16": "int8", "int8_float16": "int8"}  # fmt: skip
NO_PRODUCT = re.compile(r"embed|position|relative|norm", re.IGNORECASE)  # tables that are looked up, or one row wide
VERSION, LONGEST_NAME = 6, 4096


@dataclass(frozen=True)
class Halves:
    """Weights in the matrices of each layer of the encoder; of what stands before them (Whisper's convolutions: each is
    applied at every position, the first one at twice as many); of all the decoder's matrices and its output layer."""

    encoder: Mapping[int, float]
    before: tuple[float, ...]
    decoder: float
    cross: float  # of `decoder`: keys and values of the encoder's outputs, which are made once for each
    hidden: float

    def layer_flops(self, layer: int, positions: float, squares: float) -> float:
        """2 a weight and position; attention's scores and sums: every position with all of its row."""
        return 2 * self.encoder[layer] * positions + 4 * self.hidden * squares

    def before_flops(self, positions: float) -> float:
        return sum(2 * weights * positions * (2 if at == 0 else 1) for at, weights in enumerate(self.before))


def halves(model: Any) -> Halves | None:
    """Read from the header of the weights' file; None where it does not say, or the model has no two sides."""
    found = list(bin_shapes(model.path / "model.bin") if model.format == "ctranslate2" else shapes(model.path))
    encoder: Counter[int] = Counter()
    before: dict[str, float] = {}
    decoder, cross, output, hidden = 0.0, 0.0, 0.0, 0.0
    for name, shape in found:
        size = float(math.prod(shape))
        side = next((part for part in re.split(r"[./]", name) if part in ("encoder", "decoder")), None)
        layer = layer_of(name)
        if len(shape) == 2 and (layer is None or not layer.startswith("layer")):
            output = max(output, size)  # the output layer; where it is the embeddings' own table, that one
        if len(shape) < 2 or NO_PRODUCT.search(name) or side is None:
            continue
        if side == "decoder" and layer and layer.startswith("layer"):
            decoder += size
            cross += size * _of_cross(name)
        elif side == "encoder" and layer and layer.startswith("layer"):
            encoder[int(layer.split()[1])] += int(size)
            hidden = hidden or float(min(shape))
        elif side == "encoder" and len(shape) == 3:
            before[name] = size
    if not encoder or not decoder:
        return None
    layers = {k: float(v) for k, v in sorted(encoder.items())}
    return Halves(layers, tuple(before[name] for name in sorted(before)), decoder + output, cross, hidden)


def _of_cross(name: str) -> float:
    """Share of a matrix that makes keys and values of the encoder's outputs."""
    if re.search(r"(encoder_attn|EncDecAttention)\.(k|v|k_proj|v_proj)\.", name):
        return 1.0
    return 1.0 if re.search(r"/attention/linear_1/weight$", name) else 0.0


def bin_shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of the tensors of a CTranslate2 model.bin, without reading them; none of another version."""
    with file.open("rb") as stream:

        def number(form: str) -> int:
            return int(struct.unpack(form, stream.read(struct.calcsize(form)))[0])

        def word() -> str:
            return stream.read(min(number("<H"), LONGEST_NAME)).rstrip(b"\0").decode("utf-8", "replace")

        try:
            if number("<I") != VERSION:
                return
            word(), number("<I")
            for _ in range(number("<I")):
                name, rank = word(), number("<B")
                shape = [number("<I") for _ in range(min(rank, 8))]
                number("<B")
                stream.seek(number("<I"), 1)
                yield name, shape
        except struct.error:  # cut: the engine will say so
            return


def precision_of(engine: Any, settings: Mapping[str, Any]) -> str:
    """What is computed in, as the engine says it; else as it was asked."""
    return COMPUTED.get(engine.computes, str(settings.get("precision", "fp32")))


def encoder_limited(step: StepCost, known: Halves | None, precision: str) -> StepCost:
    """The step `encoder` with its share of the measured limit, and so its layers. It counts `positions` (places that were
    computed, filling included) and `squares` (the sum over rows of their squares)."""
    positions, squares = step.counts.get("positions", 0.0), step.counts.get("squares", 0.0)
    if known is None or not positions:
        return replace(step, limit=Figure.none("share", "the model's sizes are not known"))

    def share(seconds: float, layers: Iterable[int], before: bool) -> Figure:
        layers = list(layers)
        flops = sum(known.layer_flops(n, positions, squares) for n in layers)
        weights = sum(known.encoder[n] for n in layers)
        if before:
            flops, weights = flops + known.before_flops(positions), weights + sum(known.before)
        return limit_of(flops, weights * step.calls, seconds, precision)

    def opened(child: StepCost) -> StepCost:
        kind, _, number = child.name.partition(" ")
        if kind == "layer" and int(number) in known.encoder:
            return replace(child, limit=share(child.wall_s, [int(number)], False))
        if kind == "embeddings" and known.before:
            return replace(child, limit=share(child.wall_s, [], True))
        return child

    children = tuple(opened(child) for child in step.children)
    return replace(step, limit=share(step.wall_s, known.encoder, True), children=children)


def limit_of(flops: float, weights: float, seconds: float, precision: str) -> Figure:
    """Least seconds for so many operations and weights read, over the seconds it took."""
    from llm_moments.base.environment import peaks

    peak, copy = peaks().get(PEAK_OF.get(precision, "")), peaks().get("copy_gb")
    if not peak or not copy or seconds <= 0:
        return Figure.none("share", f"no peak was measured for {precision}, or no time")
    least = max(flops / peak, weights * BYTES.get(precision, 4.0) / copy) / 1e9
    note = f"operations and bytes counted from shapes; {precision} peak {peak:,.0f} GFLOP/s, copy {copy:,.0f} GB/s"
    return Figure(least / seconds, "share", "modelled", note)
