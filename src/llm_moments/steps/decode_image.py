"""An image file to pixels: upright, in colour or grey, a JPEG perhaps no larger than it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.core import Batch, Knob, Recorder, one_of
from llm_moments.data.images import Image, Keeper, decoded


class Decode:
    """Writes `decoded`: for each image a Pillow image (RGB or L), or an array uint8 [height, width, channels]
    where it came as one; None where a later step has kept what it made of it.

    The draft decoding of a JPEG leaves out detail that resizing would lose: at 1 no side is decoded smaller
    than the model's input, at 2 than twice that.
    """

    name = "decode"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("decoded",)
    knobs: tuple[Knob, ...] = (
        Knob("draft", 0, (0, 2, 1), False, one_of(0, 1, 2), "JPEG decoded at 1/2, 1/4 or 1/8 size, >= 1 or 2 times what is needed; 0: whole"),
        Knob("channels", 3, (3, 1), False, one_of(1, 3), "3: in colour; 1: in grey"),
    )  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], needed: int):
        """needed: the shorter side, in pixels, that resizing asks for."""
        self.channels = int(settings["channels"])
        self.least = int(settings.get("draft", 0)) * needed
        self.keeper: Keeper | None = None

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        keeper = self.keeper
        made = [
            None if keeper and keeper.kept(image) is not None else self.decoded(image, batch.size)
            for image in batch["input"]
        ]
        if recorder.active:
            fresh = [one for one in made if one is not None]
            recorder.count(pixels=sum(map(_area, fresh)), kept_rows=len(made) - len(fresh))
        return batch.with_(decoded=made)

    def decoded(self, image: Image, among: int) -> Any:
        try:
            return decoded(image, self.channels, self.least)
        except DataError as error:
            cure = ". Mend it, or leave such images out with --on-error skip" if among > 1 else ""
            raise DataError(f"{error}{cure}") from error


def _area(one: Any) -> int:
    width, height = one.size if isinstance(one.size, tuple) else one.shape[:2]
    return int(width * height)
