"""Options that several verbs share, as dataclasses: a parameter of a verb that is annotated with one stands for all of
its fields, each an option of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints


@dataclass(frozen=True)
class Options:
    """Fields are annotated as a verb's parameters are; all have a default."""

    without: ClassVar[tuple[str, ...]] = ()  # fields that the verbs of this kind do not have: they keep their defaults

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        kinds = get_type_hints(cls, include_extras=True)
        return [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kinds[f.name])
            for f in fields(cls)
            if f.name not in cls.without
        ]


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """The function with the options of its parameters that are `Options` in their place, as typer reads them."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    shared = {p.name: p.annotation for p in own if inspect.isclass(p.annotation) and issubclass(p.annotation, Options)}

    def flat(**given: Any) -> None:
        made = {name: kind(**{p.name: given.pop(p.name) for p in kind.parameters()}) for name, kind in shared.items()}
        function(**given, **made)

    params = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for param in own
        for each in (shared[param.name].parameters() if param.name in shared else [param])
    ]
    flat.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
    flat.__annotations__ = {param.name: param.annotation for param in params}
    flat.__doc__, flat.__name__, flat.__module__ = function.__doc__, function.__name__, function.__module__
    return flat
