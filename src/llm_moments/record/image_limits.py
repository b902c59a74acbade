"""How far an image model is from what this machine can do: operations counted once for the shape of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_moments.base.errors import MomentsError
from llm_moments.record.limits import BYTES, PEAK_OF
from llm_moments.record.session import Figure, StepCost


@dataclass(frozen=True)
class Work:
    """Of one block: operations (2 for a multiplication and its addition) an image, and weights."""

    flops: float
    weights: float


def work_of(model: Any, settings: Mapping[str, Any]) -> dict[str, Work]:
    """By block, and "" for all of it. Nothing is computed: shapes go through the module without their numbers.

    MomentsError where the module cannot be opened or one of its operations has no shape without numbers.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from llm_moments.engines.foreign import failing_as
    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.blocks import blocks

    module = load_module(model, settings.get("skip_layers", ()))
    found = blocks(module)
    paths = {id(child): path for path, child in module.named_modules()}
    shape = (1, module.input_shape[0], *settings["image_size"])
    with failing_as("operations could not be counted"), torch.no_grad():
        module.to("meta")
        with FlopCounterMode(display=False) as counter:
            module(pixel_values=torch.zeros(shape, device="meta"))
        counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    root = type(module).__name__
    made = {"": Work(counted.get("Global", 0), _weights(module))}
    for block in found:
        parts = (block.module, *block.also)
        flops = sum(counted.get(f"{root}.{paths[id(part)]}", 0) for part in parts)
        made[block.name] = Work(flops, sum(map(_weights, parts)))
    return made


def _weights(module: Any) -> float:
    return float(sum(p.numel() for p in module.parameters() if p.ndim > 1))


def limited_images(
    forward: StepCost, model: Any, settings: Mapping[str, Any], images: float, batches: float
) -> StepCost:
    """The forward step with its share of the machine's measured limit, and so its blocks."""
    from llm_moments.base.environment import peaks

    precision = settings.get("precision", "fp32")
    try:
        work = work_of(model, settings)
    except MomentsError as error:
        return replace(forward, limit=Figure.none("share", str(error)))
    peak, copy = peaks().get(PEAK_OF[precision]), peaks().get("copy_gb")
    if not peak or not copy:
        return replace(forward, limit=Figure.none("share", f"no peak was measured for {precision}"))

    def share(step: StepCost, of: Work) -> StepCost:
        if step.wall_s <= 0:
            return step
        least = max(of.flops * images / peak, of.weights * BYTES[precision] * batches / copy) / 1e9
        note = f"operations counted for this shape, weights read once a batch; {precision} peak {peak:,.0f} GFLOP/s"
        return replace(step, limit=Figure(least / step.wall_s, "share", "modelled", note))

    if settings.get("bf16_layers"):
        return replace(forward, limit=Figure.none("share", "layers are computed in different precisions"))
    children = tuple(share(c, work[c.name]) if c.name in work and c.name else c for c in forward.children)
    return share(replace(forward, children=children), work[""])
