"""Attention heads and feed-forward neurons: found in a transformer's layers, cut away, left out when it is loaded.

The matrices become smaller; nothing is masked. Fewer neurons are an entry of every `config.json`. Fewer heads are one
where the size of a head is an entry of its own (Llama and its kin); elsewhere the folder's `config.json` names the
heads of each layer under `moments_heads`, which transformers alone does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llm_moments.base.errors import EngineError, InputError, ModelError

HEADS = "moments_heads"  # in config.json
# What architectures call the matrices whose outputs are the heads' own, of which one name is fused from three.
QKV: tuple[tuple[str, ...], ...] = (
    ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"),
    ("query_proj", "key_proj", "value_proj"), ("Wqkv",), ("c_attn",),
)  # fmt: skip
POSITIONS = ("pos_key_proj", "pos_query_proj")  # of DeBERTa, beside those
OUT = ("out_lin", "o_proj", "out_proj", "o", "dense", "Wo", "c_proj")
SHARED = "relative_attention_bias"  # of MPNet: one table with a column for each head, for all layers
WIDTHS = ("intermediate_size", "hidden_dim", "d_inner", "n_inner", "ffn_dim")  # in config.json: neurons


OPENS = "llm-moments only: transformers has no entry for this number of attention heads and finds other shapes than it expects"


@dataclass(frozen=True)
class Heads:
    """The attention of one layer. inputs: matrices and how many heads of them are fused in one; size: numbers of a head."""

    module: Any
    inputs: tuple[tuple[Any, int], ...]
    output: Any
    size: int
    count: int
    keys: int  # heads of keys and values, each for as many heads of queries

    @property
    def shared(self) -> int:
        return self.count // self.keys


@dataclass(frozen=True)
class Neurons:
    """The feed-forward part of one layer. inputs: matrices, and how many of their outputs belong to one neuron."""

    inputs: tuple[tuple[Any, int], ...]
    output: Any
    count: int
    entry: str  # of config.json


# ---------------------------------------------------------------------------------------------------------- found


def heads_of(module: Any) -> list[Heads]:
    """The attention of each layer; EngineError where it is not made in a way that is known here."""
    found = [_attentions(layer) for layer in _layers(module)]
    if not found or any(len(here) != 1 for here in found):
        raise EngineError(f"the attention heads of {_name(module)} cannot be told apart, so that none can be pruned")
    units = [here[0] for here in found]
    if len({(u.size, u.count, u.keys) for u in units}) != 1:
        raise EngineError(
            f"the layers of {_name(module)} have different numbers of attention heads: none can be pruned"
        )
    return units


def _attentions(layer: Any) -> list[Heads]:
    units = (_attention(parent, part) for parent in layer.modules() for part in parent.children())
    return [unit for unit in units if unit is not None]


def _attention(parent: Any, module: Any) -> Heads | None:
    """These heads if the module is an attention; BERT has the matrix that writes back beside it, not in it."""
    parts = dict(module.named_children())
    names = next((n for n in QKV if all(linear(parts.get(one)) for one in n)), None)
    size = getattr(module, "attention_head_size", None) or getattr(module, "head_dim", None)
    out = next((parts[n] for n in OUT if linear(parts.get(n))), None)
    if out is None:
        out = getattr(getattr(parent, "output", None), "dense", None)
    if names is None or not isinstance(size, int) or not linear(out):
        return None
    count = sides(out)[1] // size
    fused = 3 if len(names) == 1 else 1
    first = sides(parts[names[0]])[0]
    keys = count if fused == 3 else sides(parts[names[1]])[0] // size
    if first != fused * count * size or count % max(keys, 1):
        return None
    positions = [(parts[n], 1) for n in POSITIONS if n in parts]
    return Heads(module, (*((parts[n], fused) for n in names), *positions), out, size, count, keys)


def neurons_of(module: Any) -> list[Neurons]:
    """The feed-forward part of each layer; EngineError where there is not one matrix in and one out of known size."""
    config = module.config
    entry = next((name for name in WIDTHS if hasattr(config, name)), "")
    width = getattr(config, entry, None) or 4 * int(getattr(config, "hidden_size", 0))  # GPT-2 says nothing of it
    found = []
    for layer in _layers(module):
        attention = {id(part) for unit in _attentions(layer) for part in (unit.output, *(m for m, _ in unit.inputs))}
        parts = [m for m in layer.modules() if linear(m) and id(m) not in attention]
        outs = [m for m in parts if sides(m)[1] == width]
        ins = tuple((m, sides(m)[0] // width) for m in parts if sides(m)[0] in (width, 2 * width) and m not in outs)
        if not entry or len(outs) != 1 or not ins:
            raise EngineError(
                f"the feed-forward neurons of {_name(module)} cannot be told apart, so that none can be pruned"
            )
        found.append(Neurons(ins, outs[0], int(width), entry))
    return found


def linear(module: Any) -> bool:
    """A matrix product with a bias, also as GPT-2 has it, whose weight lies the other way."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def sides(module: Any) -> tuple[int, int]:
    """Outputs and inputs."""
    outputs, inputs = module.weight.shape
    return (inputs, outputs) if _turned(module) else (outputs, inputs)


def _turned(module: Any) -> bool:
    return hasattr(module, "nf")


def _layers(module: Any) -> list[Any]:
    from llm_moments.models.blocks import layer_list

    return list(layer_list(module)[1])


def _name(module: Any) -> str:
    return type(module).__name__


# ------------------------------------------------------------------------------------------------------------ cut


