"""Text in images: where its lines are on a page, and what a line says. One after the other they read a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, InputError
from llm_moments.core import Change, Knob, Outputs, Plan, Ragged, SampleSizes, Step, Task, one_of
from llm_moments.core.outputs import texts
from llm_moments.data.images import Image, image_of
from llm_moments.engines.base import available
from llm_moments.steps.forward import Forward
from llm_moments.steps.lines import Lines, ReadLines
from llm_moments.steps.pages import Boxes, FindLines, Page, PageArrays, Pages
from llm_moments.tasks.metrics import char_errors

GRAPHS = {"onnxruntime": ("fp32", "int8-dynamic"), "openvino": ("fp32", "bf16", "int8-dynamic")}
KNOBS = tuple(
    knob
    for knob in Forward.knobs
    if knob.name not in ("engine", "skip_layers", "keep_float", "bf16_layers", "weights", "calibration")
)
ENGINE = Knob("engine", "onnxruntime", tuple(GRAPHS), True, one_of(*GRAPHS), f"one of {', '.join(GRAPHS)}")
SURE = 0.5  # a line whose characters are less likely is left out of a page, as rapidocr does
OVERLAP = 0.5  # of two boxes that mean the same line: their intersection over their union
APART = 2.0  # pixels: boxes that are no further apart are the same


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """text: what is written, of a page its lines; score: the mean probability of the characters; lines: of a page, each
    with `text`, `score` and `box`, four corners [x, y]."""

    text: str
    score: float
    lines: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BoxAnswer:
    """boxes: each with `box`, four corners [x, y] clockwise from the upper left, and `score`, in reading order."""

    boxes: list[dict[str, Any]]

    @property
    def text(self) -> str:
        return f"{len(self.boxes)} lines"


class _InImages(Task):
    """What both have in common: images in, a graph that came as one."""

    strategy = "greedy"
    layered = False
    modality = "image"
    files = True
    sizes = SampleSizes(16, 4, 1, {"search": 16, "certify": 32}, {"calibrate": 16, "search": 200, "certify": 1000})

    def normalise(self, value: Any) -> Image:
        return image_of(value)

    def stock(self) -> Mapping[str, Mapping[str, Any]]:
        return {"forward": {"engine": "onnxruntime", "precision": "fp32"}}

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        raise InputError(f"{self.name} is not learnt here")

    def _engines(self) -> list[Change]:
        """Both engines, and what each computes in."""
        found = []
        for engine in available(GRAPHS):
            for precision in GRAPHS[engine]:
                choices = {"forward.engine": engine, "forward.precision": precision}
                found.append(Change(f"{engine} {precision}", choices, precision == "fp32"))
        return found


class TextDetection(_InImages):
    """`text-detection`: the lines of a page. An example's score is the F1 of its boxes: two mean the same line where the
    rectangles round them overlap by half."""

    name = "text-detection"

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        side = int(plan.settings("page").get("side", Pages.knobs[0].default))
        field = self.model.config["inputs"][0]
        return [
            Pages(),
            PageArrays(side, field),
            FindLines(plan.settings("forward"), engines, (ENGINE, *KNOBS)),
            Boxes(),
        ]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return {"page": Pages.knobs, "batch": (), "forward": (ENGINE, *KNOBS), "boxes": ()}

    def changes(self, plan: Plan) -> list[Change]:
        side = int(plan.settings("page").get("side", Pages.knobs[0].default))
        smaller = [Change(f"pages of {n} pixels", {"page.side": n}, False) for n in (608, 480, 320) if n < side]
        return [*self._engines(), *smaller]

    def handed(self, values: Sequence[Any], outputs: Outputs) -> list[list[Any]]:
        boxes: Ragged = outputs["boxes"]
        pages = [Page.of(image) for image in values]
        lines = [page.crops(boxes.row(at).reshape(-1, 4, 2)) for at, page in enumerate(pages)]
        return [
            [Image(array=line, name=f"line {at} of {image.name}") for at, line in enumerate(some, 1)]
            for image, some in zip(values, lines, strict=True)
        ]

    def answers(self, outputs: Outputs) -> list[BoxAnswer]:
        return [BoxAnswer([{"box": b, "score": s} for b, s in zip(*one, strict=True)]) for one in told(outputs)]

    def metric(self) -> str:
        return f"F1 of boxes that overlap by {OVERLAP:g}"

    def references(self, raw: Iterable[Any]) -> list[Any]:
        return [np.array([_rectangle(box) for box in self._boxes(row, value)]).reshape(-1, 4) for row, value in enumerate(raw, 1)]  # fmt: skip

    @staticmethod
    def _boxes(row: int, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise DataError(f"row {row}: the boxes of a page are a list, not {value!r:.80}")
        return [one["box"] if isinstance(one, Mapping) and "box" in one else one for one in value]

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        return np.array([_f1(_rectangles(outputs, at), wanted) for at, wanted in enumerate(references)], np.float64)

    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return [_rectangles(outputs, at) for at in range(len(outputs))]

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        return self.scores(outputs, self.as_references(baseline))

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return 1 - self.agreement(outputs, others)

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return self.close(outputs, others, APART)

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        mine, theirs = outputs["boxes"], others["boxes"]
        same = [
            len(a) == len(b) and bool((np.abs(a - b) <= APART).all())
            for a, b in ((mine.row(at), theirs.row(at)) for at in range(len(mine)))
        ]
        return np.array(same, bool)


class TextRecognition(_InImages):
    """`text-recognition`: what a line says, and as the last of a chain what a page says. An example's score is 1 - errors /
    mean characters of all references, whose mean is 1 - CER of the whole."""

    name = "text-recognition"
    default_metric = "1 - CER"

    def __init__(self, model: Any, metric: str | None = None):
        if metric not in (None, self.default_metric):
            raise InputError(f"unknown metric {metric!r}; lines of text are judged by {self.default_metric}")
        super().__init__(model)

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        characters = self.model.config["characters"]
        return [
            Lines(plan.settings("batch"), self.model.config["inputs"][0]),
            ReadLines(plan.settings("forward"), engines, (ENGINE, *KNOBS), characters),
        ]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        sure = Knob(
            "sure",
            SURE,
            (0.0, SURE, 0.8),
            False,
            lambda v: isinstance(v, int | float) and 0 <= v <= 1,
            "least score of a line of a page",
        )
        return {"batch": Lines.knobs, "forward": (ENGINE, *KNOBS), "lines": (sure,)}  # fmt: skip

    def changes(self, plan: Plan) -> list[Change]:
        size = int(plan.settings("batch").get("size", Lines.knobs[0].default))
        more = [Change(f"{n} lines a batch", {"batch.size": n}, False) for n in (16, 32, 1) if n != size]
        return [*self._engines(), *more]

    def regrouped(self, outputs: Outputs | None, before: Outputs, plan: Plan) -> Outputs:
        """What pages say: lines in their order, without those that are empty or unsure. before: where they are."""
        sure, boxes, at = float(plan.settings("lines").get("sure", SURE)), before["boxes"], 0
        said, scores, places, kept = [], [], [], []
        for page in range(len(before)):
            count = int(boxes.lengths[page])
            here = [i for i in range(count) if outputs is not None and str(outputs["text"][at + i]).strip() and outputs["score"][at + i] >= sure]  # fmt: skip
            own = [float(outputs["score"][at + i]) for i in here] if outputs is not None else []
            said.append("\n".join(str(outputs["text"][at + i]) for i in here) if outputs is not None else "")
            scores.append(float(np.mean(own)) if own else 0.0)
            places.append(boxes.row(page)[here])
            kept.append(own)
            at += count
        return texts(
            said, score=np.array(scores), boxes=Ragged.of(places, np.float32, (8,)), scores=Ragged.of(kept, np.float32)
        )  # fmt: skip

    def answers(self, outputs: Outputs) -> list[LineAnswer]:
        pages = told(outputs) if "boxes" in outputs else [([], [])] * len(outputs)
        found = []
        for text, score, (boxes, scores) in zip(outputs["text"], outputs["score"], pages, strict=True):
            lines = [
                {"text": t, "score": s, "box": b} for t, s, b in zip(str(text).split("\n"), scores, boxes, strict=False)
            ]
            found.append(LineAnswer(str(text), float(score), lines))
        return found

    def metric(self) -> str:
        return self.default_metric

    def references(self, raw: Iterable[Any]) -> list[Any]:
        return [str(value) for value in raw]

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        found = [char_errors(_plain(a), _plain(b)) for a, b in zip(outputs["text"], references, strict=True)]
        errors, sizes = np.array(found, np.float64).reshape(-1, 2).T
        return 1 - errors / max(float(sizes.mean()) if len(sizes) else 1.0, 1.0)

    def bounds(self) -> tuple[float, float]:
        return (-math.inf, 1.0)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return [str(text) for text in outputs["text"]]

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        return self.scores(outputs, self.as_references(baseline))

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n]: character edits between both, over those of the longer one."""
        pairs = [(_plain(a), _plain(b)) for a, b in zip(outputs["text"], others["text"], strict=True)]
        return np.array([char_errors(a, b)[0] / max(len(a), len(b), 1) for a, b in pairs], np.float64)

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return np.asarray(outputs["text"] == others["text"], bool)

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        return self.argmax_equal(outputs, others)


