"""What all tasks share whose answers are texts that a model makes token by token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.environment import usable_cores
from llm_moments.base.errors import DataError
from llm_moments.core import Change, Knob, Outputs, Plan, SampleSizes, Task, one_of
from llm_moments.core.usage import Usage, usages
from llm_moments.steps.decode import FORWARD, Decode
from llm_moments.steps.logprobs import tokens_of
from llm_moments.tasks.metrics import common_prefix, text_metric

TOGETHER = 8  # prompts that a careful engineer decodes together
BATCH = (
    Knob("order", "input", ("input", "length"), True, one_of("input", "length"), "input or length: which prompts are decoded together", {"forward.streams": 1}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """text: what the model answered. Beside it usage, its bill, and where the plan asks for them (decode.logprobs) its tokens:
    {"token": text, "id": n, "logprob": nats, "top_logprobs": [the likeliest ones]}."""

    text: str
    usage: Usage = field(default=Usage(), compare=False)
    logprobs: list[dict[str, Any]] | None = field(default=None, compare=False, metadata={"asked": True})


class Generation(Task):
    """Outputs are one `text` a row; a score is given for each of them.

    metric_name: how an answer is held against its reference. Without references, an answer is held against the
    baseline's own: the share of its words from the beginning on that are the same.
    """

    name = "generation"
    default_metric = "chrF"
    agrees = "share of the words up to the first other one"  # what `agreement` is; '': the metric
    strategy = "greedy"
    streams = True
    compared = True
    engines_open = 2  # each holds all weights
    sizes = SampleSizes(32, 4, 1, {"search": 24, "certify": 48}, {"calibrate": 32, "search": 200, "certify": 1000})
    sorts: Mapping[str, Any] = {"batch.order": "length"}

    def __init__(self, model: Any, metric: str | None = None):
        super().__init__(model, metric)
        self.metric_name = metric or self.default_metric
        self._score = None if metric is None else text_metric(metric)  # a name that is unknown is told at once

    def metric(self) -> str:
        return self.metric_name

    def save_inputs(self, plan: Plan, folder: Path) -> None:
        self.model.tokenizer.save_pretrained(folder)

    def base_knobs(self) -> dict[str, Sequence[Knob]]:
        return {"forward": FORWARD, "decode": Decode.knobs, "batch": BATCH}

    def careful(self, plan: Plan) -> Mapping[str, Any]:
        from llm_moments.engines.base import engine_class, follows

        forward = plan.settings("forward")
        cls = engine_class(forward.get("engine", first_engine(self.model)))
        together = follows(cls, "streams", forward.get("precision", "fp32"))
        return {"forward.streams": max(TOGETHER, int(forward.get("streams", 1)))} if together else {}

    # -- answers and scores

    def answers(self, outputs: Outputs) -> list[Any]:
        rows = zip(outputs["text"], usages(outputs), tokens_of(outputs, self._piece), strict=True)
        return [TextAnswer(str(text), bill, tokens) for text, bill, tokens in rows]

    def _piece(self, token: int) -> str:
        """One token as a text; control tokens, too."""
        return str(self.model.tokenizer.decode([token]))

    def references(self, raw: Iterable[Any]) -> list[Any]:
        return [self._reference(value, row) for row, value in enumerate(raw, 1)]

    @staticmethod
    def _reference(value: Any, row: int) -> str:
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            value = value[0]  # several right answers: the first one counts
        if not isinstance(value, str):
            raise DataError(f"row {row}: the reference {value!r:.60} is not a text")
        return value

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        self._score = self._score or text_metric(self.metric_name)
        return np.array(
            [self._score(str(o), str(r)) for o, r in zip(outputs["text"], references, strict=True)], np.float64
        )

    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        return np.array(
            [common_prefix(str(o), str(b)) for o, b in zip(outputs["text"], baseline["text"], strict=True)], np.float64
        )

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n]: share of the words that are not part of the beginning both texts have; 0 for the same texts."""
        return 1 - self.agreement(outputs, others)

    def as_references(self, outputs: Outputs) -> list[Any]:
        return [str(text) for text in outputs["text"]]

    def argmax_equal(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        return np.asarray(outputs["text"] == others["text"])

    def close(self, outputs: Outputs, others: Outputs, within: float) -> np.ndarray:
        """bool [n]: whether a change gave the same answer, as a lossless one must."""
        return self.argmax_equal(outputs, others)


def whole_text(value: Any, what: str) -> str:
    if is_pair(value):
        raise DataError(f"two texts a row, and {what} is one: name its column with --text-column")
    if not isinstance(value, str):
        raise DataError(f"{what} is a text, not {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = value[error.start]
        raise DataError(f"{what} holds {broken!r}, half a character: it was not decoded rightly") from None
    return value


def is_pair(value: Any) -> bool:
    """Two texts, as a file with two columns of them is read for classifiers."""
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)


def first_engine(model: Any) -> str:
    """The engine that a model of this format is held against: transformers where it reads it."""
    return "remote" if model.format == "remote" else "ctranslate2" if model.format == "ctranslate2" else "transformers"


def on_gpu() -> bool:
    from llm_moments.engines.torch_eager import best_device

    return best_device("auto") != "cpu"


def engine_changes(model: Any) -> list[Change]:
    """Every engine that is here and reads this model's format, in each of its precisions: what is soon open comes first,
    the baseline's own engine last; a quantised file as it is, then lower precisions. fp16 is left to a GPU: a CPU
    computes it slower than fp32."""
    from llm_moments.engines.base import available, engine_class, put_on
    from llm_moments.engines.generator import GENERATORS

    order: tuple[str, ...] = ("int4", "int8", "int8-bf16", "bf16", "fp16", "fp32")
    order = ("as-is", *order) if model.format == "gguf" else (*order, "as-is")
    names = sorted(available(GENERATORS), key=lambda n: (n == first_engine(model), engine_class(n).builds))
    found: list[Change] = []
    for name in names:
        cls: Any = engine_class(name)
        if model.format not in cls.formats:
            continue
        slow = () if cls.cpu_only or on_gpu() else ("fp16",)
        floats_first = ("fp32", *order) if cls.builds else order  # other graphs are then made from that one
        for precision in sorted(set(cls.precisions) - set(slow), key=floats_first.index):
            found.append(Change(f"{name} {precision}", put_on(name, precision), precision == "fp32"))
    return found


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def decoding_changes(plan: Any, model: Any) -> list[Change]:
    """Knobs of the engine that the plan has: those it cannot follow are left out."""
    from llm_moments.engines.base import engine_class

    forward, decode = plan.settings("forward"), plan.settings("decode")
    cls: Any = engine_class(forward.get("engine", "transformers"))
    found: list[Change] = []
    if "streams" in cls.takes:
        found += [
            Change(f"{n} together", {"forward.streams": n}, True)
            for n in (2, 4, 8, 16, 32)
            if n > forward.get("streams", 1)
        ]
    if "threads" in cls.takes and not forward.get("threads"):
        counts = next(knob.values for knob in FORWARD if knob.name == "threads")
        found += [Change(_threads(n), {"forward.threads": n}, True) for n in counts if n < usable_cores()]
    if "lookup" in cls.decodes and not decode.get("lookup"):
        found.append(Change("prompt lookup", {"decode.lookup": 5}, True))
    if "prefix_reuse" in cls.takes and not forward.get("prefix_reuse"):
        found.append(Change("prefix reuse", {"forward.prefix_reuse": True}, True))
    if "kv_precision" in cls.takes and not forward.get("kv_precision"):
        found.append(Change("int8 cache", {"forward.kv_precision": "int8"}, False))
    if decode.get("beams", 1) > 1:
        found += [Change(f"beams {n}", {"decode.beams": n}, False) for n in (2, 1) if n < decode["beams"]]
    return found
