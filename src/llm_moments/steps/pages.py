"""Where a page of text has lines: the page made ready, the network's map, boxes round what it marks.

What comes before and after the network is PaddleOCR's (Liao et al. 2020, arXiv:1911.08947), as the package rapidocr has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, EngineMissing
from llm_moments.core import Batch, Knob, Outputs, Ragged, Recorder, whole
from llm_moments.data.images import Image, decoded
from llm_moments.engines.contract import Forward as ForwardEngine
from llm_moments.engines.contract import need

SIDE, STEP = 736, 32  # pixels of a page's shorter side at least; both sides are multiples of
BOUNDS = {"min_side_len": 30, "max_side_len": 2000}  # pixels that a page is brought within first
WIDE = {"width_height_ratio": 8, "min_height": 30}  # a page wider than that gets black above and below it
FOUND = {"thresh": 0.3, "box_thresh": 0.5, "max_candidates": 1000, "unclip_ratio": 1.6, "use_dilation": True}


@dataclass(frozen=True)
class Page:
    """pixels: BGR uint8 [height, width, 3], as the boxes are found in; told: how it was made of a page of `size`
    (height, width), which boxes are brought back by."""

    pixels: np.ndarray
    told: Mapping[str, Any]
    size: tuple[int, int]

    @classmethod
    def of(cls, image: Image) -> Page:
        tools = rapidocr("utils.process_img")
        pixels = np.ascontiguousarray(np.asarray(decoded(image, 3))[:, :, ::-1])
        size = pixels.shape[0], pixels.shape[1]
        try:
            pixels, high, wide = tools.resize_image_within_bounds(pixels, **BOUNDS)
        except tools.ResizeImgError as error:
            raise DataError(f"{image.name}: {size[1]} x {size[0]} pixels are no page of text") from error
        told: dict[str, Any] = {"preprocess": {"ratio_h": high, "ratio_w": wide}}
        pixels, told = tools.apply_vertical_padding(pixels, told, *WIDE.values())
        return cls(pixels, told, size)

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [k, 4, 2] in the pixels of the page as it came."""
        found = rapidocr("utils.process_img").map_boxes_to_original(
            boxes.astype(np.float32), dict(self.told), *self.size
        )
        return np.asarray(found, np.float32)

    def crops(self, boxes: np.ndarray) -> list[np.ndarray]:
        """The lines in these boxes, each upright: RGB uint8. boxes: as `back` gives them."""
        scale = np.array([self.told["preprocess"]["ratio_w"], self.told["preprocess"]["ratio_h"]], np.float32)
        shift = np.array([self.told["padding_1"]["left"], self.told["padding_1"]["top"]], np.float32)
        cut = rapidocr("utils.process_img").get_rotate_crop_image
        found = [cut(self.pixels, np.rint(box / scale + shift).astype(np.float32)) for box in boxes]
        return [np.ascontiguousarray(line[:, :, ::-1]) for line in found]


class Pages:
    """Writes `pages`."""

    name = "page"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("pages",)
    knobs: tuple[Knob, ...] = (
        Knob("side", SIDE, (320, 480, 608, SIDE, 960), False, whole(STEP, 4096), "pixels of a page's shorter side, at least"),
    )  # fmt: skip

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        return batch.with_(pages=[Page.of(image) for image in batch["input"]])


class PageArrays:
    """Writes `batches`: (row, float32 [1, 3, height, width]) of each page; they have unlike sizes, so that each is computed
    alone."""

    name = "batch"
    reads: tuple[str, ...] = ("pages",)
    writes: tuple[str, ...] = ("batches",)
    knobs: tuple[Knob, ...] = ()

    def __init__(self, side: int, field: str):
        """field: what the network calls its input."""
        self.field, self.prepare = field, rapidocr("ch_ppocr_det.utils").DetPreProcess(side, "min")

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        return batch.with_(
            batches=[(np.array([row]), {self.field: self.ready(page)}) for row, page in enumerate(batch["pages"])]
        )

    def ready(self, page: Page) -> np.ndarray:
        made = self.prepare(page.pixels)
        if made is None:
            raise DataError(f"a page of {page.size[1]} x {page.size[0]} pixels is too small to hold text")
        return np.asarray(made)


class FindLines:
    """Writes `maps`: of each page how likely each pixel is text, float32 [1, 1, height, width]."""

    name = "forward"
    reads: tuple[str, ...] = ("batches",)
    writes: tuple[str, ...] = ("maps",)

    def __init__(self, settings: Mapping[str, Any], engines: Any, knobs: tuple[Knob, ...]):
        self.settings, self.engines, self.knobs = dict(settings), engines, knobs

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        with self.engines.lease(self.settings, recorder) as opened:
            engine: ForwardEngine = need(opened, ForwardEngine)
            results = engine.forward_all([fields for _, fields in batch["batches"]], recorder)
            return batch.with_(maps=[one["logits"] for one in results], batches=None)


class Boxes:
    """Writes `outputs`: `boxes` ragged float32 [k, 8] of each page, the corners clockwise from the upper left, in the order in
    which they are read, and `scores` ragged [k]."""

    name = "boxes"
    reads: tuple[str, ...] = ("pages", "maps")
    writes: tuple[str, ...] = ("outputs",)
    knobs: tuple[Knob, ...] = ()

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        found = [boxes_of(page, told) for page, told in zip(batch["pages"], batch["maps"], strict=True)]
        recorder.count(lines=sum(len(scores) for _, scores in found))
        boxes = Ragged.of([boxes.reshape(-1, 8) for boxes, _ in found], np.float32, (8,))
        return batch.with_(outputs=Outputs({"boxes": boxes, "scores": Ragged.of([s for _, s in found], np.float32)}))


def boxes_of(page: Page, told: np.ndarray) -> tuple[np.ndarray, Sequence[float]]:
    """([k, 4, 2], scores); rapidocr loses the scores' order when it puts the boxes in order, and this does not."""
    post = rapidocr("ch_ppocr_det.utils").DBPostProcess(**FOUND, score_mode="fast")
    boxes, scores = post(told, page.pixels.shape[:2])
    if not len(boxes):
        return np.empty((0, 4, 2), np.float32), []
    numbered = {box.tobytes(): score for box, score in zip(np.asarray(boxes), scores, strict=True)}
    ordered = rapidocr("ch_ppocr_det.main").TextDetector.sorted_boxes(np.asarray(boxes))
    return page.back(ordered), [numbered[box.tobytes()] for box in ordered]


def rapidocr(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"rapidocr.{module}")
    except ImportError as error:
        raise EngineMissing(error.name or "rapidocr", "ocr") from error
