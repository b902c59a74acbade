"""Chat templates within bounds: jinja's sandbox keeps a template from the machine, not from all its memory and time.

Loops are counted, texts measured before they are made, wherever a template can make one: by `*`, `~`, `%`, methods,
filters and what is written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

LOOPS = 200_000  # rounds of all loops of one rendering
LETTERS = 20_000_000  # that one rendering writes, its inner blocks with it, and of one text
NUMBER = 1_000_000  # the largest width, count or indent that a method or filter is given


@cache
def bound_templates() -> None:
    """From now on transformers renders in the sandbox that is below."""
    import transformers.utils.chat_template_utils as utils

    vars(utils)["ImmutableSandboxedEnvironment"] = _environment()


def _environment() -> type:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def measured(length: int) -> None:
        if length > LETTERS:
            raise SecurityError(
                f"the chat template makes a text of {length:,} letters; at most {LETTERS:,} can be true"
            )

    def arguments(owner: Any, name: str, values: tuple[Any, ...]) -> None:
        for value in values:
            if isinstance(value, int) and abs(value) > NUMBER:
                raise SecurityError(f"the chat template asks {name} for {value:,}; at most {NUMBER:,} can be true")
        texts = [value for value in values if isinstance(value, str)]
        if isinstance(owner, str) and name == "replace" and len(texts) > 1:
            measured(len(owner) + owner.count(texts[0]) * len(texts[1]))
        if name in ("format", "format_map") and any(
            re.search(r"\d{6}", text) for text in (owner, *texts) if isinstance(text, str)
        ):
            raise SecurityError("the chat template formats with a width that cannot be true")
        several = next((v for v in (owner, *values) if isinstance(v, list | tuple)), None)
        if name == "join" and several is not None:
            measured(
                sum(len(str(v)) for v in several) + len(several) * max([len(t) for t in texts] or [len(str(owner))])
            )

    def guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(made)
        def inner(*values: Any, **named: Any) -> Any:
            at = next((i for i, v in enumerate(values) if isinstance(v, str | list | tuple)), 0)
            arguments(values[at] if values else None, name, (*values[at + 1 :], *named.values()))
            return made(*values, **named)

        return inner

    class Filters(dict[str, Any]):
        """transformers puts filters of its own in later."""

        def __setitem__(self, name: str, made: Any) -> None:
            super().__setitem__(name, guarded(name, made))

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "+", "%"})

        def __init__(self, *values: Any, **named: Any):
            super().__init__(*values, **named)
            self.loops = self.letters = 0
            self.filters = Filters({name: guarded(name, made) for name, made in self.filters.items()})
            self.globals |= {"_begin": self.begin, "_tick": self.tick, "_shown": self.shown, "_joined": self.joined}

        def begin(self) -> None:
            self.loops = self.letters = 0

        def tick(self) -> None:
            self.loops += 1
            if self.loops > LOOPS:
                raise SecurityError(f"the chat template goes through its loops more than {LOOPS:,} times")

        def shown(self, value: Any) -> Any:
            self.letters += len(value) if isinstance(value, str) else 1
            measured(self.letters)
            return value

        def joined(self, *values: Any) -> str:
            texts = [str(value) for value in values]
            measured(sum(map(len, texts)))
            return "".join(texts)

        def is_safe_callable(self, made: Any) -> bool:
            return getattr(made, "__self__", None) is self or super().is_safe_callable(made)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            for one, other in ((left, right), (right, left)):
                if operator in "*+" and isinstance(one, str | list | tuple):
                    measured(len(one) * other if operator == "*" and isinstance(other, int) else len(one))
            if operator == "**" and isinstance(right, int | float) and abs(right) > 64:
                raise SecurityError(f"the chat template raises to the power of {right}")
            if operator == "%" and isinstance(left, str):
                arguments(left, "format", (right,))
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, made: Any, *values: Any, **named: Any) -> Any:  # type: ignore[override]
            if getattr(made, "__self__", None) is self:
                return made(*values)
            arguments(getattr(made, "__self__", None), getattr(made, "__name__", ""), (*values, *named.values()))
            return super().call(context, made, *values, **named)

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            tree = super()._parse(source, name, filename)

            def asked(what: str, *told: Any) -> Any:
                return nodes.Call(nodes.Name(what, "load"), list(told), [], None, None)

            for loop in list(tree.find_all(nodes.For)):
                loop.body.insert(0, nodes.ExprStmt(asked("_tick")))
            for joint in list(tree.find_all(nodes.Concat)):
                joint.nodes = [asked("_joined", *joint.nodes)]
            for out in list(tree.find_all(nodes.Output)):
                out.nodes = [n if isinstance(n, nodes.TemplateData) else asked("_shown", n) for n in out.nodes]
            tree.body.insert(0, nodes.ExprStmt(asked("_begin")))
            tree.set_environment(self)
            return tree

    return Bounded
