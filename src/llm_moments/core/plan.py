"""Plan: every choice of every knob."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from llm_moments.base.errors import PlanError
from llm_moments.core.knob import Knob


class Plan(Mapping[str, Mapping[str, Any]]):
    """Every choice of every knob: `{step: {knob: value}}`, immutable, plain data, hashable by `key`."""

    def __init__(self, choices: Mapping[str, Mapping[str, Any]] | None = None):
        self._choices = {step: dict(knobs) for step, knobs in sorted((choices or {}).items()) if knobs}

    def __getitem__(self, step: str) -> Mapping[str, Any]:
        return self._choices[step]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"Plan({self._choices})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """Hash of the choices, the same in every process."""
        return hashlib.sha256(json.dumps(self._choices, sort_keys=True).encode()).hexdigest()[:16]

    def settings(self, step: str) -> dict[str, Any]:
        return dict(self._choices.get(step, {}))

    def with_(self, **changes: Any) -> Plan:
        """`plan.with_(**{"truncate.max_length": 64})`; the value None takes a choice back."""
        new = self.to_dict()
        for name, value in changes.items():
            step, _, knob = name.rpartition(".")
            if not step:
                raise PlanError(f"a change is named 'step.knob', not {name!r}")
            new.setdefault(step, {})
            if value is None:
                new[step].pop(knob, None)
            else:
                new[step][knob] = value
        return Plan(new)

    def section(self, stage: str) -> Plan:
        """What it says of one stage of a chain, as a plan of its own."""
        start = f"{stage}."
        return Plan({step[len(start) :]: knobs for step, knobs in self._choices.items() if step.startswith(start)})

    def without(self, step: str) -> Plan:
        return Plan({name: knobs for name, knobs in self._choices.items() if name != step})

    def changes(self, other: Plan) -> dict[str, Any]:
        """What must be said to `with_` to come from `self` to `other`."""
        names = {f"{s}.{k}" for p in (self, other) for s in p for k in p[s]}
        both = {n: (self.get_choice(n), other.get_choice(n)) for n in sorted(names)}
        return {n: new for n, (old, new) in both.items() if old != new}

    def get_choice(self, name: str) -> Any:
        step, _, knob = name.rpartition(".")
        return self._choices.get(step, {}).get(knob)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return json.loads(json.dumps(self._choices))

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Plan:
        try:
            choices = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"the plan is not valid TOML: {error}") from error
        if not all(isinstance(knobs, dict) for knobs in choices.values()):
            raise PlanError("a plan holds one table a step, such as [truncate]")
        return cls(choices)

    def check(self, knobs: Mapping[str, Sequence[Knob]]) -> Plan:
        """The same plan, or PlanError naming the unknown knob or the impossible value."""
        for step, choices in self._choices.items():
            if step not in knobs:
                raise PlanError(f"unknown step {step!r} in the plan{closest(step, knobs)}")
            known = {knob.name: knob for knob in knobs[step]}
            for name, value in choices.items():
                if name not in known:
                    raise PlanError(f"unknown knob {step}.{name} in the plan{closest(name, known)}")
                if not known[name].valid(value):
                    raise PlanError(f"impossible value {value!r} for {step}.{name}: {known[name].means}")
        return self


def closest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