def told(outputs: Outputs) -> list[tuple[list[Any], list[float]]]:
    """(boxes, scores) of each page, plain."""
    boxes, scores = outputs["boxes"], outputs["scores"]
    return [
        (
            [np.round(box.reshape(4, 2), 1).tolist() for box in boxes.row(at)],
            [round(float(s), 5) for s in scores.row(at)],
        )
        for at in range(len(outputs))
    ]


def _plain(text: Any) -> str:
    return " ".join(str(text).split())


def _rectangle(box: Any) -> list[float]:
    """left, top, right, bottom of four corners, or of a rectangle that is told so."""
    found = np.asarray(box, np.float64).reshape(-1)
    if found.size == 4 and np.isfinite(found).all():
        return [float(v) for v in found]
    if found.size != 8 or not np.isfinite(found).all():
        raise DataError(f"a box is four corners [x, y], or left, top, right and bottom, not {box!r:.80}")
    corners = found.reshape(4, 2)
    return [*map(float, corners.min(0)), *map(float, corners.max(0))]


def _rectangles(outputs: Outputs, at: int) -> np.ndarray:
    corners = outputs["boxes"].row(at).reshape(-1, 4, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float64)


def _f1(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of rectangles [k, 4]: each means one of the other side at most, the likest pairs first."""
    if not len(found) or not len(wanted):
        return float(len(found) == len(wanted))
    low = np.maximum(found[:, None, :2], wanted[None, :, :2])
    high = np.minimum(found[:, None, 2:], wanted[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(one[:, 2:] - one[:, :2]).clip(0).prod(1) for one in (found, wanted)]
    overlap = shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9)
    same = 0
    while overlap.size and overlap.max() >= OVERLAP:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[row, :] = overlap[:, column] = -1
        same += 1
    return 2 * same / (len(found) + len(wanted))
