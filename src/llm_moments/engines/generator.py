"""The contract of an engine that makes answers token by token, and the list of such engines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from llm_moments.core import NULL, Recorder
from llm_moments.engines.contract import Engine
from llm_moments.engines.scoring import Asked, Scored, scored

GENERATORS = {
    "transformers": "transformers_generate:TransformersGenerate",
    "openvino-genai": "openvino_genai:OpenVinoGenAI",
    "llama.cpp": "llama_cpp:LlamaCpp",
    "ctranslate2": "ctranslate2_generate:CTranslate2Generate",
    "remote": "remote:Remote",
}
STEPS = {"prefill": "prefill", "decode": "decode step"}  # one of them, as a recorder is told when it ran
Finish = Literal["stop", "length"]
OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class Prompt:
    """What one answer is made from. Every engine takes the field it can; a task fills those it has.

    ids: token ids the model reads (of an encoder-decoder: the source's), special ones included. decoder: token
    ids the answer begins with, in an encoder-decoder (language, task). features: float32 [bins, frames] of speech.
    messages: (role, content) pairs of a dialogue, for a server with a template of its own; text: the same rendered.
    most: new tokens that this answer may have where that is fewer than the plan's max_new_tokens; 0: as the plan says.
    """

    ids: tuple[int, ...] = ()
    decoder: tuple[int, ...] = ()
    features: np.ndarray | None = None
    messages: tuple[tuple[str, str], ...] = ()
    text: str = ""
    most: int = 0

    def limit(self, decoding: Decoding) -> int:
        """New tokens that its answer may have."""
        return min(self.most, decoding.max_new_tokens) if self.most else decoding.max_new_tokens


@dataclass(frozen=True)
class Decoding:
    """The settings of the plan's `decode` section, as engines take them. temperature 0: greedy (or beams)."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    lookup: int = 0
    json_schema: str = ""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Decoding:
        known = {f.name for f in fields(cls)}
        chosen: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
        return cls(**{**chosen, "stop": tuple(chosen.get("stop", ()))})


@dataclass
class Generated:
    """One answer. ids: new tokens, end token and what follows a stop string left out; None where the engine
    does not tell them (text says all then). first_s: seconds from the call to the first token; later_s: seconds
    of all later tokens of this answer together. reused: prompt tokens that a cache spared; score: mean
    log-probability of its tokens; silence: how likely no speech was heard; drafted, accepted: tokens that were guessed
    ahead, and of them those that are in the answer; read, new: tokens of prompt and answer as a server counts them. None
    where the engine does not tell."""

    ids: list[int] | None
    text: str | None = None
    finish: Finish = "stop"
    first_s: float | None = None
    later_s: float | None = None
    reused: int | None = 0
    score: float | None = None
    silence: float | None = None
    drafted: int | None = None
    accepted: int | None = None
    read: int | None = None
    new: int | None = None


class Generator(Engine):
    """Makes answers from prompts with a model. Opened like an `Engine` (engines/base.py), by the same pool.

    Everything it does not do it refuses with EngineError, naming the setting; nothing is dropped in silence.
    While it works it tells the recorder's open step `prefill` and `decode` (`recorder.spent`, seconds of this
    process, not summed over prompts that are decoded together) and counts `new_tokens`, `prompt_tokens`.
    """

    does_not = "makes no texts"
    decodes: ClassVar[tuple[str, ...]]  # of the `decode` section (fields of Decoding) what it can follow
    rules: ClassVar[tuple[str, ...]] = ()  # of what a folder asks for (generation_settings.RULES) what it follows
    formats: ClassVar[tuple[str, ...]]  # of Model.format
    hears: ClassVar[bool] = False  # features shorter than 30 s
    encodes = False  # an encoder and a decoder
    scoring: ClassVar[bool] = True  # it tells how likely a given text is
    reuse = False  # what was read of earlier prompts is kept
    phase: Any = None  # of a module that can be watched, what it does: 0 nothing, 1 prefill, 2 decode, 3 encode
    computes = ""  # what it says that it computes in

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        """Answers in the order of the prompts. on_text(prompt, piece) is told text as it comes, where given."""

    @abstractmethod
    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        """float32 [len(ids) - start, vocabulary]: log-probabilities of the tokens ids[start:], each given all before
        it (of an encoder-decoder: given prompt, too). EngineError where the engine cannot tell."""

    def scores(self, asked: Sequence[Asked], detailed: bool = False) -> list[Scored]:
        """Of each the log-probabilities of its tokens, in that order; an engine that can reads what they begin with once."""
        return [
            scored(
                self.logprobs([*a.ids, *a.told], len(a.ids), a.prompt), a.told, len(a.ids) + len(a.told) - 1, detailed
            )
            for a in asked
        ]

    def forget(self) -> None:
        """Drops what is kept of earlier prompts: a pass that is timed must not find its own prompts in it. Asked of
        engines with `reuse`: those whose plan has prefix_reuse."""
        return None


def settle(decoding: Decoding, engine: type[Generator] | Generator) -> Decoding:
    """The same settings, or EngineError naming the first one that this engine cannot follow."""
    from llm_moments.base.errors import EngineError

    plain = Decoding()
    for one in fields(Decoding):
        value = getattr(decoding, one.name)
        said = "" if one.name == "json_schema" else f" = {value!r}"
        if value != getattr(plain, one.name) and one.name not in engine.decodes and one.name != "max_new_tokens":
            raise EngineError(
                f"{engine.name} cannot follow decode.{one.name}{said}; take it back or choose another engine"
            )
    return decoding
