"""A text encoder whose output is one vector a text, made of its tokens' as sentence-transformers does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from llm_moments.base.errors import ModelError
from llm_moments.models.loading import loaded
from llm_moments.models.nets.architectures import taken
from llm_moments.models.sentence_folder import Recipe

ACTIVATIONS = {"Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU, "Sigmoid": nn.Sigmoid}


class Embedder(nn.Module):
    """`logits` of what it gives: float [rows, numbers of a vector]."""

    def __init__(self, encoder: Any, recipe: Recipe, after: nn.Sequential):
        super().__init__()
        self.encoder, self.after, self.recipe, self.config = encoder, after, recipe, encoder.config
        self.names = taken(encoder)

    def forward(self, **fields: Any) -> Any:
        given = {name: one for name, one in fields.items() if self.names is None or name in self.names}
        hidden = self.encoder(**given).last_hidden_state.float()
        mask = fields["attention_mask"].unsqueeze(-1).float()
        pooled = torch.cat([POOL[mode](hidden, mask) for mode in self.recipe.modes], dim=1)
        pooled = self.after(pooled)
        return SimpleNamespace(logits=nn.functional.normalize(pooled, dim=1) if self.recipe.normalised else pooled)


def _sum(hidden: Any, weights: Any) -> tuple[Any, Any]:
    return (hidden * weights).sum(1), weights.sum(1).clamp(min=1e-9)


def _mean(hidden: Any, mask: Any) -> Any:
    total, count = _sum(hidden, mask)
    return total / count


def _mean_sqrt(hidden: Any, mask: Any) -> Any:
    total, count = _sum(hidden, mask)
    return total / torch.sqrt(count)


def _weighted(hidden: Any, mask: Any) -> Any:
    total, count = _sum(hidden, mask * torch.cumsum(torch.ones_like(mask), 1))
    return total / count


def _at(hidden: Any, places: Any) -> Any:
    return hidden.gather(1, places.reshape(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)


def _last(hidden: Any, mask: Any) -> Any:
    steps = torch.cumsum(torch.ones_like(mask), 1) * mask
    return _at(hidden, steps.squeeze(-1).argmax(1))


def _first(hidden: Any, mask: Any) -> Any:
    return _at(hidden, mask.squeeze(-1).argmax(1))


POOL = {
    "cls": _first, "max": lambda hidden, mask: hidden.masked_fill(mask == 0, -1e9).max(1).values, "mean": _mean,
    "mean_sqrt_len": _mean_sqrt, "weighted_mean": _weighted, "last": _last,
}  # fmt: skip


def load_embedder(model: Any, **options: Any) -> Embedder:
    """Of a model folder in the layout of transformers or sentence-transformers, in eval mode, float32."""
    from transformers import AutoModel

    recipe = Recipe.of(model.path)
    encoder = loaded(
        AutoModel, model.path, model.name, spare=("pooler",), dtype="float32", use_safetensors=True,
        trust_remote_code=model.trust_remote_code, **options,
    )  # fmt: skip
    after = nn.Sequential(*(_dense(model.path / name) for name in recipe.dense))
    return Embedder(encoder, recipe, after).eval()


def _dense(folder: Path) -> nn.Module:
    from safetensors.torch import load_file

    from llm_moments.models.sentence_folder import _table

    told: Mapping[str, Any] = _table(folder / "config.json")
    name = str(told.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise ModelError(f"{folder / 'config.json'}: the activation {name!r:.40} is not known here")
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ModelError(f"{folder} has no model.safetensors; weights in a pickle can run code and are refused")
    try:
        layer = nn.Linear(int(told["in_features"]), int(told["out_features"]), bool(told.get("bias", True)))
        layer.load_state_dict({name.removeprefix("linear."): one.float() for name, one in load_file(file).items()})
    except Exception as error:
        raise ModelError(f"{folder} cannot be loaded: {' '.join(str(error).split()):.200}") from error
    return nn.Sequential(layer, ACTIVATIONS[name]())
