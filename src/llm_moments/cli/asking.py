"""The options of how a model that makes texts is asked: the same ones for every verb that asks it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

OPTIONS: dict[str, tuple[str, Any]] = {  # what the verb's function is not given, and the choice of the plan it is
    "system": ("template.system", Annotated[
        str | None, typer.Option("--system", help="System prompt of a dialogue that has none.")]),
    "max_new_tokens": ("decode.max_new_tokens", Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")]),
    "temperature": ("decode.temperature", Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="0: the likeliest token; above: drawn, more freely.")]),
    "top_p": ("decode.top_p", Annotated[
        float | None, typer.Option("--top-p", help="Draw from the likeliest tokens that have this share together.")]),
    "seed": ("decode.seed", Annotated[
        int | None, typer.Option("--seed", min=0, help="Of drawn tokens.")]),
    "stop": ("decode.stop", Annotated[
        list[str] | None, typer.Option("--stop", help="A text that ends an answer; may be given again.")]),
}  # fmt: skip


def asking(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with these options in the place of its parameter `asked`: choices of the plan, those that were given."""

    def with_options(**given: Any) -> None:
        told = {choice: given.pop(name) for name, (choice, _) in OPTIONS.items()}
        verb(**given, asked={choice: value for choice, value in told.items() if value is not None and value != []})

    ours = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind)
        for name, (_, kind) in OPTIONS.items()
    ]
    params = list(inspect.signature(verb, eval_str=True).parameters.values())
    at = next(i for i, param in enumerate(params) if param.name == "asked")
    params[at : at + 1] = ours
    with_options.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
    with_options.__annotations__ = {param.name: param.annotation for param in params}
    with_options.__doc__, with_options.__name__ = verb.__doc__, verb.__name__
    with_options.__module__ = verb.__module__
    return with_options
