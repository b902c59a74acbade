"""What a folder in sentence-transformers' layout says: how a sentence's vector is made of its tokens' (modules.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_moments.base.errors import ModelError

MODULES, SETTINGS, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
# Words of 1_Pooling/config.json, in the order in which sentence-transformers puts several beside one another.
MODES = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len", "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How a sentence's vector is made. modes: of pooling, whose vectors stand beside one another; dense: folders of linear
    layers that come after it; normalised: to length 1; most: tokens of a row, 0 where the folder does not say; lower: letters;
    prompt: put before every text unless another is chosen; said: whether the folder says any of it."""

    modes: tuple[str, ...] = ("mean",)
    dense: tuple[str, ...] = ()
    normalised: bool = False
    most: int = 0
    lower: bool = False
    prompt: str = ""
    said: bool = False

    @classmethod
    def of(cls, folder: Path) -> Recipe:
        """ModelError for what is damaged, and for a module that is not known here: its vectors would be others."""
        if not (folder / MODULES).is_file():
            return cls()
        modes: tuple[str, ...] = ()
        dense: list[str] = []
        normalised = False
        for module in _list(folder / MODULES):
            kind = str(module.get("type", "")).rpartition(".")[2]
            place = _inside(folder, str(module.get("path", "")))
            if kind == "Pooling" and not modes:
                modes = _modes(place / "config.json")
            elif kind == "Dense" and modes and not normalised:
                dense.append(str(place.relative_to(folder)))
            elif kind == "Normalize" and modes:
                normalised = True
            elif kind != "Transformer" or modes:
                raise ModelError(f"{folder / MODULES}: a module {module.get('type')!r:.80} there is not known here")
        if not modes:
            raise ModelError(f"{folder / MODULES} has no module Pooling, so it makes no vector of a sentence")
        told = _table(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
        most = told.get("max_seq_length")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ModelError(
                f"{folder / SETTINGS}: max_seq_length should be a whole number from 1 on, not {most!r:.40}"
            )
        lower = bool(told.get("do_lower_case"))
        return cls(modes, tuple(dense), normalised, most or 0, lower, _prompt(folder / PROMPTS), True)


def _modes(file: Path) -> tuple[str, ...]:
    told = _table(file)
    unknown = [name for name, on in told.items() if name.startswith("pooling_mode_") and on and name not in MODES]
    found = tuple(mode for name, mode in MODES.items() if told.get(name))
    if isinstance(told.get("pooling_mode"), str):  # as newer versions write it
        named = {name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token"): mode for name, mode in MODES.items()}  # fmt: skip
        found, unknown = ((named[told["pooling_mode"]],), []) if told["pooling_mode"] in named else ((), [told["pooling_mode"]])  # fmt: skip
    if unknown or not found:
        raise ModelError(f"{file}: the pooling {', '.join(map(repr, unknown)) or 'mode'} is not known here; known are {', '.join(MODES)}")  # fmt: skip
    if told.get("include_prompt") is False:
        raise ModelError(
            f"{file}: include_prompt = false leaves a prompt's tokens out of the vector, which is not done here"
        )
    return found


def _prompt(file: Path) -> str:
    told = _table(file) if file.is_file() else {}
    prompts, name = told.get("prompts"), told.get("default_prompt_name")
    if name is None:
        return ""
    if not isinstance(prompts, Mapping) or not isinstance(prompts.get(name), str):
        raise ModelError(f"{file}: default_prompt_name is {name!r:.40}, and prompts has no text of that name")
    return str(prompts[name])


def _inside(folder: Path, name: str) -> Path:
    place = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ModelError(f"{folder / MODULES} names {name!r:.80}, outside of the folder; refused")
    return place


def _list(file: Path) -> list[Mapping[str, Any]]:
    found = _json(file)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ModelError(f"{file} should hold a list of objects")
    return found


def _table(file: Path) -> dict[str, Any]:
    found = _json(file)
    if not isinstance(found, dict):
        raise ModelError(f"{file} should hold a JSON object")
    return found


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