def cut_heads(module: Any, units: Sequence[Heads], kept: Sequence[Sequence[int]]) -> None:
    """Leaves each layer these heads of queries, and the heads of keys that belong to them; EngineError where all
    layers read one table of positions and the heads are not the same."""
    tables = [
        part for name, part in module.named_modules() if name.endswith(SHARED) and hasattr(part, "num_embeddings")
    ]
    if tables and len({tuple(heads) for heads in kept}) != 1:
        raise EngineError(f"the layers of {_name(module)} share positions by head: the same heads must stay in each")
    for table in tables:
        _cut(table, list(kept[0]), 1)
        table.embedding_dim = len(kept[0])
    for unit, heads in zip(units, kept, strict=True):
        _cut_attention(unit, sorted(heads))


def _cut_attention(unit: Heads, heads: list[int]) -> None:
    keys = sorted({head // unit.shared for head in heads})
    queries = _spread(heads, unit.size)
    for matrix, fused in unit.inputs:
        width = sides(matrix)[0] // fused
        ours = queries if width == unit.count * unit.size else _spread(keys, unit.size)
        cut(matrix, [at * width + row for at in range(fused) for row in ours], rows=True)
    cut(unit.output, queries, rows=False)
    told = {
        "num_attention_heads": len(heads), "num_heads": len(heads), "n_heads": len(heads),
        "num_key_value_heads": len(keys), "num_key_value_groups": len(heads) // len(keys),
        "all_head_size": len(queries), "split_size": len(queries),
    }  # fmt: skip
    for name, value in told.items():
        if isinstance(getattr(unit.module, name, None), int):
            setattr(unit.module, name, value)


def _spread(heads: Sequence[int], size: int) -> list[int]:
    return [head * size + i for head in heads for i in range(size)]


def cut_neurons(units: Sequence[Neurons], kept: Sequence[Sequence[int]]) -> None:
    """Leaves each layer these neurons."""
    for unit, neurons in zip(units, kept, strict=True):
        ours = sorted(neurons)
        for matrix, parts in unit.inputs:
            cut(matrix, [at * unit.count + n for at in range(parts) for n in ours], rows=True)
        cut(unit.output, ours, rows=False)


def cut(matrix: Any, keep: Sequence[int], *, rows: bool) -> None:
    """Leaves these outputs (rows) or inputs of a Linear or Conv1D."""
    _cut(matrix, keep, int(rows == _turned(matrix)))
    if rows and matrix.bias is not None:
        matrix.bias = _chosen(matrix.bias, keep, 0)
    outputs, inputs = sides(matrix)
    if _turned(matrix):
        matrix.nf, matrix.nx = outputs, inputs
    else:
        matrix.out_features, matrix.in_features = outputs, inputs


def _cut(holder: Any, keep: Sequence[int], dim: int) -> None:
    holder.weight = _chosen(holder.weight, keep, dim)


def _chosen(parameter: Any, keep: Sequence[int], dim: int) -> Any:
    import torch

    index = torch.tensor(list(keep), dtype=torch.long, device=parameter.device)
    return torch.nn.Parameter(parameter.detach().index_select(dim, index), parameter.requires_grad)


# --------------------------------------------------------------------------------------------------------- loaded


def shares(unit: Heads, keep: int) -> tuple[int, int]:
    """Heads of keys that stay, and heads of queries for each: whole groups where the number allows it."""
    if 1 <= keep <= unit.count and keep % unit.shared == 0:
        return keep // unit.shared, unit.shared
    if 1 <= keep <= unit.count and keep % unit.keys == 0:
        return unit.keys, keep // unit.keys
    more = (
        f", in groups of {unit.shared}: keep a multiple of {unit.shared} or of {unit.keys}" if unit.shared > 1 else ""
    )
    raise InputError(f"this model has {unit.count} attention heads a layer{more}; a student cannot have {keep}")


def told_of(config: Any) -> dict[str, str]:
    """What the notes of a model folder say of who can open it, where that is not everyone."""
    return {"opens_in": OPENS} if getattr(config, HEADS, None) is not None else {}


def first_heads(unit: Heads, keep: int) -> list[int]:
    """The first so many heads, as they go together."""
    keys, each = shares(unit, keep)
    return [key * unit.shared + i for key in range(keys) for i in range(each)]


def with_fewer_heads(auto: Any, config: dict[str, Any]) -> Any:
    """The class that opens a folder whose config.json has an entry HEADS, for the auto class that it would be else."""
    from transformers import AutoConfig

    try:
        kind = type(AutoConfig.for_model(config["model_type"]))
        known = auto._model_mapping[kind]
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"config.json states {HEADS}, but its model_type {config.get('model_type')!r} is unknown"
        ) from error
    several = known if isinstance(known, tuple) else (known,)  # DeiT has two: config.json says which
    named = config.get("architectures") or ()
    return _fewer(next((cls for cls in several if cls.__name__ in named), several[0]))


@cache
def _fewer(cls: Any) -> Any:
    """That class with the heads cut after it is made and before weights are read; it bears the same name, which
    `save_pretrained` writes into config.json."""

    def __init__(self: Any, config: Any, *rest: Any, **more: Any) -> None:
        cls.__init__(self, config, *rest, **more)
        keep = getattr(config, HEADS, None)
        if keep is None:
            return
        if not isinstance(keep, int) or isinstance(keep, bool):
            raise ModelError(f"config.json: {HEADS} should be a number of heads, not {keep!r}")
        try:
            units = heads_of(self)
            first = [first_heads(unit, keep) for unit in units]
        except (EngineError, InputError) as error:
            raise ModelError(f"config.json: {HEADS} is {keep}, but {error}") from error
        cut_heads(self, units, first)

    return type(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__, "__doc__": cls.__doc__})
