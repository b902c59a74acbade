"""See what every step of a model's inference costs and is worth, and make it cheaper without losing answers."""

import importlib
from typing import TYPE_CHECKING, Any

from llm_moments.version import __version__

_PUBLIC = {
    "Answer": "tasks.classification",
    "Certificate": "improve.certify",
    "Example": "core",
    "Explanation": "explain.explanation",
    "Improvement": "improve.improvement",
    "MomentsError": "base.errors",
    "Pipeline": "core",
    "Plan": "core",
    "Session": "record.session",
    "Worth": "weigh.worth",
    "chain": "tasks.chain",
    "compare": "evaluate.compare",
    "distill": "train.distill",
    "doctor": "assembly.doctor",
    "embed": "evaluate.embed",
    "fusion": "tasks.fusion",
    "load": "assembly.load",
}
_VERBS = {"explain", "improve", "record", "train", "weigh"}  # packages that can be called
__all__ = sorted({*_PUBLIC, *_VERBS})

if TYPE_CHECKING:
    from llm_moments.base.errors import MomentsError
    from llm_moments.core import Example, Pipeline, Plan


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"llm_moments.{_PUBLIC[name]}"), name)
    if name in _VERBS or name == "errors":
        return importlib.import_module(f"llm_moments.{name}")
    raise AttributeError(f"module 'llm_moments' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
