"""Makes a package such as `llm_moments.record` callable, so that the house and the API share one word."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        word = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"{self.__name__}.{word}"), word)(*args, **kwargs)


def verb(name: str) -> None:
    """`record/__init__.py` calls `verb(__name__)`: calling the package calls `record.record.record`."""
    sys.modules[name].__class__ = _Verb
