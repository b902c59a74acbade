"""Which layers of a classifier can be left out, which are best left out, and the module without them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Outputs, Pipeline
from llm_moments.engines.base import put_on
from llm_moments.models.model import Model
from llm_moments.train.students.contract import Tick
from llm_moments.train.students.reloaded import reloaded

Unit = tuple[int, ...]  # layers that can only be left out together, by their numbers


@dataclass(frozen=True)
class Stage:
    """One list of layers in the module: where it is, the numbers of its layers, and those that can be left out."""

    path: str
    layers: tuple[int, ...]
    units: tuple[Unit, ...]


def stages_of(module: Any) -> list[Stage]:
    """The lists of layers of a classifier: one of texts and in ViT and its kin, one a stage in ResNet, ConvNeXt, Swin.

    EngineError where no layer can be left out, or where the configuration has no word for how many there are.
    """
    from llm_moments.models.blocks import RESHAPES, _forms, layer_count, layer_run

    run = layer_run(module)
    name = type(module).__name__
    if len(run) != layer_count(module):
        raise EngineError(f"{name} shares its layers; a student of some of them cannot be made")
    parents = [path.rpartition(".")[0] for path, _ in run]
    counted = _counted(module.config)
    paths = list(dict.fromkeys(parents))
    if counted is None or (len(paths) > 1) != isinstance(counted[1], list | tuple):
        raise EngineError(f"{name} has the same blocks whatever its configuration says; {_CURE}")
    if isinstance(counted[1], list | tuple) and len(counted[1]) != len(paths):
        raise EngineError(f"{name} has {len(paths)} stages, and its configuration {len(counted[1])}; {_CURE}")
    forms = _forms(module, [layer for _, layer in run])
    found = []
    for path in paths:
        own = [at for at, parent in enumerate(parents) if parent == path]
        shifted = any(getattr(run[at][1], "shift_size", 0) for at in own)
        groups = (
            [tuple(own[i : i + 2]) for i in range(0, len(own) - len(own) % 2, 2)] if shifted else [(i,) for i in own]
        )
        units = tuple(g for g in groups if all(forms[i] != RESHAPES for i in g))
        found.append(Stage(path, tuple(own), units))
    if not any(stage.units for stage in found):
        raise EngineError(f"every layer of {name} changes the shape of what passes through it; {_CURE}")
    return found


_CURE = "none can be left out. A smaller model can be taught: --student cnn, or another model's folder"


def _counted(config: Any) -> tuple[str, Any] | None:
    """The entry of the configuration that says how many layers there are, and what it says."""
    for name in ("depths", "num_hidden_layers"):
        value = getattr(config, name, None)
        if value is not None:
            return name, value
    return None


def least_layers(stages: Sequence[Stage]) -> int:
    """How few layers can be left: each stage keeps what cannot go, and a layer at least (two where they go in pairs)."""
    return sum(len(s.layers) - sum(map(len, _most_gone(s))) for s in stages)


def _most_gone(stage: Stage) -> tuple[Unit, ...]:
    all_go = sum(map(len, stage.units)) == len(stage.layers)
    return stage.units[1:] if all_go else stage.units


def _open(stages: Sequence[Stage], gone: Sequence[int]) -> list[Unit]:
    """Units that may still go."""
    found = []
    for stage in stages:
        left = [layer for layer in stage.layers if layer not in gone]
        found += [u for u in stage.units if u[0] not in gone and len(left) > len(u)]
    return found


def chosen_layers(base: Pipeline, values: Sequence[Any], told: Outputs, keep: int, tick: Tick) -> list[int]:
    """At most `keep` layers: one after the other is left out whose loss changes the answers least.

    base: at the extent of inputs that the student is to serve at. told: the teacher's outputs of the values.
    """
    from llm_moments.engines.torch_eager import load_module

    stages = stages_of(load_module(base.model))
    total, least = sum(len(s.layers) for s in stages), least_layers(stages)
    if not least <= keep <= total:
        raise InputError(
            f"{base.model.name} has {total} layers; a student cannot have {keep} of them, but at least {least}"
        )
    gone: list[int] = []
    eager = base.with_(**put_on("torch", "fp32"), **{"forward.calibration": None})
    while total - len(gone) > keep:
        tick(None, f"choosing layers: {total - len(gone)} left")
        apart: dict[Unit, float] = {}
        for unit in _open(stages, gone):
            outputs = eager.with_(**{"forward.skip_layers": sorted([*gone, *unit])}).outputs(values)
            apart[unit] = float(base.task.divergence(told, outputs).mean()) / len(unit)
        goes: Unit = min(apart, key=apart.__getitem__)
        gone += goes
    return [i for i in range(total) if i not in gone]


def fewer(teacher: Model, keep: Sequence[int]) -> tuple[Any, Model]:
    """The teacher's module with only these layers, and its description. EngineError where some of the others cannot
    be left out, InputError for layers that there are not."""
    import torch

    from llm_moments.engines.torch_eager import load_module

    module = load_module(teacher)
    stages = stages_of(module)
    total = sum(len(s.layers) for s in stages)
    if not keep or min(keep) < 0 or max(keep) >= total or len(set(keep)) != len(keep):
        raise InputError(f"{teacher.name} has the layers 0 to {total - 1}; cannot keep {list(keep)}")
    counts = []
    for stage in stages:
        stays = [at for at in stage.layers if at in keep]
        free = {at for unit in stage.units for at in unit}
        stuck = [at for at in stage.layers if at not in keep and at not in free]
        if stuck or not stays:
            raise EngineError(
                f"layer {(stuck or stage.layers)[0]} of {teacher.name} changes the shape of what passes through it, or is the "
                "last of its stage; it must be kept"
            )
        _shorten(module, stage.path, [at - stage.layers[0] for at in stays], torch)
        counts.append(len(stays))
    name, old = _counted(module.config) or ("", 0)
    _count(module, name, type(old)(counts) if isinstance(old, list | tuple) else counts[0], keep, total)
    described = Model(teacher.path, {**teacher.config, **json.loads(module.config.to_json_string(use_diff=False))})
    _same_when_reloaded(module, described)
    return module, described


def _count(module: Any, name: str, value: Any, kept: Sequence[int], total: int) -> None:
    """Writes how many layers there are now, and of what type each; what a configuration derives from that is derived again
    (BEiT's stages)."""
    setattr(module.config, name, value)
    if len(getattr(module.config, "layer_types", None) or ()) == total:
        module.config.layer_types = [module.config.layer_types[i] for i in sorted(kept)]
    if name == "num_hidden_layers" and hasattr(module.config, "stage_names"):
        derived = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")
        told = {k: v for k, v in module.config.to_dict().items() if k not in derived}
        module.config = type(module.config).from_dict(told)


def _shorten(module: Any, path: str, stays: Sequence[int], torch: Any) -> None:
    layers = module.get_submodule(path)
    kept = [layers[at] for at in stays]
    parent, _, name = path.rpartition(".")
    one = torch.nn.ModuleList(kept) if isinstance(layers, torch.nn.ModuleList) else torch.nn.Sequential(*kept)
    setattr(module.get_submodule(parent), name, one)
    for at, layer in enumerate(kept):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = at


def _same_when_reloaded(module: Any, described: Model) -> None:
    """What is saved must be what was made: some architectures give layers a meaning by their number."""
    import torch

    shape = getattr(module, "input_shape", None)
    if shape is not None:
        given = {"pixel_values": torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))}
    else:
        given = {"input_ids": torch.full((1, 4), min(5, int(getattr(module.config, "vocab_size", 6)) - 1))}
    with torch.no_grad():
        one, two = (m.eval()(**given).logits for m in (module, reloaded(module, described)))
    if not torch.allclose(one, two, atol=1e-4):
        raise EngineError(
            f"{type(module).__name__} gives layers a meaning by their number, so that these cannot be left out"
        )
