"""The model itself, run by an engine: padded arrays in, outputs in the order of the rows out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError, RowsFailed
from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.core.outputs import filled
from llm_moments.engines.base import ENGINES, PRECISIONS
from llm_moments.engines.contract import Arrays, Engine, need
from llm_moments.engines.contract import Forward as ForwardEngine


def _indices(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and i >= 0 for i in value)


def _folder(value: Any) -> bool:
    return isinstance(value, str) and (not value or bool(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", value)))


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


class Forward:
    name = "forward"
    reads: tuple[str, ...] = ("batches", "same_as")
    writes: tuple[str, ...] = ("outputs",)
    knobs: tuple[Knob, ...] = (
        Knob("engine", "torch", tuple(ENGINES), True, ENGINES.__contains__, f"one of {', '.join(ENGINES)}"),
        Knob("precision", "fp32", PRECISIONS, False, one_of(*PRECISIONS), f"one of {', '.join(PRECISIONS)}"),
        Knob("threads", 0, (1, 2, 4, 8), True, whole(0, 1024), "threads of one forward pass; 0: all cores"),
        Knob("streams", 1, (1, 2, 4), True, whole(1, 1024), "batches computed at the same time (openvino)"),
        Knob("skip_layers", [], (), False, _indices, "a list of layer numbers, such as [2, 3]"),
        Knob("keep_float", [], (), False, _names, "step names an int8 precision leaves in float, such as ['layer 0']"),
        Knob("bf16_layers", [], (), False, _names, "step names computed in bf16 while the rest stays in fp32 (torch)"),
        Knob("weights", "", (), False, _folder, "other weights for the same task, a folder name in the model's weights/"),
        Knob("calibration", "", (), False, lambda v: isinstance(v, str), "digest of the examples int8 was calibrated on"),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], engines: Any):
        self.settings, self.engines = dict(settings), engines

    @property
    def engine(self) -> ForwardEngine:
        found: ForwardEngine = need(self.engines.get(self.settings), ForwardEngine)
        return found

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        outputs = filled(self.answered(batch["batches"], batch["same_as"], recorder), batch.size)
        assert outputs is not None, "a batch without rows never reaches the forward step"
        same_as = batch["same_as"]
        return batch.with_(outputs=outputs if same_as is None else outputs[same_as], batches=None)

    def answered(self, made: Any, same_as: Any, recorder: Recorder) -> list[tuple[Any, Arrays]]:
        """(rows, what the model gives) of each batch. Where the engine fails, each batch and then each of its rows is tried alone."""
        with self.engines.lease(self.settings, recorder) as opened:
            return self._by(need(opened, ForwardEngine), made, same_as, recorder)

    def _by(self, engine: ForwardEngine, made: Any, same_as: Any, recorder: Recorder) -> list[tuple[Any, Arrays]]:
        try:
            results = engine.forward_all([fields for _, fields in made], recorder)
            return [(rows, _finite(engine, result)) for (rows, _), result in zip(made, results, strict=True)]
        except EngineError as error:
            found, failed = one_by_one(engine, made, recorder)
            if not found and sum(len(rows) for rows, _ in made) > 1:
                raise error  # no row can be answered: it is not the rows
        if failed:
            rows = np.arange(max(failed) + 1) if same_as is None else same_as
            raise RowsFailed({int(at): failed[row] for at, row in enumerate(rows.tolist()) if row in failed})
        return found


def one_by_one(engine: ForwardEngine, made: Any, recorder: Recorder) -> tuple[list[tuple[Any, Arrays]], dict[int, str]]:
    """(rows, what the model gives) of what can be answered, and why each other row cannot."""
    found: list[tuple[Any, Arrays]] = []
    failed: dict[int, str] = {}
    for rows, fields in made:
        try:
            found.append((rows, _finite(engine, engine.forward(fields, recorder))))
            continue
        except EngineError:
            pass
        for at, row in enumerate(rows):
            try:
                found.append((rows[at : at + 1], _finite(engine, engine.forward(alone(fields, at), recorder))))
            except EngineError as error:
                failed[int(row)] = str(error)
    return found, failed


def alone(fields: Mapping[str, np.ndarray], at: int) -> dict[str, np.ndarray]:
    """One row of a batch without its padding."""
    row = {name: array[at : at + 1] for name, array in fields.items()}
    mask = row.get("attention_mask")
    if mask is None or not mask.any():
        return row
    real = np.flatnonzero(mask[0])
    within = slice(int(real[0]), int(real[-1]) + 1)
    return {name: np.ascontiguousarray(a[:, within]) if a.shape == mask.shape else a for name, a in row.items()}


def _finite(engine: Engine, result: Arrays) -> Arrays:
    if not all(np.isfinite(array).all() for array in result.values()):
        raise EngineError(f"{engine.name} gave outputs that are not finite (NaN or infinite) for this model")
    return result
