"""Engines of one model that are open at a time have one copy of its weights, where they run them as they were loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from llm_moments.engines.generating import load_generating, without_layers

_OPEN: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()  # as they were loaded, by their files


def shared(model: Any, skip_layers: Sequence[int] = ()) -> Any:
    """As `load_generating`, over the weights of another such module if one lives: they must not be changed in place.

    Layers, hooks and configuration are the module's own.
    """
    import torch

    told = [file for name in ("config.json", "generation_config.json") if (file := model.path / name).is_file()]
    files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in [*model.weight_files, *told]]
    whole = _OPEN.get(tuple(files))
    if whole is None:
        whole = _OPEN[tuple(files)] = load_generating(model)
    same: dict[int, Any] = {id(p): torch.nn.Parameter(p.data, requires_grad=False) for p in whole.parameters()}
    module = copy.deepcopy(whole, same)
    module.__dict__["shares"] = whole  # which lives as long as this one does
    return without_layers(module, skip_layers)


def in_precision(module: Any, device: str, dtype: Any) -> Any:
    """The module there and in that type; what it shared is let go where it has weights of its own then."""
    first = next(module.parameters()).data_ptr()
    module = module.to(device=device, dtype=dtype)
    if next(module.parameters()).data_ptr() != first:
        module.__dict__.pop("shares", None)
    return module
