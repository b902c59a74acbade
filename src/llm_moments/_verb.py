"""Makes a package such as `llm_moments.record` callable, so that the house and the API share one word."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

OPEN = {"read": "data.readers:read", "settings": "train.settings:Settings"}  # what may stand in the place of **read


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function(self))

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """What `help` shows: the arguments, those that `**read` stands for among them."""
        function = _function(self)
        signature = inspect.signature(function)
        told = [f"{function.__name__}{signature}", inspect.getdoc(function) or ""]
        told += [_open(name) for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD]
        return "\n\n".join(told)


def _function(package: ModuleType) -> Any:
    word = package.__name__.rpartition(".")[2]
    return getattr(importlib.import_module(f"{package.__name__}.{word}"), word)


def _open(name: str) -> str:
    """The arguments that `**name` takes, with their defaults."""
    module, _, word = OPEN[name].partition(":")
    found: Any = getattr(importlib.import_module(f"llm_moments.{module}"), word)
    if is_dataclass(found):
        each = [f"{field.name}: {field.type} = {field.default!r}" for field in fields(found)]
    else:
        each = [str(one) for one in inspect.signature(found).parameters.values() if one.kind is one.KEYWORD_ONLY]
    return f"**{name}:\n" + "\n".join(f"    {one}" for one in each)


def verb(name: str) -> None:
    """`record/__init__.py` calls `verb(__name__)`: calling the package calls `record.record.record`."""
    sys.modules[name].__class__ = _Verb
