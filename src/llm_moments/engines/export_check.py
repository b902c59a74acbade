"""Holds an exported graph against the module it was made from: exporters can be wrong and say nothing.

Longformer's tracing, for one, bakes the shape of its example into the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.engines.export import note_padding
from llm_moments.engines.foreign import quiet
from llm_moments.engines.padding import LEFT, NONE

TOKENS, ROWS = 29, 3  # another shape than that of the export
SHARE, LEAST = 0.01, 1e-3  # of the largest output; float graphs differ by a thousandth of that


def prove(
    module: Any, example: Mapping[str, Any], model: Any, run: Callable[[dict[str, np.ndarray]], np.ndarray], what: str,
    folder: Path,
) -> None:  # fmt: skip
    """EngineError if `run(fields) -> [rows, classes]` answers otherwise than the module, on padded rows or, where
    the example is of images, on more of them than it was exported with. Notes in `folder` how rows are padded."""
    import torch

    names = list(example)
    if "pixel_values" in example:
        shape = (ROWS, *example["pixel_values"].shape[1:])
        fields = {"pixel_values": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    else:
        fields = _rows(model, module.inner.config.vocab_size, note_padding(folder, module, model))
    with torch.no_grad(), quiet():
        expected = module(*(torch.from_numpy(fields[name]) for name in names)).float().numpy()
    try:
        found = run({name: fields[name] for name in names})
    except EngineError as error:
        raise EngineError(f"{what}: the exported graph fails on rows of another shape ({error})") from error
    allowed = LEAST + SHARE * float(np.abs(expected).max())
    apart = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not apart <= allowed:  # NaN, too
        raise EngineError(
            f"{what}: the exported graph answers otherwise than the model (outputs differ by {apart:.3g}; "
            f"{allowed:.3g} is allowed), so it is not used"
        )


def _rows(model: Any, vocabulary: int, side: str) -> dict[str, np.ndarray]:
    """Random tokens, the later rows padded as the model takes it."""
    encoder = model.encoder
    rows, tokens = (1 if encoder.pad_id is None else ROWS), min(TOKENS, model.max_length)
    ids = np.random.default_rng(0).integers(5, max(6, min(vocabulary, 1000)), (rows, tokens))
    mask = np.ones_like(ids)
    for row in range(1, rows if side != NONE else 1):
        padded = slice(0, 3 * row) if side == LEFT else slice(tokens - 3 * row, tokens)
        ids[row, padded], mask[row, padded] = encoder.pad_id or 0, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
