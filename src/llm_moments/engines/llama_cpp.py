"""llama.cpp on the CPU, called at its C level, for .gguf files as they are.

The decode loop is this one: sequences share each llama_decode, beginnings are shared between them, and guesses (from
the prompt, or of a draft model) are read together with the token they follow, so that they cost little when wrong.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.foreign import failing_as
from llm_moments.engines.generator import STEPS, Decoding, Generated, Generator, OnText, Prompt
from llm_moments.engines.llama_context import LlamaContext, LlamaModel, Piece
from llm_moments.engines.llama_sequences import Sequences, common
from llm_moments.engines.sampling import Picker, Rules, looked_up
from llm_moments.engines.text_watch import TextWatch
from llm_moments.models.generation_settings import asked_by

GUESSES = 4  # tokens a draft model is ahead


class LlamaCpp(Generator):
    name: ClassVar[str] = "llama.cpp"
    extra: ClassVar[str] = "llama"
    package: ClassVar[str] = "llama_cpp,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("as-is",)
    takes: ClassVar[tuple[str, ...]] = ("threads", "streams", "kv_precision", "prefix_reuse", "draft")
    decodes: ClassVar[tuple[str, ...]] = (
        "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "lookup",
    )  # fmt: skip
    rules: ClassVar[tuple[str, ...]] = Rules.follows
    formats: ClassVar[tuple[str, ...]] = ("gguf",)
    cpu_only: ClassVar[bool] = True
    builds: ClassVar[bool] = False

    def __init__(
        self, file: Path, settings: Mapping[str, Any], tokenizer: Any, draft: Path | None = None,
        asked: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        self.settings, self.tokenizer, self.asked = dict(settings), tokenizer, dict(asked or {})
        told = self.asked.get("eos_token_id", ())
        self.also_ends = set(told if isinstance(told, list | tuple) else [told])
        self.streams, self.reuse = int(settings.get("streams", 1)), bool(settings.get("prefix_reuse"))
        self.model = LlamaModel(file)
        self.draft = Draft(LlamaModel(draft), self.settings, self.streams) if draft else None
        if self.draft and self.draft.model.size != self.model.size:
            raise EngineError(
                f"the draft model knows {self.draft.model.size} tokens, this one {self.model.size}: they cannot guess for each other"
            )
        self.sequences = Sequences(self.model, self.streams, self.settings, keeps=self.reuse)

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> LlamaCpp:
        draft = None
        if settings.get("draft"):
            from llm_moments.models.open import open_model

            other = open_model(settings["draft"])
            if other.format != "gguf":
                raise EngineError(f"llama.cpp takes a .gguf file for forward.draft, not {settings['draft']}")
            draft = other.weight_files[0]
        with failing_as("llama.cpp cannot take this model"):
            return cls(model.weight_files[0], settings, model.tokenizer, draft, asked_by(model))

    @classmethod
    def refuses(cls, model: Any, settings: Mapping[str, Any]) -> str:
        if model.format not in cls.formats:
            return f"llama.cpp reads .gguf files, not a {model.format} model; convert it or take another engine"
        return ""

    def ends(self, token: int) -> bool:
        return token in self.also_ends or self.model.ends(token)

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        if decoding.lookup and self.draft is not None:
            raise EngineError(
                "llama.cpp guesses from the prompt or by a draft model: unset decode.lookup or forward.draft"
            )
        if any(not p.ids for p in prompts):
            raise EngineError("llama.cpp needs at least one token of prompt")
        with failing_as("llama.cpp failed"):
            context = self.sequences.with_room(self._room(prompts, decoding))
            return _Run(self, context, prompts, decoding, recorder, on_text).answers()

    def _room(self, prompts: Sequence[Prompt], decoding: Decoding) -> int:
        """Tokens that sequences can hold at a time: the longest prompts with their answers and guesses and, where
        beginnings are kept, what all sequences but the first, which begins first, hold from before."""
        longest = sorted((len(p.ids) for p in prompts), reverse=True)[: self.streams]
        ahead = decoding.lookup or (GUESSES if self.draft else 0)
        kept = map(len, self.sequences.known[1:])
        return sum(longest) + len(longest) * (decoding.max_new_tokens + ahead) + sum(kept)

    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        if not 1 <= start < len(ids):
            raise EngineError(f"log-probabilities are told from the second token on, not from {start} of {len(ids)}")
        with failing_as("llama.cpp failed"):
            self.sequences.with_room(len(ids) + sum(map(len, self.sequences.known[1:])))
            self.sequences.begin(0, ids, share=False)
            logits = self.sequences.read(0, ids[:-1], start - 1)
            self.sequences.cut(0, 0)
        logits -= logits.max(-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True, dtype=np.float64)), np.float32)

    def forget(self) -> None:
        self.sequences.forget()
        if self.draft is not None:
            self.draft.sequences.forget()

    def close(self) -> None:
        self.sequences.close()
        self.model.close()
        if self.draft is not None:
            self.draft.close()


@dataclass
class _Open:
    """A prompt that is being answered in a sequence. ids: its tokens and the new ones; read: how many are in."""

    at: int
    ids: list[int]
    picker: Picker
    asked: float
    read: int
    guesses: list[int] = field(default_factory=list)


class _Run:
    """One call of `generate`."""

    def __init__(
        self, engine: LlamaCpp, context: LlamaContext, prompts: Sequence[Prompt], decoding: Decoding,
        recorder: Recorder, on_text: OnText | None,
    ):  # fmt: skip
        self.engine, self.context, self.prompts, self.decoding = engine, context, prompts, decoding
        self.recorder, self.limits = recorder, [prompt.limit(decoding) for prompt in prompts]
        self.made = [Generated([], finish="length") for _ in prompts]
        self.watch = TextWatch(engine.tokenizer, decoding.stop, on_text)
        self.waiting = deque(range(len(prompts)))
        self.open: dict[int, _Open] = {}  # by sequence
        self.guessed = self.right = 0

    def answers(self) -> list[Generated]:
        spent, steps = {"prefill": 0.0, "decode": 0.0}, {"prefill": 0, "decode": 0}
        try:
            while self.waiting or self.open:
                begun = time.perf_counter()
                self._begin()
                kind = "prefill" if any(self.made[one.at].first_s is None for one in self.open.values()) else "decode"
                prompts = len(self.open)
                self._step()
                took = time.perf_counter() - begun
                spent[kind] += took
                steps[kind] += 1
                self.recorder.ran(STEPS[kind], begun, took, prompts=prompts)
        except BaseException:
            self.engine.sequences.close()  # what its sequences hold is not known any more
            raise
        read, new = sum(len(p.ids) for p in self.prompts), sum(len(one.ids or ()) for one in self.made)
        spared = sum(one.reused or 0 for one in self.made)
        self.recorder.spent("prefill", spent["prefill"], steps["prefill"], tokens=read - spared, reused_tokens=spared)
        self.recorder.spent("decode", spent["decode"], steps["decode"], tokens=new)
        self.recorder.count(prompt_tokens=read, new_tokens=new)
        if self.guessed:
            self.recorder.count(guessed_tokens=self.guessed, guessed_right=self.right)
        return self.made

    def _begin(self) -> None:
        """Gives waiting prompts to free sequences; a beginning that a sequence holds is not read again."""
        for sequence in range(self.engine.streams):
            if not self.waiting or sequence in self.open:
                continue
            at = self.waiting.popleft()
            ids = list(self.prompts[at].ids)
            held = self.engine.sequences.begin(sequence, ids, share=self.engine.reuse)
            if self.engine.draft is not None and not self.engine.reuse:
                self.engine.draft.sequences.cut(sequence, 0)  # a prompt that was there before would be read for nothing
            self.made[at].reused = held
            picker = Picker(self.decoding, ids, Rules.of(self.engine.asked, ids, self.limits[at], self._ends))
            self.open[sequence] = _Open(at, ids, picker, time.perf_counter(), held)

    def _ends(self) -> list[int]:
        return [token for token in range(self.engine.model.size) if self.engine.ends(token)]

    def _step(self) -> None:
        room, pieces, whose = self.context.most, [], []
        for sequence, one in self.open.items():
            tokens = (one.ids[one.read :] + one.guesses)[:room]
            if not tokens:
                continue
            left = len(one.ids) - one.read  # tokens that are certain; guesses come after them
            told = max(0, len(tokens) - left + 1)
            pieces.append(Piece(sequence, one.read, tokens, told))
            whose.append(sequence)
            room -= len(tokens)
        for sequence, piece, logits in zip(whose, pieces, self.context.read(pieces), strict=True):
            one = self.open[sequence]
            if piece.told == 0:
                one.read += len(piece.tokens)
            elif self._take(sequence, one, piece, logits):
                del self.open[sequence]
            self.engine.sequences.known[sequence] = one.ids[: one.read]

    def _take(self, sequence: int, one: _Open, piece: Piece, logits: np.ndarray) -> bool:
        """New tokens of one answer; true when it is done. Guesses count as far as they are what is picked anyway."""
        made, guesses = self.made[one.at], list(piece.tokens[len(piece.tokens) - piece.told + 1 :])
        assert made.ids is not None
        start, done = one.read + len(piece.tokens) - len(guesses), False
        one.read = start
        for at, row in enumerate(logits):
            token = one.picker(row)
            right = at < len(guesses) and guesses[at] == token
            if self.engine.ends(token):
                made.finish, done = "stop", True
                break
            made.ids.append(token)
            one.ids.append(token)
            if len(made.ids) == self.limits[one.at]:
                done = True
                break
            if not right:
                break
            one.read += 1
            self.right += 1
        self.guessed += len(guesses)
        if guesses:
            made.drafted = (made.drafted or 0) + len(guesses)
            made.accepted = (made.accepted or 0) + one.read - start
            self.context.forget(sequence, one.read)
        now = time.perf_counter() - one.asked
        made.first_s = now if made.first_s is None else made.first_s
        made.later_s = now - made.first_s
        if self.watch.ended(one.at, made.ids, last=done):
            made.finish, done = "stop", True
        if done:
            self.recorder.ran("prompt", one.asked, now, first_s=made.first_s, tokens=len(made.ids))
        one.guesses = [] if done else self._guesses(sequence, one, self.limits[one.at] - len(made.ids) - 1)
        return done

    def _guesses(self, sequence: int, one: _Open, most: int) -> list[int]:
        if most < 1:
            return []
        if self.decoding.lookup:
            return looked_up(one.ids, min(self.decoding.lookup, most))
        if self.engine.draft is not None:
            return self.engine.draft.guesses(sequence, one.ids, min(GUESSES, most))
        return []


class Draft:
    """A smaller model that goes on greedily, a few tokens ahead, in sequences of its own."""

    def __init__(self, model: LlamaModel, settings: Mapping[str, Any], streams: int):
        self.model, self.streams = model, streams
        self.sequences = Sequences(model, streams, settings, keeps=True)

    def guesses(self, sequence: int, ids: list[int], most: int) -> list[int]:
        """Tokens that it would go on with after ids."""
        self.sequences.with_room((len(ids) + most) * self.streams)
        self.sequences.cut(sequence, min(common(self.sequences.known[sequence], ids), len(ids) - 1))
        text = list(ids)
        for _ in range(most):
            text.append(int(self.sequences.read(sequence, text, len(text) - 1)[0].argmax()))
        return text[len(ids) :]

    def close(self) -> None:
        self.sequences.close()
        self.model.close()
