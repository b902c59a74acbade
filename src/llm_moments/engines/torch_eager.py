"""PyTorch, layer by layer as it is written: the reference that every other engine is held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.contract import Arrays, Forward
from llm_moments.engines.foreign import failing_as
from llm_moments.engines.padding import SAME, asked
from llm_moments.engines.threads import compute_with
from llm_moments.models.nets.architectures import taken

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load_module(model: Any, skip_layers: Iterable[int] = (), attention: str | None = None) -> Any:
    """The `torch.nn.Module` of a model folder in eval mode, float32, some layers left out."""
    if model.is_linear:
        from llm_moments.engines import crossed
        from llm_moments.models.linear import load_linear

        module = load_linear(model)
        return crossed.opened(module, model.path) if model.crossed else module
    if model.graph is not None:
        raise EngineError(f"{model.name} came as a graph, and torch has no module of it; use onnxruntime or openvino")
    from llm_moments.models.blocks import skip
    from llm_moments.models.loading import loaded
    from llm_moments.models.nets.architectures import auto_class, fitted

    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    if "sentence" in model.config:  # a vector of each text is asked for (tasks/embedding.py)
        from llm_moments.models.nets.embedder import load_embedder

        module = fitted(load_embedder(model, **options), model)
        return skip(module, list(skip_layers)) if skip_layers else module
    module = loaded(
        auto_class(model.config), model.path, model.name, dtype="float32", use_safetensors=True,
        trust_remote_code=model.trust_remote_code, **options,
    )  # fmt: skip
    module = fitted(module, model)
    return skip(module, list(skip_layers)) if skip_layers else module


def best_device(wanted: str) -> str:
    """The device to run on; InputError for one that torch does not find here."""
    import torch

    able = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name, here in able.items() if here]
    if wanted == "auto":
        return found[0]
    if wanted not in found:
        raise InputError(
            f"torch finds no {wanted!r} device here, only {', '.join(found)}: choose one of these, or auto"
        )
    return wanted


class TorchEager(Forward):
    name: ClassVar[str] = "torch"
    extra: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    takes: ClassVar[tuple[str, ...]] = ("threads", "skip_layers", "bf16_layers")
    cpu_only: ClassVar[bool] = False
    builds: ClassVar[bool] = False

    def __init__(self, module: Any, settings: Mapping[str, Any], device: str):
        import torch

        self.module, self.device, self.taken = module, device, taken(module)
        self.dtype = next((p.dtype for p in module.parameters()), None)
        self.threads = int(settings.get("threads", 0))
        self.precision = "bf16" if settings.get("bf16_layers") else settings.get("precision", "fp32")
        self._torch = torch

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> TorchEager:
        import torch

        device = best_device(device)
        precision = settings.get("precision", "fp32")
        if precision == "fp16" and device == "cpu":
            raise EngineError("fp16 on a CPU is slower than fp32 in torch; use bf16 or fp32")
        if settings.get("threads") and device != "cpu":
            raise EngineError(f"forward.threads is for the CPU; this model runs on {device!r}")
        module = load_module(model, settings.get("skip_layers", ()))
        module = module.to(device=device, dtype=getattr(torch, DTYPES[precision]))
        _bf16_layers(module, settings.get("bf16_layers", ()))
        return cls(cls.prepare(module), settings, device)

    @classmethod
    def prepare(cls, module: Any) -> Any:
        return module

    def forward(self, fields: Arrays, recorder: Recorder = NULL) -> Arrays:
        torch = self._torch
        if self.device == "cpu":
            compute_with(self.threads)
        with torch.inference_mode():
            names = fields if self.taken is None else fields.keys() & self.taken
            inputs = {name: torch.from_numpy(fields[name]) for name in names}
            if self.dtype not in (None, torch.float32):  # pixels; ids stay whole numbers
                inputs = {name: x.to(self.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
            if self.device != "cpu":
                with recorder.step("transfer"):
                    inputs = {name: x.to(self.device, non_blocking=True) for name, x in inputs.items()}
            with failing_as("torch failed"), _padding_unknown(self.module, len(next(iter(fields.values())))):
                logits = self.module(**inputs).logits
            return {"logits": logits.float().cpu().numpy()}

    def padding(self, encoder: Any) -> str:
        """On which side it takes padding: engines/padding.py."""
        return asked(lambda fields: self.forward(fields)["logits"], encoder, SAME[self.precision])

    def close(self) -> None:
        self.module = None


@contextmanager
def _padding_unknown(module: Any, rows: int) -> Iterator[None]:
    """A row alone is read as config.json has it where only the tokenizer knows a padding token: nothing is padded, and
    that token in a text is one of its own."""
    if rows > 1 or not getattr(module, "pad_is_given", False):
        yield
        return
    config = module.config.get_text_config()
    pad, config.pad_token_id = config.pad_token_id, None
    try:
        yield
    finally:
        config.pad_token_id = pad


def _bf16_layers(module: Any, names: Iterable[str]) -> None:
    """Computes the named layers in bf16; their inputs and outputs are converted on the way."""
    import torch

    from llm_moments.models.blocks import blocks

    wanted = set(names)
    if not wanted:
        return
    known = {block.name: block.module for block in blocks(module)}
    if wanted - known.keys():
        raise EngineError(f"no layer {sorted(wanted - known.keys())} in this model; it has {', '.join(known)}")

    def cast(value: Any, dtype: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, tuple | list):
            return type(value)(cast(v, dtype) for v in value)
        if isinstance(value, dict):
            return {k: cast(v, dtype) for k, v in value.items()}
        return value

    for name in wanted:
        layer = known[name].to(torch.bfloat16)
        layer.register_forward_pre_hook(
            lambda m, args, kwargs: (cast(args, torch.bfloat16), cast(kwargs, torch.bfloat16)), with_kwargs=True
        )
        layer.register_forward_hook(lambda m, args, output: cast(output, torch.float32))
