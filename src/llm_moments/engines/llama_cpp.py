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

from llm_moments.core import NULL, Recorder
from llm_moments.engines.export import failing_as
from llm_moments.engines.generator import Decoding, Generated, OnText, Prompt
from llm_moments.engines.llama_context import LlamaContext, LlamaModel, Piece
from llm_moments.engines.picking import Picker, looked_up
from llm_moments.engines.text_watch import TextWatch
from llm_moments.errors import EngineError

GUESSES = 4  # tokens a draft model is ahead
GRAIN = 256  # a context has room for a multiple of so many tokens


class LlamaCpp:
    name: ClassVar[str] = "llama.cpp"
    extra: ClassVar[str] = "llama"
    package: ClassVar[str] = "llama_cpp,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("as-is",)
    takes: ClassVar[tuple[str, ...]] = ("threads", "streams", "kv_precision", "prefix_reuse", "draft")
    decodes: ClassVar[tuple[str, ...]] = (
        "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "lookup",
    )  # fmt: skip
    formats: ClassVar[tuple[str, ...]] = ("gguf",)
    cpu_only: ClassVar[bool] = True
    builds: ClassVar[bool] = False

    def __init__(self, file: Path, settings: Mapping[str, Any], tokenizer: Any, draft: Path | None = None):
        self.settings, self.tokenizer = dict(settings), tokenizer
        self.streams, self.reuse = int(settings.get("streams", 1)), bool(settings.get("prefix_reuse"))
        self.model = LlamaModel(file)
        self.draft = Draft(LlamaModel(draft), self.settings, self.streams) if draft else None
        if self.draft and self.draft.model.size != self.model.size:
            raise EngineError(
                f"the draft model knows {self.draft.model.size} tokens, this one {self.model.size}: they cannot guess for each other"
            )
        self.context: LlamaContext | None = None
        self.known: list[list[int]] = [[] for _ in range(self.streams)]  # tokens that each sequence holds

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> LlamaCpp:
        if model.format not in cls.formats:
            raise EngineError(
                f"llama.cpp reads .gguf files, not a {model.format} model; convert it or take another engine"
            )
        draft = None
        if settings.get("draft"):
            from llm_moments.model import open_model

            other = open_model(settings["draft"])
            if other.format != "gguf":
                raise EngineError(f"llama.cpp takes a .gguf file for forward.draft, not {settings['draft']}")
            draft = other.weight_files[0]
        with failing_as("llama.cpp cannot take this model"):
            return cls(model.weight_files[0], settings, model.tokenizer, draft)

    def with_room(self, tokens: int) -> LlamaContext:
        """The context, made anew where it has too little room; what it held is gone then."""
        if self.context is None or self.context.room < tokens:
            self._leave()
            self.context = LlamaContext(self.model, -(-tokens // GRAIN) * GRAIN, self.streams, self.settings)
        return self.context

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        if decoding.lookup and self.draft is not None:
            raise EngineError(
                "llama.cpp guesses from the prompt or by a draft model: unset decode.lookup or forward.draft"
            )
        if any(not p.ids for p in prompts):
            raise EngineError("llama.cpp needs at least one token of prompt")
        longest = sorted((len(p.ids) for p in prompts), reverse=True)[: self.streams]
        ahead = decoding.lookup or (GUESSES if self.draft else 0)
        room = sum(longest) + len(longest) * (decoding.max_new_tokens + ahead)
        with failing_as("llama.cpp failed"):
            if self.reuse:  # what sequences hold from before takes room, too
                room += sum(len(ids) for ids in self.known)
                room = max(room, self.context.room if self.context else 0)
            return _Run(self, self.with_room(room), prompts, decoding, recorder, on_text).answers()

    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        if not 1 <= start < len(ids):
            raise EngineError(f"log-probabilities are told from the second token on, not from {start} of {len(ids)}")
        with failing_as("llama.cpp failed"):
            context = self.with_room(len(ids))
            context.forget(0)
            self.known[0] = []
            rows = []
            for at in range(0, len(ids) - 1, context.most):
                tokens = ids[at : min(at + context.most, len(ids) - 1)]
                told = max(0, min(len(tokens), at + len(tokens) - (start - 1)))
                rows.append(np.array(context.read([Piece(0, at, tokens, told)])[0]))
            context.forget(0)
        logits = np.concatenate(rows)
        logits -= logits.max(-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True, dtype=np.float64)), np.float32)

    def _leave(self) -> None:
        if self.context is not None:
            self.context.close()
        self.context, self.known = None, [[] for _ in range(self.streams)]

    def close(self) -> None:
        self._leave()
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
        self.recorder = recorder
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
                self._step()
                spent[kind] += time.perf_counter() - begun
                steps[kind] += 1
        except BaseException:
            self.engine._leave()  # what its sequences hold is not known any more
            raise
        read, new = sum(len(p.ids) for p in self.prompts), sum(len(one.ids or ()) for one in self.made)
        spared = sum(one.reused for one in self.made)
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
            held = self._held(sequence, ids) if self.engine.reuse else 0
            self.context.forget(sequence, held)
            self.engine.known[sequence] = ids[:held]
            self.made[at].reused = held
            self.open[sequence] = _Open(at, ids, Picker(self.decoding, ids), time.perf_counter(), held)

    def _held(self, sequence: int, ids: list[int]) -> int:
        """How many tokens of the beginning are there now, copied from another sequence if that holds more."""
        known = self.engine.known
        best = max(range(len(known)), key=lambda s: (_common(known[s], ids), s == sequence))
        held = min(_common(known[best], ids), len(ids) - 1)
        if best != sequence and held:
            self.context.copy(best, sequence, held)
        return held

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
            self.engine.known[sequence] = one.ids[: one.read]

    def _take(self, sequence: int, one: _Open, piece: Piece, logits: np.ndarray) -> bool:
        """New tokens of one answer; true when it is done. Guesses count as far as they are what is picked anyway."""
        made, guesses = self.made[one.at], list(piece.tokens[len(piece.tokens) - piece.told + 1 :])
        assert made.ids is not None
        start, done = one.read + len(piece.tokens) - len(guesses), False
        one.read = start
        for at, row in enumerate(logits):
            token = one.picker(row)
            right = at < len(guesses) and guesses[at] == token
            if self.engine.model.ends(token):
                made.finish, done = "stop", True
                break
            made.ids.append(token)
            one.ids.append(token)
            if len(made.ids) == self.decoding.max_new_tokens:
                done = True
                break
            if not right:
                break
            one.read += 1
            self.right += 1
        self.guessed += len(guesses)
        if guesses:
            self.context.forget(sequence, one.read)
        now = time.perf_counter() - one.asked
        made.first_s = now if made.first_s is None else made.first_s
        made.later_s = now - made.first_s
        if self.watch.ended(one.at, made.ids, last=done):
            made.finish, done = "stop", True
        one.guesses = [] if done else self._guesses(sequence, one, self.decoding.max_new_tokens - len(made.ids) - 1)
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
        self.model, self.settings, self.streams = model, settings, streams
        self.context: LlamaContext | None = None
        self.known: list[list[int]] = [[] for _ in range(streams)]

    def guesses(self, sequence: int, ids: list[int], most: int) -> list[int]:
        context = self._with_room((len(ids) + most) * self.streams)
        held = min(_common(self.known[sequence], ids), len(ids) - 1)
        context.forget(sequence, held)
        found: list[int] = []
        todo, at = ids[held:], held
        while len(found) < most:
            for start in range(0, len(todo), context.most):
                part = todo[start : start + context.most]
                last = context.read([Piece(sequence, at + start, part, int(start + len(part) == len(todo)))])[0]
            at += len(todo)
            found.append(int(last[0].argmax()))
            todo = found[-1:]
        self.known[sequence] = [*ids, *found[:-1]]
        return found

    def _with_room(self, tokens: int) -> LlamaContext:
        if self.context is None or self.context.room < tokens:
            self._leave()
            self.context = LlamaContext(self.model, -(-2 * tokens // GRAIN) * GRAIN, self.streams, self.settings)
        return self.context

    def _leave(self) -> None:
        if self.context is not None:
            self.context.close()
        self.context, self.known = None, [[] for _ in range(self.streams)]

    def close(self) -> None:
        self._leave()
        self.model.close()


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
