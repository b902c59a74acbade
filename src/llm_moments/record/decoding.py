"""What an answer made token by token cost: prefill and decode, their layers, and how far each is from the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from llm_moments.core import Pipeline
from llm_moments.errors import EngineError
from llm_moments.record.limits import PEAK_OF, shapes
from llm_moments.record.probes import Probe, layer_costs, probed
from llm_moments.record.session import Figure, StepCost

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
PREFILL, DECODE = 1, 2  # what an engine that can be watched says it is doing (`phase`)


@contextmanager
def watched(pipe: Pipeline, depth: int) -> Iterator[list[Probe]]:
    """Probes on the layers of the engine's module while it lasts; none where the engine shows no module."""
    engine = pipe.engines.get(pipe.engine_settings)
    with ExitStack() as stack:
        found: list[Probe] = []
        if depth and hasattr(engine, "phase") and getattr(engine, "device", "cpu") == "cpu":
            try:
                found = stack.enter_context(probed(engine.module, depth, where=lambda: engine.phase))
            except EngineError:
                found = []
        yield found


def opened(tree: StepCost, pipe: Pipeline, probes: Sequence[Probe]) -> tuple[StepCost, list[str]]:
    """The tree whose step `decode` has prefill and decode with their layers and limits, and what is to be said of it."""
    step = next((child for child in tree.children if child.name == "decode"), None)
    if step is None:
        return tree, []
    parts = {child.name: child for child in step.children}
    for name, phase in (("prefill", PREFILL), ("decode", DECODE)):
        if name in parts and probes:
            layers = layer_costs(probes, parts[name].wall_s, phase)
            parts[name] = replace(parts[name], children=(*parts[name].children, *layers))
    settings = pipe.plan.settings("forward")
    model = pipe.engines.model_for(settings)
    moved = weight_bytes(pipe)
    if "decode" in parts:
        parts["decode"] = replace(parts["decode"], limit=_decode_limit(parts["decode"], moved))
    if "prefill" in parts:
        parts["prefill"] = replace(parts["prefill"], limit=_prefill_limit(parts["prefill"], model, settings))
    rest = step.wall_s - sum(part.wall_s for part in parts.values())
    children = (*parts.values(), *([StepCost("other", 0, rest)] if rest > 0.001 * step.wall_s else []))
    said = [] if probes else ["This engine shows no layers; prefill and decode are shown as one step each."]
    done = tuple(replace(step, children=children) if child is step else child for child in tree.children)
    return replace(tree, children=done), said


def figures(tree: StepCost, pipe: Pipeline) -> dict[str, Figure]:
    """ttft, tpot (s; means over prompts and over steps), tokens/s of decoding, bytes of the KV cache (modelled)."""
    step = next((child for child in tree.children if child.name == "decode"), None)
    parts = {child.name: child for child in step.children} if step else {}
    prefill, decode = parts.get("prefill"), parts.get("decode")
    found: dict[str, Figure] = {}
    if prefill is not None and prefill.calls:
        found["ttft"] = Figure(prefill.wall_s / prefill.calls, "s", note="time to first token, mean over the prompts")
    if decode is not None and decode.calls and decode.wall_s:
        found["tpot"] = Figure(decode.wall_s / decode.calls, "s", note="time per output token, mean over the steps")
        if "tokens" in decode.counts:
            found["tokens_per_s"] = Figure(
                decode.counts["tokens"] / decode.wall_s, "tokens/s", note="of decoding alone"
            )
    heard = sum(one.counts.get("audio_s", 0.0) for _, one in tree.walk())
    spent = sum(child.wall_s for child in tree.children)
    if heard and spent:
        found["audio"] = Figure(heard / spent, "audio s/s", note="seconds of sound in a second of work")
    each = kv_bytes(pipe)
    if each and prefill is not None and prefill.calls:
        read = step.counts.get("prompt_tokens") if step else None
        if read is None:
            read = prefill.counts.get("tokens", 0) + prefill.counts.get("reused_tokens", 0)
        tokens = (read + (decode.counts.get("tokens", 0) if decode else 0)) / prefill.calls
        found["kv_cache"] = Figure(
            each * tokens, "bytes", "modelled", "of one prompt and its answer, by the model's sizes"
        )
    return found


def kv_bytes(pipe: Pipeline) -> float | None:
    """Bytes that a token's keys and values take in all layers; None where the configuration does not say."""
    settings = pipe.plan.settings("forward")
    config = pipe.engines.model_for(settings).config
    layers, hidden = config.get("num_hidden_layers"), config.get("hidden_size")
    heads = config.get("num_attention_heads")
    if not (layers and hidden and heads):
        return None
    wide = config.get("head_dim") or hidden // heads
    kind = settings.get("kv_precision") or settings.get("precision", "fp32")
    kept = layers - len(settings.get("skip_layers", ()))
    return 2.0 * kept * (config.get("num_key_value_heads") or heads) * wide * BYTES.get(kind, 2.0)


def weight_bytes(pipe: Pipeline) -> float | None:
    """Bytes of weights that one decoding step reads: of the file that is run, or of the tensors at that precision."""
    settings = pipe.plan.settings("forward")
    from llm_moments.engines.base import engine_class

    model = pipe.engines.model_for(settings)
    if engine_class(settings.get("engine", "transformers")).builds:
        return float(sum(p.stat().st_size for p in pipe.engines.store(settings).rglob("*.bin"))) or None
    if settings.get("precision") == "as-is":
        return float(sum(p.stat().st_size for p in model.weight_files)) or None
    params = sum(math.prod(shape) for _, shape in shapes(model.path))
    return params * BYTES.get(settings.get("precision", "fp32"), 4.0) or None


def _decode_limit(decode: StepCost, moved: float | None) -> Figure:
    """Each step reads all weights once, however many prompts are decoded together (the cache is left out)."""
    from llm_moments.environment import peaks

    copy = peaks().get("copy_gb")
    if not moved or not copy or not decode.calls or decode.wall_s <= 0:
        return Figure.none("share", "the size of the weights or the bandwidth is not known")
    least = moved * decode.calls / copy / 1e9
    note = f"{moved / 1e6:,.0f} MB of weights a step; measured copy {copy:,.0f} GB/s"
    return Figure(least / decode.wall_s, "share", "modelled", note)


def _prefill_limit(prefill: StepCost, model: Any, settings: Mapping[str, Any]) -> Figure:
    from llm_moments.environment import peaks

    precision = settings.get("precision", "fp32")
    peak = peaks().get(PEAK_OF.get(precision, ""))
    params = sum(math.prod(shape) for _, shape in shapes(model.path) if len(shape) >= 2)
    if not peak or not params or prefill.wall_s <= 0:
        return Figure.none("share", f"no peak was measured for {precision}, or the model's sizes are not known")
    if "tokens" not in prefill.counts:
        return Figure.none("share", "the engine does not tell how many tokens its cache spared it")
    least = 2 * params * prefill.counts.get("tokens", 0) / peak / 1e9
    return Figure(
        least / prefill.wall_s,
        "share",
        "modelled",
        f"2 operations a weight and token; {precision} peak {peak:,.0f} GFLOP/s",
    )
