"""When each token of a transcript was said: the decoder's cross-attention, read along its most likely path.

As OpenAI's Whisper does it (whisper/timing.py, MIT): some heads attend to where a token is heard; their weights are
normalised, smoothed, averaged, and dynamic time warping finds the path through tokens and time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError

PLACE_S = 0.02  # seconds of sound that one of the encoder's places stands for
WIDTH = 7  # of the median filter, in places


def starts_of(path: Sequence[tuple[int, int]], count: int, length: float) -> np.ndarray:
    """float64 [count + 1]: seconds at which each of `count` tokens begins, and where the last one ends.

    path: (token, place) pairs, both rising.
    """
    found = np.full(count + 1, length)
    for token, place in reversed(path):
        if token <= count:
            found[token] = min(place * PLACE_S, length)
    return np.maximum.accumulate(found)


def path_of(weights: np.ndarray) -> list[tuple[int, int]]:
    """The path of a [heads, tokens, places] array of attention weights."""
    spread = weights.std(axis=1, keepdims=True)
    normal = (weights - weights.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-12)
    return warped(-_smoothed(normal).mean(axis=0))


def _smoothed(weights: np.ndarray) -> np.ndarray:
    """The median of WIDTH places; the ends are mirrored."""
    half = WIDTH // 2
    if weights.shape[-1] <= half:
        return weights
    wide = np.pad(weights, ((0, 0), (0, 0), (half, half)), mode="reflect")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(wide, WIDTH, axis=-1), axis=-1))


def warped(cost: np.ndarray) -> list[tuple[int, int]]:
    """The cheapest way from the first to the last corner of `cost` [n, m], one step down, right or both at a time."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    came = np.zeros((n + 1, m + 1), np.int8)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            ways = (total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
            # Whisper's own order among equals: straight only where it is better than both others
            way = 0 if ways[0] < ways[1] and ways[0] < ways[2] else 1 if ways[1] < ways[0] and ways[1] < ways[2] else 2
            total[i, j], came[i, j] = cost[i - 1, j - 1] + ways[way], way
    came[0, :], came[:, 0] = 2, 1
    found, i, j = [], n, m
    while i or j:
        found.append((i - 1, j - 1))
        way = int(came[i, j])
        i, j = i - (way != 2), j - (way != 1)
    return [(max(i, 0), max(j, 0)) for i, j in reversed(found)]


def heads_of(module: Any) -> list[tuple[int, int]]:
    """(layer, head) pairs whose attention follows the sound; without a list of them all heads of the upper half."""
    told = getattr(module.generation_config, "alignment_heads", None)
    if told:
        return [(int(layer), int(head)) for layer, head in told]
    layers, heads = int(module.config.decoder_layers), int(module.config.decoder_attention_heads)
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]


def aligned(
    engine: Any, prompts: Sequence[Any], texts: Sequence[Sequence[int]], frames: Sequence[int], encode: Any
) -> list[np.ndarray]:
    """By transformers: one row at a time, with attention that tells its weights."""
    torch, module = engine.torch, engine.module
    none, end = module.generation_config.no_timestamps_token_id, engine.ends()[:1]
    was, heads = module.config._attn_implementation, heads_of(module)
    places_of_decoder = int(module.config.max_target_positions)
    found = []
    try:
        module.set_attn_implementation("eager")
        for prompt, text, heard in zip(prompts, texts, frames, strict=True):
            begun = list(prompt.decoder)
            told = text[
                : places_of_decoder - len(begun) - 1 - len(end)
            ]  # what fills all places leaves none for its end
            ids = torch.tensor([[*begun, none, *told, *end]], device=engine.device)
            with torch.inference_mode():
                out = module(
                    encoder_outputs=encode(engine, [prompt.features]), decoder_input_ids=ids, output_attentions=True
                )
            places = max(heard // 2, 1)
            some = torch.stack([out.cross_attentions[layer][0, head, :, :places] for layer, head in heads])
            weights = (some / some.sum(-1, keepdim=True)).float().cpu().numpy()
            path = path_of(weights[:, len(begun) : -1])
            starts = starts_of(path, len(told), places * PLACE_S)
            found.append(np.concatenate([starts, np.full(len(text) - len(told), starts[-1])]))
    except (RuntimeError, IndexError, ValueError, AttributeError) as error:
        raise EngineError(f"the times of words could not be found: {error}") from error
    finally:
        module.set_attn_implementation(was)
    return found
