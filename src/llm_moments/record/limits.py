"""How far a step is from what this machine can do: counted operations, measured peaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_moments.record.session import Figure


def linear_flops_per_token(config: Mapping[str, Any]) -> float | None:
    """Multiplications and additions of all layers' matrix products for one token; None if the
    configuration does not say its sizes. Attention's own products are counted by `attention_flops`."""
    hidden = config.get("hidden_size") or config.get("dim") or config.get("n_embd")
    inner = config.get("intermediate_size") or config.get("hidden_dim") or (4 * hidden if hidden else None)
    layers = config.get("num_hidden_layers") or config.get("n_layers") or config.get("n_layer")
    if not (hidden and inner and layers):
        return None
    return float(layers * 2 * (4 * hidden * hidden + 2 * hidden * inner))


def attention_flops(config: Mapping[str, Any], tokens: float, width: float) -> float:
    """Of scores and weighted sums: every token with every other of its row."""
    hidden = config.get("hidden_size") or config.get("dim") or config.get("n_embd") or 0
    layers = config.get("num_hidden_layers") or config.get("n_layers") or config.get("n_layer") or 0
    return float(layers * 4 * hidden * tokens * width)


def forward_limit(config: Mapping[str, Any], precision: str, rows: float, tokens: float, seconds: float) -> Figure:
    """Share of the measured peak that the forward step reaches on the tokens that it computed."""
    from llm_moments.environment import peaks

    each = linear_flops_per_token(config)
    if each is None or not tokens or seconds <= 0:
        return Figure.none("share", "the model's sizes are not in its configuration")
    measured = peaks()
    peak = measured.get("bf16" if precision in ("bf16", "fp16") else "fp32")
    note = f"operations counted from the configuration, peak of {precision} measured"
    if precision.startswith("int8"):
        return Figure.none("share", "no peak was measured for int8")
    if not peak:
        return Figure.none("share", f"no peak was measured for {precision}")
    flops = each * tokens + attention_flops(config, tokens, tokens / max(rows, 1))
    return Figure(flops / (peak * 1e9) / seconds, "share", "modelled", note)
