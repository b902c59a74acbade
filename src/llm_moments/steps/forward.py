"""The model itself, run by an engine: padded arrays in, outputs in the order of the rows out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.engines.base import ENGINES, PRECISIONS, Engine
from llm_moments.errors import EngineError


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
        Knob("engine", "torch", tuple(ENGINES), True, one_of(*ENGINES), f"one of {', '.join(ENGINES)}"),
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
    def engine(self) -> Engine:
        return self.engines.get(self.settings)

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        outputs: np.ndarray | None = None
        made, engine = batch["batches"], self.engine
        for (rows, _), result in zip(made, engine.forward_all([a for _, a in made], recorder), strict=True):
            logits = result["logits"]
            if not np.isfinite(logits).all():
                raise EngineError(f"{engine.name} gave outputs that are not finite (NaN or infinite) for this model")
            if outputs is None:
                outputs = np.empty((batch.size, *logits.shape[1:]), np.float32)
            outputs[rows] = logits
        assert outputs is not None, "a batch without rows never reaches the forward step"
        same_as = batch["same_as"]
        return batch.with_(outputs=outputs if same_as is None else outputs[same_as], batches=None)
