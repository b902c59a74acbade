"""Image classification: files, bytes and arrays in; the same answers and scores as for texts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import DataError, EngineError
from llm_moments.core import Batch, Change, Knob, Pipeline, Plan, SampleSizes, Step, one_of, whole
from llm_moments.core.parts import Part, Parts
from llm_moments.data.image_parts import edges, image_parts
from llm_moments.data.images import Image, Keeper, image_of, size_of
from llm_moments.data.pixels import Geometry
from llm_moments.models.image_processor import Processor
from llm_moments.models.preprocessing import Preprocessing, affine, preprocessing, write
from llm_moments.steps.batch_images import BatchImages
from llm_moments.steps.decode_image import Decode
from llm_moments.steps.forward import Forward
from llm_moments.steps.process_image import BatchPrepared, Process
from llm_moments.steps.resize import Resize
from llm_moments.tasks.classification import CASCADE, Classification
from llm_moments.tasks.extents import PIXELS

ROOM = 512 << 20  # bytes of decoded pixels and of arrays that are held at a time
PEEK = 8  # images whose header is read to know how many may be decoded together


class ImageClassification(Classification):
    name = "image-classification"
    files = True
    modality = "image"
    heals = True  # a smaller model can be taught in `improve`
    sizes = SampleSizes(window=1024)
    sorts: Mapping[str, Any] = {"batch.size": 64}
    extent = PIXELS

    # -- the pipeline

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        wanted = preprocessing(self.model)
        decode, resize = self._chosen(wanted, plan)
        height, width = self.shape(plan)[1:]
        channels = int(decode["channels"])
        if wanted.processor is not None:
            return self._delegated(wanted.processor, wanted.even, decode, plan, engines, [height, width])
        edge = max(height, width) / (float(resize["crop"]) if resize["fit"] != "squash" else 1.0)
        return [
            Decode(decode, int(np.ceil(edge))),
            Resize(resize, height, width, channels),
            BatchImages(plan.settings("batch"), *affine(wanted), wanted.order),
            Forward({**plan.settings("forward"), "image_size": [height, width]}, engines),
        ]

    def _delegated(
        self, processor: Processor, even: bool, decode: Mapping[str, Any], plan: Plan, engines: Any, size: list[int]
    ) -> list[Step]:
        """transformers' own processor makes the images: there is no size to choose, and without `even` shapes vary."""
        forward = plan.settings("forward")
        if (engine := forward.get("engine", "torch")) != "torch" and not even:
            raise EngineError(
                f"{processor.name}: its images are made by {processor.kind}, in shapes that a graph of {engine} is not "
                "made for. Use the engine torch"
            )
        return [
            Decode(decode, 1 << 16), Process(processor, size if engine != "torch" else ()), BatchPrepared(plan.settings("batch")),
            Forward({**forward, "image_size": size}, engines),
        ]  # fmt: skip

    def _chosen(self, wanted: Preprocessing, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of decode and resize, the model's own where the plan says nothing."""
        own = {"decode": {"channels": wanted.channels}, **self._stock(wanted)}
        return {**own["decode"], **plan.settings("decode")}, {**own["resize"], **plan.settings("resize")}

    def shape(self, plan: Plan) -> tuple[int, int, int]:
        """Channels, height and width of what the model is given."""
        wanted = preprocessing(self.model)
        height = int(plan.settings("resize").get("size", wanted.size))
        return wanted.channels, height, max(round(height * wanted.width / wanted.height), 1)

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        wanted = preprocessing(self.model)
        own = self._stock(wanted)
        if wanted.processor is not None:
            fixed = Knob(
                "size", wanted.size, (wanted.size,), False, one_of(wanted.size), f"as {wanted.processor.kind} makes it"
            )
            return {
                "decode": (), "resize": (fixed,), "batch": BatchImages.knobs, "forward": Forward.knobs,
                "cascade": CASCADE,
            }  # fmt: skip
        return {
            "decode": tuple(_with_default(knob, own["decode"]) for knob in Decode.knobs),
            "resize": tuple(_with_default(_bounded(knob, self.model), own["resize"]) for knob in Resize.knobs),
            "batch": BatchImages.knobs,
            "forward": Forward.knobs,
            "cascade": CASCADE,
        }

    def stock(self) -> dict[str, dict[str, Any]]:
        """What transformers' own image processor and `pipeline(batch_size=32)` do."""
        return {
            **self._stock(preprocessing(self.model)),
            "batch": {"size": 32},
            "forward": {"engine": "torch", "precision": "fp32"},
        }

    def _stock(self, wanted: Preprocessing) -> dict[str, dict[str, Any]]:
        if wanted.processor is not None:
            return {"resize": {"size": wanted.size}}
        return {
            "decode": {"channels": 1 if wanted.channels == 1 else 3},
            "resize": {"size": wanted.size, "fit": wanted.fit, "crop": wanted.crop, "resample": wanted.resample},
        }

    # -- what a search tries

    def rungs(self, pipe: Any, values: Sequence[Any]) -> list[int]:
        """Sizes below that of the plan, from about a third of it on, smallest first, and the plan's own."""
        now, knob = PIXELS.of(pipe.plan), next(k for k in self.knobs()["resize"] if k.name == "size")
        return sorted({n for n in knob.values if 0.3 * now <= n < 0.95 * now} | {now})

    def others(self, pipe: Any, plan: Plan, values: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """What would change something for these images: drafts are for files, grey for colours."""
        wanted = preprocessing(pipe.model)
        if wanted.processor is not None:
            return []
        chosen = {
            **{f"decode.{k}": v for k, v in plan.settings("decode").items()},
            **{f"resize.{k}": v for k, v in plan.settings("resize").items()},
        }
        files = any(image.array is None for image in values[:PEEK])
        found = []
        for change in PIXELS.others:
            ((name, value),) = change.items()
            idle = (name == "decode.draft" and not files) or (name == "decode.channels" and wanted.channels == 1)
            alike = name == "resize.resample" and PIXELS.of(plan) == wanted.size and not files
            if not idle and not alike and chosen.get(name, 0) != value:
                found.append(change)
        return found

    def inputs(self, pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
        now = PIXELS.of(pipe.plan)
        for size in self.rungs(pipe, values):
            if size != now:
                yield Change(f"images of {size} pixels", {PIXELS.knob: size})
        for choices in self.others(pipe, pipe.plan, values):
            ((name, value),) = choices.items()
            yield Change(f"{name.partition('.')[2]} {value}", dict(choices))
        crop = pipe.plan.settings("resize")
        for share in [n for n in (1.0, 0.95, 0.9, 0.8) if crop.get("fit") == "crop" and n != crop.get("crop")]:
            yield Change(f"crop {share}", {"resize.crop": share})

    def by_hand(self, plan: Plan) -> int:
        """The size that a careful engineer would take: the model's own."""
        return PIXELS.of(plan)

    def calibrating(self) -> dict[str, Any] | None:
        return {"batch.size": 1}

    def rows_at_once(self, batch: Batch, plan: Plan) -> int:
        """How many images may be decoded and batched before any is computed, by their headers: one large image
        among many small ones counts."""
        window = int(plan.settings("batch").get("window", 1024))
        if batch.size <= 1:
            return window
        files = [image for image in batch["input"] if image.array is None]
        channels, height, width = self.shape(plan)
        decoded = max((area_of(image) for image in files), default=0) * 3
        return int(np.clip(ROOM // (decoded + 5 * channels * height * width), 1, window))

    def keep(self, steps: Sequence[Step], plan: Plan) -> None:
        """From now on these steps decode and resize each file once, as far as a quarter of the free memory allows."""
        import psutil

        keeper = Keeper(str([plan.settings("decode"), plan.settings("resize")]), psutil.virtual_memory().available // 4)
        for step in steps:
            if isinstance(step, Decode | Resize):
                step.keeper = keeper

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        _, height, width = self.shape(plan)
        write(replace(preprocessing(self.model), height=height, width=width), folder)

    def normalise(self, value: Any) -> Image:
        return image_of(value)

    # -- what an answer rests on

    part_kinds = ("patches",)

    def divided(self, value: Any, kind: str) -> Parts:
        return image_parts(value, 1 if preprocessing(self.model).channels == 1 else 3)

    def unseen(self, pipe: Any, value: Any) -> list[Part]:
        """The edges that the crop takes away; of images that transformers' processor makes nobody knows."""
        wanted = preprocessing(self.model)
        if wanted.processor is not None:
            return []
        decode, resize = self._chosen(wanted, pipe.plan)
        _, height, width = self.shape(pipe.plan)
        how = Geometry(resize["fit"], float(resize["crop"]), resize["resample"], height, width, int(decode["channels"]))
        return edges(value, 1 if decode["channels"] == 1 else 3, how)

    def widest(self, pipe: Any, value: Any) -> Mapping[str, Any] | None:
        return {"resize.fit": "squash"} if preprocessing(self.model).processor is None else None


def area_of(image: Image) -> int:
    """Pixels by the header; 0 for a file that cannot be read, which decoding tells more of."""
    try:
        wide, high = size_of(image)
    except DataError:
        return 0
    return wide * high


def _with_default(knob: Knob, own: Mapping[str, Any]) -> Knob:
    return replace(knob, default=own.get(knob.name, knob.default))


def _bounded(knob: Knob, model: Any) -> Knob:
    """Sizes that this model can be given: any, or multiples of its patches."""
    if knob.name != "size":
        return knob
    patch, least = patch_of(model), least_of(model)
    sizes = tuple(v for v in knob.values if v % patch == 0 and v >= least)
    multiple = f", a multiple of {patch}" if patch > 1 else ""
    inner = whole(least, 4096)
    return replace(
        knob, values=sizes, valid=lambda v: inner(v) and v % patch == 0, means=f"{knob.means}, >= {least}{multiple}"
    )


def patch_of(model: Any) -> int:
    """The side of a patch, of which the size must be a multiple; 1 where any size will do."""
    patch = model.config.get("patch_size", 1)
    return int(patch[0] if isinstance(patch, list) else patch) if model.config.get("model_type") != "convnext" else 1


def least_of(model: Any) -> int:
    return max(patch_of(model), 4 if model.config.get("model_type") == "moments-cnn" else 8)
