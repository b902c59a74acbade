"""torch.compile: the torch engine with its graph compiled by inductor, for shapes that vary."""

from __future__ import annotations

from typing import Any, ClassVar

from llm_moments.core import NULL, Recorder
from llm_moments.engines.contract import Arrays
from llm_moments.engines.foreign import failing_as, quiet
from llm_moments.engines.torch_eager import TorchEager


class TorchCompile(TorchEager):
    name: ClassVar[str] = "torch.compile"

    @classmethod
    def prepare(cls, module: Any) -> Any:
        import torch

        return torch.compile(module, dynamic=True)

    def forward(self, fields: Arrays, recorder: Recorder = NULL) -> Arrays:
        with failing_as("torch.compile failed"), quiet():
            return super().forward(fields, recorder)
