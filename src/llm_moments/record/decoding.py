"""What an answer made token by token cost: prefill and decode, their layers, and how far each is from the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import Pipeline
from llm_moments.models.blocks import Block
from llm_moments.models.encoder_decoder_blocks import sides
from llm_moments.record.encoder_decoder import Halves, encoder_limited, halves, limit_of, precision_of
from llm_moments.record.limits import PEAK_OF, shapes
from llm_moments.record.probes import Probe, layer_costs, probed
from llm_moments.record.session import Figure, Moment, StepCost

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
PREFILL, DECODE, ENCODE = 1, 2, 3  # what an engine that can be watched says it is doing (`phase`)


@contextmanager
def watched(pipe: Pipeline, depth: int) -> Iterator[list[Probe]]:
    """Probes on the layers of the engine's module while it lasts; none where the engine shows no module."""
    engine = pipe.engines.get(pipe.engine_settings)
    with ExitStack() as stack:
        found: list[Probe] = []
        if depth and engine.phase is not None and engine.device == "cpu":
            try:
                parts = both(engine.module) if engine.encodes else None
                found = stack.enter_context(probed(engine.module, depth, where=lambda: engine.phase, parts=parts))
            except EngineError:
                found = []
        yield found


def both(module: Any) -> list[Block]:
    """The blocks of encoder and decoder: `layer 0` is one of each, and what is timed is kept apart by phase."""
    return [block for side in sides(module).values() for block in side]


def opened(tree: StepCost, pipe: Pipeline, probes: Sequence[Probe]) -> tuple[StepCost, list[str]]:
    """The tree whose step `decode` has prefill and decode with their layers and limits, and what is to be said of it."""
    step = _decoding(tree)
    if step is None:
        return tree, []
    parts = {child.name: child for child in step.children}
    for name, phase in (("encoder", ENCODE), ("prefill", PREFILL), ("decode", DECODE)):
        if name in parts and probes:
            layers = layer_costs(probes, parts[name].wall_s, phase)
            parts[name] = replace(parts[name], children=(*parts[name].children, *layers))
    settings = pipe.plan.settings("forward")
    model = pipe.engines.model_for(settings)
    if "encoder" in parts:
        parts |= _two_sides(parts, halves(model), precision_of(pipe.engines.get(settings), settings), pipe)
    else:
        if "decode" in parts:
            parts["decode"] = replace(parts["decode"], limit=_decode_limit(parts["decode"], weight_bytes(pipe)))
        if "prefill" in parts:
            parts["prefill"] = replace(parts["prefill"], limit=_prefill_limit(parts["prefill"], model, settings))
    rest = step.wall_s - sum(part.wall_s for part in parts.values())
    children = (*parts.values(), *([StepCost("other", 0, rest)] if rest > 0.001 * step.wall_s else []))
    names = [name for name in ("encoder", "prefill", "decode", "translate") if name in parts]
    said = [] if probes else [f"This engine shows no layers inside {', '.join(names) or 'decode'}."]
    return _changed(tree, step, replace(step, children=children)), said


def _decoding(tree: StepCost) -> StepCost | None:
    """The outermost step `decode`; of speech it is a part of `transcribe`."""
    return next((step for _, step in tree.walk() if step.name == "decode"), None)


def _changed(tree: StepCost, old: StepCost, new: StepCost) -> StepCost:
    """The tree with one step of it in the place of another."""
    if tree is old:
        return new
    return replace(tree, children=tuple(_changed(child, old, new) for child in tree.children))


def _two_sides(
    parts: Mapping[str, StepCost], known: Halves | None, precision: str, pipe: Pipeline
) -> dict[str, StepCost]:
    """Limits of encoder, prefill and decode: the decoder reads its own weights at each step, with beams for several
    rows an answer; keys and values of the encoder's outputs are made in prefill (and there not counted)."""
    made = {"encoder": encoder_limited(parts["encoder"], known, precision)}
    beams = int(pipe.plan.get_choice("decode.beams") or 1)
    for name in ("prefill", "decode"):
        if name not in parts or known is None:
            continue
        step, weights = parts[name], known.decoder - known.cross
        rows = step.counts.get("tokens", 0.0) * beams
        made[name] = replace(step, limit=limit_of(2 * weights * rows, weights * step.calls, step.wall_s, precision))
    return made


