"""The module of a .gguf file in float32, kept in the cache folder as a folder of safetensors: taking weights out of the
file's blocks is slow, reading them again is not."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llm_moments.base.atomic import remove
from llm_moments.base.cache import MOST, cache_folder, used
from llm_moments.base.errors import EngineError, ModelError, WriteError
from llm_moments.engines.export import build
from llm_moments.models.gguf_reading import read_quickly
from llm_moments.models.loading import float_bytes, loaded

KEPT = ("dequantised-", "openvino-genai-")  # folders of the cache that are as large as a model in float
FORGOTTEN = (
    "_name_or_path",
    "transformers_version",
    "quantization_config",
)  # of a configuration: nothing hangs on them


def dequantised(model: Any, auto: Any) -> Any:
    """The `torch.nn.Module` of a GGUF `Model`, float32. It is kept only where it comes back bit for bit, and taken from
    there only while its files are as they were written; the folder's name holds the digest of the model's file and the
    versions of what read it."""
    name = f"{KEPT[0]}{version('transformers')}-{version('gguf')}"
    store = cache_folder() / model.files_digest[:16] / name
    made: list[Any] = []

    def make(folder: Path) -> list[str]:
        made.append(_from_file(model, auto))
        _write(made[0], folder)
        if not _same(made[0], _from_folder(folder, model, auto)):
            raise EngineError("written and read again, it is another model")
        return []

    if not (store.exists() or fits(model)):
        return _from_file(model, auto)
    try:
        build(store, make)
        if not made:
            made.append(_from_folder(store, model, auto))
        used(store, KEPT)
    except (WriteError, EngineError):
        pass  # it is read out of its file each time then, which is slower and as right
    except ModelError:
        if made:
            raise
        remove(store)
    return made[0] if made else _from_file(model, auto)


def fits(model: Any) -> bool:
    """Whether there is room for it: at most half of what is free, and a half of what is kept in all."""
    place = next(folder for folder in (cache_folder(), *cache_folder().resolve().parents) if folder.exists())
    return 2 * float_bytes(model) <= min(shutil.disk_usage(place).free, MOST)


def _from_file(model: Any, auto: Any) -> Any:
    with read_quickly():
        return loaded(
            auto, model.path, model.name, dtype="float32", gguf_file=model.weight_files[0].name,
            trust_remote_code=model.trust_remote_code,
        )  # fmt: skip


def _from_folder(folder: Path, model: Any, auto: Any) -> Any:
    return loaded(auto, folder, model.name, dtype="float32", use_safetensors=True)


def _write(module: Any, folder: Path) -> None:
    """Its configuration without the file's quantisation: it is a plain model now, and stays one."""
    for holder, name in ((module, "hf_quantizer"), (module, "is_quantized"), (module.config, "quantization_config")):
        vars(holder).pop(name, None)
    try:
        module.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # whatever transformers finds wrong with it
        raise EngineError(f"it cannot be written: {error!s:.200}") from error


def _same(one: Any, other: Any) -> bool:
    """Whether two modules are of one kind, and their configurations and every number in them the same."""
    import torch

    mine, theirs = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (one, other))
    return (
        type(one) is type(other)
        and mine.keys() == theirs.keys()
        and all(mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]) for name in mine)
        and _told(one.config) == _told(other.config)
        and _told(one.generation_config) == _told(other.generation_config)
    )


def _told(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in FORGOTTEN}
