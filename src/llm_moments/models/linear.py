"""A linear model: sparse rows of features times one matrix. A folder of plain data, and the torch module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llm_moments.base.errors import ModelError
from llm_moments.models.vectorizer import KINDS, Vectorizer

LINEAR = "moments-linear"  # model_type of a linear model of words
ARCHITECTURE = "MomentsLinearForSequenceClassification"
WEIGHTS = "model.safetensors"  # weight [features, classes], bias [classes], and of tf-idf: idf, vocabulary


def config_of(vectorizer: Vectorizer, labels: Sequence[str], problem: str) -> dict[str, Any]:
    names = {str(at): name for at, name in enumerate(labels)}
    return {
        "model_type": LINEAR, "architectures": [ARCHITECTURE], "id2label": names,
        "label2id": {name: int(at) for at, name in names.items()}, "problem_type": problem,
        "features": {"kind": vectorizer.kind, "ngrams": vectorizer.ngrams, "size": vectorizer.size},
    }  # fmt: skip


def make_module(
    config: dict[str, Any], vectorizer: Vectorizer, weights: tuple[np.ndarray, np.ndarray] | None = None
) -> Any:
    """The module, of these weights (weight [features, classes], bias [classes]) or all 0: the loss is convex, so that any
    beginning is as good."""
    import torch

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            size, classes = vectorizer.size, len(config["id2label"])
            self.weight = torch.nn.Parameter(torch.zeros(size, classes))
            self.bias = torch.nn.Parameter(torch.zeros(classes))

        def forward(self, numbers: Any, values: Any, begins: Any) -> Any:
            """numbers int64 and values float32 of all features, begins int64 [rows] -> logits [rows, classes]."""
            summed = torch.nn.functional.embedding_bag(
                numbers, self.weight, begins, mode="sum", per_sample_weights=values
            )
            return SimpleNamespace(logits=summed + self.bias)

        def save_pretrained(self, folder: Path) -> None:
            save(self, config, vectorizer, Path(folder))

    module = Linear()
    if weights is not None:
        module.load_state_dict({n: torch.from_numpy(w) for n, w in zip(("weight", "bias"), weights, strict=True)})
    return module


def save(module: Any, config: dict[str, Any], vectorizer: Vectorizer, folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    if vectorizer.idf is not None:
        words = "\n".join(vectorizer.vocabulary).encode("utf-8", "surrogatepass")  # no word holds a line's end
        tensors |= {"idf": vectorizer.idf, "vocabulary": np.frombuffer(words, np.uint8)}
    save_file(tensors, str(folder / WEIGHTS))
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load_vectorizer(path: Path, config: dict[str, Any]) -> Vectorizer:
    """ModelError for a folder that does not hold what its config.json says."""
    kind, ngrams, size = _features(path, config)
    if kind == "hashed":
        return Vectorizer(kind, ngrams, size)
    tensors = _tensors(path)
    try:
        names = tuple(tensors["vocabulary"].astype(np.uint8).tobytes().decode("utf-8", "surrogatepass").split("\n"))
        idf = tensors["idf"].astype(np.float32)
    except (KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"{path / WEIGHTS} holds no vocabulary: {error!r:.100}") from error
    if not len(names) == len(set(names)) == len(idf) == size:
        raise ModelError(f"{path}: config.json says {size} features, {WEIGHTS} has {len(names)} names, {len(idf)} idf")
    return Vectorizer(kind, ngrams, size, names, idf)


def load_linear(model: Any) -> Any:
    """The torch module of a linear model's folder, in eval mode."""
    import torch

    module, tensors = make_module(model.config, model.vectorizer), _tensors(model.path)
    for name, parameter in module.named_parameters():
        found = tensors.get(name)
        if found is None or found.shape != tuple(parameter.shape) or found.dtype != np.float32:
            said = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
            raise ModelError(f"{model.path / WEIGHTS}: {name} {said}, not float32 {list(parameter.shape)}")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(found))
    return module.eval()


def _tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(str(path / WEIGHTS)))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ModelError(f"{path / WEIGHTS} cannot be read: {error}") from error


def _features(path: Path, config: dict[str, Any]) -> tuple[str, int, int]:
    try:
        found = config["features"]
        kind, ngrams, size = str(found["kind"]), int(found["ngrams"]), int(found["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path / 'config.json'}: features should say kind, ngrams and size: {error!r}") from error
    power = kind != "hashed" or size & (size - 1) == 0
    if kind not in KINDS or not 1 <= ngrams <= 5 or not 1 <= size <= 2**24 or not power:
        raise ModelError(f"{path / 'config.json'}: impossible features {found!r:.120}")
    return kind, ngrams, size
