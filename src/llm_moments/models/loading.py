"""Weights out of a model folder, by transformers: all that the model needs are there, or the folder is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_moments.base.errors import ModelError, MomentsError

SHOWN = 4  # tensors that are named


def loaded(
    auto: Any, path: Path, name: str, *, new_head: bool = False, spare: Sequence[str] = (), **options: Any
) -> Any:
    """The `torch.nn.Module` that `auto.from_pretrained` opens, in eval mode; ModelError where it would be made up.

    transformers draws at random what the files do not hold, and only says so. new_head: for a training, which may
    draw the layers behind the base model, and its pooling. spare: parts of the module that nobody will ask.
    """
    options = {"local_files_only": True, **options}
    if new_head:
        options["ignore_mismatched_sizes"] = True
    with untold():
        try:
            module, told = auto.from_pretrained(path, output_loading_info=True, **options)
        except MomentsError:
            raise
        except Exception as error:
            raise ModelError(f"{name} cannot be loaded by transformers: {_why(error)}") from error
    may_be_new = _head_of(module) if new_head else lambda key: bool(set(spare) & set(key.split(".")))
    _check(name, path, told, may_be_new)
    return module.eval()


def float_bytes(model: Any) -> int:
    """Bytes that the weights of a `Model` take in float32, by the headers of its files."""
    from safetensors import safe_open

    from llm_moments.models.gguf_header import read_header

    if model.format == "gguf":
        return 4 * sum(math.prod(tensor.shape) for file in model.weight_files for tensor in read_header(file)[1])
    values = 0
    for file in model.weight_files:
        with safe_open(file, "np") as weights:
            values += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return 4 * values


@contextmanager
def untold() -> Iterator[None]:
    """Without transformers' own bars and tables: what is wrong is said in an error."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check(name: str, path: Path, told: dict[str, Any], may_be_new: Callable[[str], bool]) -> None:
    missing = sorted(key for key in told["missing_keys"] if not may_be_new(key))
    if missing:
        raise ModelError(
            f"{name} lacks weights that the model needs: {_named(missing)}. They would be drawn at random, so it is "
            f"refused. Copy {path} whole from where the model comes from; a model without a head is first trained: "
            "moments train MODEL --data FILE --out DIR"
        )
    other = sorted((key, *shapes) for key, *shapes in told["mismatched_keys"] if not may_be_new(key))
    if other:
        key, found, wanted = other[0]
        raise ModelError(
            f"{name}: its weights have other shapes than its config.json states: {key} is {list(found)}, and should be "
            f"{list(wanted)}. Correct {path / 'config.json'}, or copy the right weights there"
        )


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _head_of(module: Any) -> Callable[[str], bool]:
    """Whether a tensor of that name is of the head: not in the base model, or what pools its outputs."""
    base = f"{getattr(module, 'base_model_prefix', '')}."
    inside = hasattr(module, base[:-1])
    return lambda key: not (inside and key.startswith(base)) or "pooler" in key.split(".")


def _why(error: Exception) -> str:
    text = str(error)
    if "mismatched_sizes" in text:
        return "its weights have other shapes than its config.json states (as many classes as id2label has, for one)"
    if "deserializing header" in text:
        return f"its *.safetensors are not whole ({text}). Copy or download them again"
    return text.strip() or type(error).__name__
