"""Which smaller classifiers of images a search teaches, and how much of its time each may take."""

from __future__ import annotations

from llm_moments.base.errors import EngineError
from llm_moments.models.model import Model
from llm_moments.models.nets.architectures import CNN
from llm_moments.train.students.spec import share_of as layers_of
from llm_moments.train.students.stages import least_layers, stages_of

SHARES = (0.3, 0.4, 0.65)  # of the time that is left, for the first student, the second, the third


def image_students(model: Model) -> dict[str, str]:
    """Name and what `distill` calls it, smallest first: of a cnn narrower ones, of others fewer layers; a new cnn where
    no layer can be left out."""
    from llm_moments.engines.torch_eager import load_module

    if model.config.get("model_type") == CNN:
        return {"quarter-width": "width=quarter", "half-width": "width=half"}
    try:
        stages = stages_of(load_module(model))
    except EngineError:
        return {"cnn": "cnn"}
    total, least = sum(len(s.layers) for s in stages), least_layers(stages)
    names = {"least": least, "third": layers_of(total, "third"), "half": layers_of(total, "half")}
    found: dict[str, str] = {}
    for name, count in names.items():
        if least <= count < total and f"layers={count}" not in found.values():
            found[name] = f"layers={count}"
    return found


def shares(model: Model) -> dict[str, float]:
    """How much of the time that is left each of them may take."""
    return dict(zip(image_students(model), SHARES, strict=False))
