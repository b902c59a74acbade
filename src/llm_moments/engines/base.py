"""The list of engines, and the pool that opens each only once."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

from llm_moments.base.cache import cache_folder
from llm_moments.base.errors import EngineError, EngineMissing, PlanError
from llm_moments.base.notes import slowly
from llm_moments.base.registry import resolve
from llm_moments.core import NULL, Recorder
from llm_moments.engines.contract import Arrays, Engine
from llm_moments.engines.generator import GENERATORS

ENGINES = {
    "torch": "torch_eager:TorchEager",
    "torch.compile": "torch_compile:TorchCompile",
    "onnxruntime": "onnx_runtime:OnnxRuntime",
    "openvino": "openvino:OpenVino",
}
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8-dynamic")
STREAMS = 4  # most batches at a time that plans begin with, a core each
PLAIN = {  # nothing is asked
    "threads": 0, "streams": 1, "skip_layers": [], "keep_float": [], "bf16_layers": [],
    "kv_precision": "", "prefix_reuse": False, "draft": "",
}  # fmt: skip
ONLY_AT = {"keep_float": ("int8", "int8-dynamic"), "bf16_layers": ("fp32",)}  # without effect in other precisions
GRAPH_KEYS = (
    "skip_layers",
    "weights",
    "image_size",
    "keep_float",
    "calibration",
)  # what changes the graph that is built
ALWAYS = ("skip_layers", "weights", "image_size")  # of these, what changes a graph in float, too


def engine_class(name: str) -> type[Engine]:
    """The class of an engine or a generator (engines/generator.py); PlanError for a name that neither has."""
    known = {**ENGINES, **GENERATORS}
    if name not in known:
        raise PlanError(f"unknown engine {name!r}; known are {', '.join(known)}")
    found: type[Engine] = resolve(known[name], "engines")
    return found


def why_not(name: str) -> str | None:
    """Why an engine cannot be used here, or None if it can."""
    cls = engine_class(name)
    missing = [p for p in cls.package.split(",") if importlib.util.find_spec(p) is None]
    return str(EngineMissing(missing[0], cls.extra)) if missing else None


def available(engines: Iterable[str] = ENGINES) -> list[str]:
    return [name for name in engines if why_not(name) is None]


def follows(cls: type[Engine], setting: str, precision: str) -> bool:
    return setting in cls.takes and precision in ONLY_AT.get(setting, (precision,))


def put_on(engine: str, precision: str) -> dict[str, Any]:
    """Changes that put a plan on another engine: choices that this one could not follow are taken back."""
    lost = {f"forward.{s}": None for s in PLAIN if not follows(engine_class(engine), s, precision)}
    return {"forward.engine": engine, "forward.precision": precision, **lost}


def _cannot(setting: str, value: Any, engine: str, precision: str) -> str:
    able = [name for name in (*ENGINES, *GENERATORS) if setting in engine_class(name).takes]
    where = f" in {' or '.join(ONLY_AT[setting])}" if setting in ONLY_AT else ""
    return (
        f"{engine} in {precision} cannot follow forward.{setting} = {value!r}: "
        f"only {', '.join(able)} can{where}. Take it back or choose such an engine."
    )


def _check_linear(settings: Mapping[str, Any], engine: str, precision: str) -> None:
    if (engine, precision) != ("torch", "fp32"):
        raise EngineError(
            f"a linear model runs in torch fp32 only, not in {engine} {precision}: it is one sum over sparse rows, and "
            "nearly all of its time goes into the words"
        )
    for setting in ("skip_layers", "bf16_layers"):
        if settings.get(setting):
            raise EngineError(f"a linear model has no layers for forward.{setting} = {settings[setting]!r}")


@dataclass
class _Opened:
    """An engine of the pool. users: leases that run; turn: held by the one that computes, where it takes one at a time."""

    engine: Engine | None = None
    users: int = 0
    turn: RLock = field(default_factory=RLock)


class Engines:
    """Opened engines of one model by their settings, which threads may share: each is opened once, and the most recently
    used few stay open. None that is leased is closed."""

    def __init__(self, model: Any, *, device: str = "auto", cache: Path | None = None, keep: int = 6):
        self.model, self.device, self.keep = model, device, keep
        self.cache = cache or cache_folder()
        self.calibration: list[Arrays] = []  # padded arrays, for precisions that need them
        self.variants: dict[str, Any] = {}  # models of other weights, by the name that forward.weights gives
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = RLock()

    def get(self, settings: Mapping[str, Any]) -> Engine:
        """The engine, to be looked at, or used where no other thread uses this pool."""
        with self.lease(settings) as engine:
            return engine

    @contextmanager
    def lease(self, settings: Mapping[str, Any], recorder: Recorder = NULL) -> Iterator[Engine]:
        """The engine for as long as it computes: it stays open, and has the caller to itself where it takes one at a time.

        recorder: is told a step `load` where the engine has to be opened first."""
        with self._lock:
            one = self._open.setdefault(json.dumps(settings, sort_keys=True), _Opened())
            one.users += 1
        try:
            with one.turn:  # which of many threads comes first opens it
                if one.engine is None:
                    with recorder.step("load"), slowly(f"loading {self.model.name}"):
                        one.engine = self._start(settings)
                if not one.engine.parallel:
                    self._used(settings)
                    yield one.engine
                    return
            self._used(settings)
            yield one.engine
        finally:
            with self._lock:
                one.users -= 1
                if one.engine is None and not one.users:
                    self._open.pop(json.dumps(settings, sort_keys=True), None)  # it could not be opened

    def _used(self, settings: Mapping[str, Any]) -> None:
        """It goes to the end of the queue; of those that nobody uses, the ones used longest ago are closed."""
        with self._lock:
            self._open.move_to_end(json.dumps(settings, sort_keys=True))
            idle = [key for key, one in self._open.items() if not one.users]
            for key in idle[: max(len(self._open) - self.keep, 0)]:
                self._shut(key)

    def _shut(self, key: str) -> None:
        if (engine := self._open.pop(key).engine) is not None:
            engine.close()

    def _start(self, settings: Mapping[str, Any]) -> Engine:
        self.check(settings)
        cls = engine_class(settings.get("engine", "torch"))
        return cls.open(self.model_for(settings), settings, self.store(settings), self.calibration, self.device)

    def check(self, settings: Mapping[str, Any]) -> None:
        """EngineError with the reason, where an engine of these settings cannot be opened, as far as that is known without
        loading anything."""
        name = settings.get("engine", "torch")
        reason = why_not(name)
        cls = engine_class(name)
        if reason:
            raise EngineMissing(cls.package.split(",")[0], cls.extra)
        precision = settings.get("precision", "fp32")
        if precision not in cls.precisions:
            raise EngineError(f"{name} has no precision {precision!r}; it has {', '.join(cls.precisions)}")
        for setting, plain in PLAIN.items():
            if settings.get(setting, plain) != plain and not follows(cls, setting, precision):
                raise EngineError(_cannot(setting, settings[setting], name, precision))
        if cls.cpu_only and self.device not in ("auto", "cpu"):
            raise EngineError(f"{name} runs on the CPU only here, not on {self.device!r}; use the engine torch")
        model = self.model_for(settings)
        if getattr(model, "is_linear", False):
            _check_linear(settings, name, precision)
        if reason := cls.refuses(model, settings):
            raise EngineError(reason)

    def model_for(self, settings: Mapping[str, Any]) -> Any:
        """The model whose weights these settings ask for; EngineError if there are none of that name."""
        name = settings.get("weights", "")
        if not name:
            return self.model
        if name not in self.variants:
            self.variants[name] = self.model.variant(name)
        return self.variants[name]

    def store(self, settings: Mapping[str, Any]) -> Path:
        """Where the built graph for these settings is: in the model folder if it came with it."""
        key = built_key(settings)
        inside = self.model.path / "built" / key
        return inside if inside.exists() else self.cache / self.model_for(settings).files_digest[:16] / key

    def built(self, settings: Mapping[str, Any]) -> Path | None:
        """The folder of what the engine has built for these settings, once it has been opened; None where it runs the
        model's own files."""
        builds = engine_class(settings.get("engine", "torch")).builds
        store = self.store(settings)
        return store if builds and store.exists() else None

    def close(self) -> None:
        """Closes what nobody uses; an engine that is leased is closed by the pool's next `close`."""
        with self._lock:
            for key in [key for key, one in self._open.items() if not one.users]:
                self._shut(key)


def built_key(settings: Mapping[str, Any]) -> str:
    """A readable name for what is built: bf16 and fp32 run the same graph, threads do not matter."""
    engine, precision = settings.get("engine", "torch"), settings.get("precision", "fp32")
    kind = precision if precision.startswith("int") or precision == "as-is" else "float"
    rest = {k: settings[k] for k in GRAPH_KEYS if settings.get(k) and (k in ALWAYS or kind != "float")}
    suffix = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8] if rest else "whole"
    return f"{engine}-{kind}-{suffix}"