def figures(tree: StepCost, pipe: Pipeline) -> dict[str, Figure]:
    """ttft, tpot (s; means over prompts and over steps), tokens/s of decoding, bytes of the KV cache (modelled)."""
    step = _decoding(tree)
    parts = {child.name: child for child in step.children} if step else {}
    prefill, decode = parts.get("prefill"), parts.get("decode")
    found: dict[str, Figure] = {}
    if prefill is not None and prefill.calls:
        first = prefill.wall_s + (parts["encoder"].wall_s if "encoder" in parts else 0.0)
        found["ttft"] = Figure(first / prefill.calls, "s", note="time to first token, mean over the prompts")
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


PERCENTILES = (50, 95, 99)


def percentiles(timeline: Sequence[Moment]) -> dict[str, Figure]:
    """ttft and tpot (s) of single prompts, as p50, p95 and p99; none where the engine does not tell when each ran. Of a
    prompt's later tokens the mean, as serving benchmarks have it."""
    prompts = [one for one in timeline if one.name == "prompt" and one.facts.get("first_s")]
    first = [one.facts["first_s"] for one in prompts]
    later = [
        (one.seconds - one.facts["first_s"]) / (one.facts["tokens"] - 1)
        for one in prompts
        if one.facts.get("tokens", 0) > 1
    ]
    return {
        f"{name}_p{at}": Figure(float(np.quantile(some, at / 100)), "s", note=f"of {len(some):,} prompts")
        for name, some in (("ttft", first), ("tpot", later))
        for at in PERCENTILES
        if some
    }


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
    """Bytes of weights that one decoding step reads: of the file that is run, or of the tensors at that precision.

    A graph's file may hold them wider than they are computed with, and never narrower.
    """
    settings = pipe.plan.settings("forward")
    model = pipe.engines.model_for(settings)
    precision = settings.get("precision", "fp32")
    params = sum(math.prod(shape) for _, shape in _shapes(model))
    at_most = params * BYTES[precision] if params and precision in BYTES else math.inf
    if (built := pipe.engines.built(settings)) is not None:
        size = sum(p.stat().st_size for p in built.rglob("*.bin"))
        return float(min(size, at_most if precision in ("fp32", "bf16", "fp16") else math.inf)) or None
    if precision == "as-is":
        return float(sum(p.stat().st_size for p in model.weight_files)) or None
    return at_most if params and precision in BYTES else None


def _shapes(model: Any) -> list[tuple[str, Sequence[int]]]:
    """Names and shapes of the model's tensors, from the headers of its files."""
    if model.format != "gguf":
        return list(shapes(model.path))
    from llm_moments.models.gguf_header import read_header

    return [(tensor.name, tensor.shape) for tensor in read_header(model.weight_files[0])[1]]


def _decode_limit(decode: StepCost, moved: float | None) -> Figure:
    """Each step reads all weights once, however many prompts are decoded together (the cache is left out)."""
    from llm_moments.base.environment import peaks

    copy = peaks().get("copy_gb")
    if not moved or not copy or not decode.calls or decode.wall_s <= 0:
        return Figure.none("share", "the size of the weights or the bandwidth is not known")
    least = moved * decode.calls / copy / 1e9
    note = f"{moved / 1e6:,.0f} MB of weights a step; measured copy {copy:,.0f} GB/s"
    return Figure(least / decode.wall_s, "share", "modelled", note)


def _prefill_limit(prefill: StepCost, model: Any, settings: Mapping[str, Any]) -> Figure:
    from llm_moments.base.environment import peaks

    precision = settings.get("precision", "fp32")
    peak = peaks().get(PEAK_OF.get(precision, ""))
    params = sum(math.prod(shape) for _, shape in _shapes(model) if len(shape) >= 2)
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
