"""The contract of an engine, and of one that computes a forward pass; those that make texts: engines/generator.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder

Arrays = dict[str, np.ndarray]


class Engine(ABC):
    """Runs a model directory.

    open(model, settings, store, calibration): `store` is a folder of its own where whatever is built
    (an exported graph, quantised weights) is kept and found again; `calibration` gives representative
    inputs when the precision needs them. Raises EngineError when this model cannot be exported or run.
    """

    name: ClassVar[str]
    extra: ClassVar[str]  # what `pip install 'llm-moments[...]'` takes
    package: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    takes: ClassVar[tuple[str, ...]]  # the settings of PLAIN (engines/base.py) that it follows; others are refused
    cpu_only: ClassVar[bool]
    builds: ClassVar[bool]  # whether it keeps a built graph, so that the torch weights are not needed
    does_not: ClassVar[str] = "is no engine"  # what is said of an engine that has not this ability
    parallel: ClassVar[bool] = False  # several threads may compute with it at a time
    device = "cpu"
    module: Any = None  # the torch module, of engines that run one

    @classmethod
    @abstractmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> Engine: ...

    @abstractmethod
    def close(self) -> None: ...

    @classmethod
    def refuses(cls, model: Any, settings: Mapping[str, Any]) -> str:
        """Why it cannot run this model so, as far as the model's header and this machine tell: nothing is loaded. '': no
        reason is known."""
        return ""


def need(engine: Engine, ability: Any) -> Any:
    """The engine as one that can do this; EngineError naming both where it cannot."""
    if isinstance(engine, ability):
        return engine
    raise EngineError(f"{engine.name} {ability.does_not}; choose another engine (forward.engine)")


class Forward(Engine):
    """Arrays in, arrays out."""

    does_not = "computes no forward pass of a classifier"

    @abstractmethod
    def forward(self, fields: Arrays, recorder: Recorder = NULL) -> Arrays:
        """fields: int64 arrays `[rows, tokens]` (input_ids, attention_mask, token_type_ids), or float32
        pixel_values `[rows, channels, height, width]`.

        Returns {"logits": float32 [rows, classes]}.
        """

    def forward_all(self, batches: Iterable[Arrays], recorder: Recorder = NULL) -> Iterator[Arrays]:
        """The same for many batches, results in their order; an engine may overlap them."""
        return (self.forward(fields, recorder) for fields in batches)

    def padding(self, encoder: Any) -> str | None:
        """On which side the model takes padding (engines/padding.py); None: it cannot be asked."""
        return None
