"""From a torch module to a graph: what the graph engines share."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_moments.base import schema
from llm_moments.base.atomic import FULL, remove, sibling
from llm_moments.base.errors import DataError, EngineError, WriteError
from llm_moments.engines.foreign import first_line, quiet
from llm_moments.engines.padding import ENDS, FILE, of_module

NAMES = "fields.json"  # beside a built graph: its inputs, in order
SUMS = "sums.json"  # sha256 of its files
ROOM = 1 << 20  # bytes: a disk with less is full
KEPT = "kept.json"  # and the layers that were found in it and stayed in float


def build(store: Path, make: Callable[[Path], Sequence[str]], kept: Sequence[str] = ()) -> list[str]:
    """Fills `store` once, atomically, by `make(folder) -> names of the inputs`; gives those names.

    Of processes that build the same at the same time the first one's graph stays, for all. kept: layers that
    the graph must have left in float; EngineError for a graph found here that does not say so.
    """
    if (store / NAMES).exists() and not _whole(store):
        remove(store)  # cut short or changed since: it is built again
    if not (store / NAMES).exists():
        with sibling(store, unless=NAMES) as folder:
            names = _made(folder, store, make)
            (folder / KEPT).write_text(json.dumps(sorted(kept)), encoding="utf-8")
            (folder / SUMS).write_text(json.dumps(_sums(folder)), encoding="utf-8")
            (folder / NAMES).write_text(json.dumps(names), encoding="utf-8")
    if kept and sorted(kept) != _kept(store):
        raise EngineError(
            f"the graph in {store} does not say that {', '.join(kept)} stayed in float: an older version built it. "
            "Delete that folder, and it is built again (of an artefact: run `moments improve` again)."
        )
    return _names(store / NAMES)


def _made(folder: Path, store: Path, make: Callable[[Path], Sequence[str]]) -> list[str]:
    """What `make` gives; WriteError where it fails and the disk is full: that says nothing of the model."""
    try:
        return list(make(folder))
    except Exception as error:
        if shutil.disk_usage(folder).free < ROOM:
            raise WriteError(
                f"{store} could not be written: {FULL}. MOMENTS_CACHE names another place for what is built"
            ) from error
        raise


def _sums(store: Path) -> dict[str, str]:
    """sha256 of every file of a built graph but those that are written last."""
    found = {}
    for file in sorted(store.iterdir()):
        if file.is_file() and file.name not in (SUMS, NAMES):
            with file.open("rb") as stream:
                found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _whole(store: Path) -> bool:
    """Whether a built graph is as it was written. One that came in an artefact is known by its manifest."""
    try:
        return bool(json.loads((store / SUMS).read_text(encoding="utf-8")) == _sums(store))
    except FileNotFoundError:
        return store.parent.name == "built"
    except (OSError, ValueError):
        return False


def _kept(store: Path) -> list[str] | None:
    file = store / KEPT
    return _names(file) if file.is_file() else None


def _names(file: Path) -> list[str]:
    try:
        return schema.read(file, "a list of names", lambda data: schema.convert(data, list[str]))
    except DataError as error:
        raise EngineError(f"{error} Delete the folder {file.parent}, and the graph is built again.") from error


def own_graph(model: Any, settings: Any) -> list[str]:
    """The inputs of a model that came as a graph. EngineError for what is asked of its layers, which have no names."""
    for setting in ("skip_layers", "keep_float"):
        if settings.get(setting):
            raise EngineError(
                f"{model.name} came as a graph, whose layers are not told apart: forward.{setting} is not for it"
            )
    return list(model.config["inputs"])


def traced(model: Any, settings: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """The module to export (fields in, logits out), an example input, and the names of the inputs."""
    import torch

    from llm_moments.engines.torch_eager import load_module
    from llm_moments.models.nets.architectures import is_image_model

    if is_image_model(model.config):
        inner = load_module(model, settings.get("skip_layers", ()))
        example = {"pixel_values": torch.rand(2, inner.input_shape[0], *settings["image_size"])}
    else:
        from llm_moments.models.nets.architectures import taken

        encoder = model.encoder
        inner = load_module(model, settings.get("skip_layers", ()), _attention(model, encoder))
        inner.config.use_cache = False
        example = _tokens(encoder, inner.config.vocab_size)
        if (known := taken(inner)) is not None:
            example = {name: array for name, array in example.items() if name in known}
    names = list(example)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *fields: Any) -> Any:
            return self.inner(**dict(zip(names, fields, strict=True))).logits

    return Logits().eval(), example, names


def _tokens(encoder: Any, vocabulary: int) -> dict[str, Any]:
    import torch

    ids = torch.randint(5, max(6, min(vocabulary, 1000)), (2, 11))
    if encoder.pad_id is None:
        ids = ids[:1]  # such a model takes one row at a time
    mask = torch.ones_like(ids)
    mask[1:, 8:] = 0
    example = {"input_ids": ids, "attention_mask": mask}
    return example | ({"token_type_ids": torch.zeros_like(ids)} if "token_type_ids" in encoder.names else {})


def calibrated_on(calibration: Any, example: dict[str, Any]) -> list[dict[str, Any]]:
    """The calibration arrays, images scaled to the size that this graph is made for."""
    import torch

    size = tuple(example["pixel_values"].shape[-2:]) if "pixel_values" in example else ()
    made = []
    for fields in calibration or ():
        if size and fields["pixel_values"].shape[-2:] != size:
            images = torch.from_numpy(fields["pixel_values"])
            scaled = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
            fields = {**fields, "pixel_values": scaled.numpy()}
        made.append(fields)
    return made


def free_axes(name: str) -> dict[int, str]:
    """The axes of an input that vary from batch to batch; a graph for images is made for one size of them."""
    return {0: "rows"} if name == "pixel_values" else {0: "rows", 1: "tokens"}


def _attention(model: Any, encoder: Any) -> str | None:
    """Attention without -inf where a row may see padding only: fused, a graph engine makes NaN of it."""
    windows = ("sliding_window", "local_attention", "attention_window")
    left = encoder.tokenizer.padding_side == "left" or model.config.get("model_type") in ENDS
    return "eager" if left or any(model.config.get(name) for name in windows) else None


def note_padding(folder: Path, module: Any, model: Any) -> str:
    """Asks the module that a graph is made from on which side it takes padding, and keeps that beside the graph."""
    found = of_module(module.inner, model.encoder)
    (folder / FILE).write_text(found, encoding="utf-8")
    return found


def to_onnx(module: Any, example: dict[str, Any], names: list[str], file: Path) -> None:
    """torch.export first; the older tracing exporter where that fails."""
    import torch

    arguments = tuple(example[name] for name in names)
    failures = []
    for dynamo in (False, True):
        shapes: dict[str, Any] = {"dynamic_axes": {n: free_axes(n) for n in names} | {"logits": {0: "rows"}}}
        if dynamo:
            auto = torch.export.Dim.DYNAMIC
            shapes = {"dynamic_shapes": (tuple(dict.fromkeys(free_axes(n), auto) for n in names),)}
        try:
            with quiet(), torch.no_grad():
                torch.onnx.export(
                    module, arguments, str(file), input_names=names, output_names=["logits"], dynamo=dynamo,
                    opset_version=18 if dynamo else 17, **shapes,
                )  # fmt: skip
            return
        except Exception as error:
            failures.append(f"{'dynamo' if dynamo else 'tracing'}: {first_line(error)}")
    raise EngineError(f"cannot be exported to ONNX ({'; '.join(failures)})")
