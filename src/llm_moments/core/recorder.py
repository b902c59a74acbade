"""What a step tells about itself while it runs."""

from __future__ import annotations

from typing import Any, Protocol


class Recorder(Protocol):
    """What a step tells about itself; `NullRecorder` costs nothing."""

    active: bool

    def step(self, name: str, items: int = 0) -> Any: ...

    def count(self, **counts: float) -> None: ...

    def spent(self, name: str, seconds: float, calls: int = 1, **counts: float) -> None: ...

    def ran(self, name: str, start: float, seconds: float, **facts: float) -> None: ...


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


class NullRecorder:
    active = False
    _nothing = _Nothing()

    def step(self, name: str, items: int = 0) -> _Nothing:
        return self._nothing

    def count(self, **counts: float) -> None:
        pass

    def spent(self, name: str, seconds: float, calls: int = 1, **counts: float) -> None:
        pass

    def ran(self, name: str, start: float, seconds: float, **facts: float) -> None:
        pass


NULL = NullRecorder()
