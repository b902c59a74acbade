"""CTranslate2: Whisper and encoder-decoder translation models in its own folder format, each in a file of its own."""

from __future__ import annotations

import importlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from llm_moments.base.errors import EngineError, ModelError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.generator import Decoding, Generated, Generator, OnText, Prompt

_Group = TypeVar("_Group")
_Made = TypeVar("_Made")
KINDS = {  # what a folder's model.bin says it holds, and the class that runs it
    "WhisperSpec": "ctranslate2_whisper:CTranslate2Whisper",
    "TransformerSpec": "ctranslate2_translate:CTranslate2Translate",
}
# int8 keeps what is no matrix product in fp32; as-is takes the nearest to the file's own that this CPU computes in.
COMPUTE = {"as-is": "default", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8_float32",
           "int8-bf16": "int8_bfloat16"}  # fmt: skip


class CTranslate2Generate(Generator):
    """What both kinds share. `open` gives the class for the kind of model; that one says in `decodes` what it follows."""

    name: ClassVar[str] = "ctranslate2"
    extra: ClassVar[str] = "generate"
    package: ClassVar[str] = "ctranslate2"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8", "int8-bf16", "as-is")
    takes: ClassVar[tuple[str, ...]] = ("threads", "streams")
    decodes: ClassVar[tuple[str, ...]] = ("temperature", "top_k", "repetition_penalty", "beams", "length_penalty")
    scoring: ClassVar[bool] = False
    formats: ClassVar[tuple[str, ...]] = ("transformers", "ctranslate2")
    cpu_only: ClassVar[bool] = False
    builds: ClassVar[bool] = True  # of a Hugging Face folder: its own is run as it is

    model: Any
    workers: int

    @classmethod
    def open(
        cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str
    ) -> CTranslate2Generate:
        heard = "WhisperSpec" if "num_mel_bins" in model.config else "TransformerSpec"
        module, _, kind = KINDS[model.config.get("spec", heard)].partition(":")
        made = getattr(importlib.import_module(f"llm_moments.engines.{module}"), kind)
        return made.open(model, settings, store, calibration, device)  # type: ignore[no-any-return]

    @classmethod
    def refuses(cls, model: Any, settings: Mapping[str, Any]) -> str:
        if model.format not in cls.formats:
            return f"ctranslate2 reads no {model.format} model; convert it with ct2-transformers-converter"
        names = [str(name) for name in model.config.get("architectures") or []]
        if any("CausalLM" in name or "LMHeadModel" in name for name in names):
            return "CTranslate2 is for translation and speech recognition here; use openvino-genai or llama.cpp"
        return ""

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]: ...

    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        raise EngineError("ctranslate2 does not tell the log-probabilities of whole vocabularies; use transformers")

    def forget(self) -> None:
        """Nothing is kept of earlier prompts."""

    def close(self) -> None:
        self.model = None

    def at_once(self, work: Callable[[_Group], _Made], groups: Sequence[_Group]) -> list[_Made]:
        """`work` on each group, as many at the same time as there are workers; EngineError where one fails."""
        try:
            if self.workers == 1 or len(groups) == 1:
                return [work(group) for group in groups]
            with ThreadPoolExecutor(self.workers) as pool:
                return list(pool.map(work, groups))
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"ctranslate2 failed: {error}") from error


def workers_of(settings: Mapping[str, Any]) -> int:
    """Batches that are computed at the same time: as many as there are cores for, where a batch's threads are said."""
    threads = int(settings.get("threads", 0))
    return max(cores() // threads, 1) if threads else 1


def opened(kind: str, folder: Path, settings: Mapping[str, Any], device: str, workers: int = 1) -> Any:
    """A `ctranslate2.models.Whisper` or `ctranslate2.Translator` (kind) of a CTranslate2 folder.

    workers: batches it computes at the same time, each with the threads of the plan; they share the weights.
    """
    import ctranslate2

    device = {"auto": "cuda" if ctranslate2.get_cuda_device_count() else "cpu"}.get(device, device)
    if device not in ("cpu", "cuda"):
        raise EngineError(f"ctranslate2 runs on cpu or cuda, not on {device!r}; use transformers")
    asked = COMPUTE[settings.get("precision", "as-is")]
    known = ctranslate2.get_supported_compute_types(device)
    if asked != "default" and asked not in known:
        raise EngineError(
            f"ctranslate2 does not compute in {asked} on this machine's {device}; it does in {', '.join(sorted(known))}"
        )
    cls = ctranslate2.models.Whisper if kind == "Whisper" else ctranslate2.Translator
    ctranslate2.set_log_level(logging.ERROR)  # that weights are converted to what the CPU computes in is no news
    try:
        return cls(
            str(folder), device=device, compute_type=asked, inter_threads=workers,
            intra_threads=int(settings.get("threads", 0)) or cores(),
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded by ctranslate2: {error}") from error


def cores() -> int:
    """ctranslate2's own default is 4 threads at most; the others here take all cores."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
