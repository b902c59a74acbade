"""A line of text read from its image: lines of like width in one batch, the network, and its characters put together (CTC)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.core import Batch, Knob, Recorder, one_of, whole
from llm_moments.core.outputs import texts
from llm_moments.data.images import decoded
from llm_moments.engines.contract import Forward as ForwardEngine
from llm_moments.engines.contract import need
from llm_moments.steps.pages import rapidocr

HEIGHT, LEAST = 48, 320  # pixels of a line that the network is given: its height, and its width at least
TOGETHER = 6


class Lines:
    """Writes `batches`: (rows, float32 [rows, 3, 48, width] by the network's name for it); a line is brought to that height,
    and what it lacks in width is 0."""

    name = "batch"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("batches",)
    knobs: tuple[Knob, ...] = (
        Knob("size", TOGETHER, (1, 6, 16, 32), False, whole(1, 1024), "lines of one batch"),
        Knob("order", "length", ("length", "input"), False, one_of("length", "input"), "length: lines of like width together"),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], field: str):
        self.field = field
        self.size, self.sorted = int(settings.get("size", TOGETHER)), settings.get("order", "length") == "length"

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        images = [np.ascontiguousarray(np.asarray(decoded(image, 3))[:, :, ::-1]) for image in batch["input"]]
        ratios = np.array([image.shape[1] / image.shape[0] for image in images])
        order = np.argsort(ratios) if self.sorted else np.arange(len(images))
        made = []
        for start in range(0, len(order), self.size):
            rows = order[start : start + self.size]
            width = int(HEIGHT * max(LEAST / HEIGHT, float(ratios[rows].max())))
            made.append((rows, {self.field: np.stack([fitted(images[row], width) for row in rows])}))
        recorder.count(columns=sum(f[self.field].shape[0] * f[self.field].shape[3] for _, f in made))
        return batch.with_(batches=made)


def fitted(image: np.ndarray, width: int) -> np.ndarray:
    """BGR uint8 [height, width, 3] -> float32 [3, 48, width], from -1 to 1."""
    import cv2

    wanted = min(math.ceil(HEIGHT * image.shape[1] / image.shape[0]), width)
    scaled = cv2.resize(image, (wanted, HEIGHT)).astype(np.float32).transpose(2, 0, 1) / 255
    made = np.zeros((3, HEIGHT, width), np.float32)
    made[:, :, :wanted] = (scaled - 0.5) / 0.5
    return made


class ReadLines:
    """Writes `outputs`: `text` and `score` (the mean probability of its characters) of each line."""

    name = "forward"
    reads: tuple[str, ...] = ("batches",)
    writes: tuple[str, ...] = ("outputs",)

    def __init__(self, settings: Mapping[str, Any], engines: Any, knobs: tuple[Knob, ...], characters: Sequence[str]):
        self.settings, self.engines, self.knobs = dict(settings), engines, knobs
        self.decode = rapidocr("ch_ppocr_rec.utils").CTCLabelDecode(character=list(characters))

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        said: list[tuple[str, float]] = [("", 0.0)] * sum(len(rows) for rows, _ in batch["batches"])
        with self.engines.lease(self.settings, recorder) as opened:
            engine: ForwardEngine = need(opened, ForwardEngine)
            results = engine.forward_all([fields for _, fields in batch["batches"]], recorder)
            for (rows, _), result in zip(batch["batches"], results, strict=True):
                with recorder.step("decode", items=len(rows)):
                    for row, one in zip(rows, self.decode(result["logits"])[0], strict=True):
                        said[row] = one
        scores = np.array([score for _, score in said], np.float64)
        return batch.with_(outputs=texts([text for text, _ in said], score=scores), batches=None)
