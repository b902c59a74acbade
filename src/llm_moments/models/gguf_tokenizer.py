"""The tokenizer inside a .gguf file. transformers takes many seconds to build it, so it is kept once it is built."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from llm_moments.base.atomic import sibling
from llm_moments.base.errors import EngineMissing, ModelError, WriteError
from llm_moments.models.gguf_reading import read_quickly

WHOLE = "tokenizer_config.json"  # is there when all of a kept tokenizer is
SAMPLES = ("a", " b", "Hello,  World!\n\n 12345\t", "naïve 北京 🙂", "'s <b> {x} </s> ")
_OPEN: WeakValueDictionary[str, Any] = WeakValueDictionary()  # a file that is opened twice has one tokenizer


def tokenizer_of(model: Any) -> Any:
    """The tokenizer of a `Model` in a GGUF file, from the user's cache folder if it was built before."""
    import transformers

    from llm_moments.base.cache import cache_folder

    if importlib.util.find_spec("gguf") is None:
        raise EngineMissing("gguf", "generate")

    name = f"{model.files_digest}-{transformers.__version__}"
    found = _OPEN.get(name)
    if found is None:
        found = _OPEN[name] = _kept(model, cache_folder() / "tokenizers" / name)
    return found


def _kept(model: Any, folder: Path) -> Any:
    from transformers import AutoTokenizer

    if (folder / WHOLE).is_file():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception:  # whatever happened to it, it can be built again
            shutil.rmtree(folder, ignore_errors=True)
    with read_quickly():
        built = AutoTokenizer.from_pretrained(model.path, gguf_file=model.weight_files[0].name, local_files_only=True)
    try:
        with sibling(folder, unless=WHOLE) as made:
            built.save_pretrained(made)
            if not _same(built, AutoTokenizer.from_pretrained(made, local_files_only=True)):
                raise ModelError("saved and opened again, it is another tokenizer")
    except (WriteError, ModelError):
        pass  # it is built each time then, which is slower and as right
    return built


def _same(one: Any, other: Any) -> bool:
    """Whether a saved tokenizer came back as it was."""
    facts = ("vocab_size", "all_special_ids", "chat_template", "model_max_length", "bos_token_id", "eos_token_id")
    return (
        all(getattr(one, name, None) == getattr(other, name, None) for name in facts)
        and one.get_vocab() == other.get_vocab()
        and all(one(text)["input_ids"] == other(text)["input_ids"] for text in SAMPLES)
        and all(one.decode(one(text)["input_ids"]) == other.decode(one(text)["input_ids"]) for text in SAMPLES)
    )
