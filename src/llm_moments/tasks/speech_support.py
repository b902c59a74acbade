"""What a transcript rests on: how likely its tokens are where seconds of the sound are made silent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import InputError
from llm_moments.core import Outputs, Ragged
from llm_moments.core.outputs import texts
from llm_moments.core.parts import AnswerToken, Part, Parts, Support
from llm_moments.data.audio import RATE
from llm_moments.data.audio_parts import samples_of, sound_parts
from llm_moments.engines.generator import Prompt
from llm_moments.engines.scoring import Asked
from llm_moments.steps.speech_tokens import SpeechTokens
from llm_moments.steps.transcribe import Transcribe
from llm_moments.tasks.text_support import TextSupport

LEAST_S = 0.1  # of sound that was not heard and is worth a word


class SpeechSupport(TextSupport):
    """Mixed into speech recognition. A sound is heard in chunks, which stay where they were cut: parts are made silent within
    them. The outputs that are explained have, beside `told`: `counts`, tokens by chunk, and `spans`, four numbers each: the
    chunk, and in samples where it lies in there, where in the sound, and its length."""

    part_kinds = ("seconds",)

    def divided(self, value: Any, kind: str) -> Parts:
        return sound_parts(value)

    def before(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.decoder

    def tokens_of(self, prompt: Prompt, text: str) -> list[int]:
        raise InputError("a transcript's tokens are told by the engine that wrote it")

    @property
    @abstractmethod
    def speech_tokens(self) -> SpeechTokens: ...

    def text_of(self, tokens: Sequence[int]) -> str:
        return self.speech_tokens.raw(tokens)

    def scored_by(self, engine: Any) -> bool:
        return bool(engine.scoring) or engine.name == "ctranslate2"  # which opens a Whisper for such a model

    def explained(self, pipe: Any, value: Any, given: str | None = None) -> Outputs:
        step = self._hearing(pipe)
        chunks, answers, language = step.heard(value)
        told = [step.tokens.words(one.ids or ()) for one in answers]
        if given is not None:
            if len(chunks) != 1:
                raise InputError(
                    f"a transcript that is given is judged of a sound of one chunk; this one has {len(chunks)}"
                )
            told = [list(step.tokens.tokenizer.encode(f" {given.strip()}", add_special_tokens=False).ids)]
        text = given if given is not None else " ".join(said for one in told if (said := step.tokens.text(one)))
        if not any(told):
            raise InputError("nothing was written down: there is no transcript that could rest on anything")
        spans = [[at, *span] for at, chunk in enumerate(chunks) for span in chunk.spans]
        return texts(
            [text], language=np.array([language], np.str_), told=Ragged.of([sum(told, [])], np.int64), ended=np.array([0]),
            counts=Ragged.of([[len(one) for one in told]], np.int64), spans=Ragged.of([spans], np.int64, (4,)),
        )  # fmt: skip

    def support(self, pipe: Any, values: Sequence[Any], answer: Outputs) -> Support:
        rows = [self._asked(pipe, value, answer) for value in values]
        flat = [one for row in rows for one in row]
        known: dict[tuple[bytes, tuple[int, ...]], int] = {}
        keys = [(one.prompt.features.tobytes(), one.told) for one in flat]
        for at, key in enumerate(keys):
            known.setdefault(key, at)  # chunks in which nothing was made silent are heard once
        found = dict(zip(known.values(), self._scores(pipe, [flat[at] for at in known.values()]), strict=True))
        scores = iter(found[known[key]] for key in keys)
        tokens = np.array([np.concatenate([next(scores).logprob for _ in row]) for row in rows])
        read = sum(one.read for one in found.values())
        spared = sum(len(one.told) for one in flat) - sum(len(flat[at].told) for at in known.values())
        return Support(tokens.sum(axis=1), None, tokens, read, spared)

    def answer_tokens(self, pipe: Any, value: Any, answer: Outputs) -> list[AnswerToken]:
        asked = self._asked(pipe, value, answer)
        scores = self._scores(pipe, asked, detailed=True)
        return [
            self._token(one.told, at, told)
            for one, told in zip(asked, scores, strict=True)
            for at in range(len(one.told))
        ]

    def unseen(self, pipe: Any, value: Any) -> list[Part]:
        """Silence that voice activity detection has left out."""
        step = self._hearing(pipe)
        heard = sorted((begin, begin + n) for chunk in step.chunker(value) for _, begin, n in chunk.spans)
        ends = [0, *(end for _, end in heard)]
        starts = [*(begin for begin, _ in heard), len(samples_of(value))]
        return [
            Part(f"{a / RATE:.2f} s to {b / RATE:.2f} s", ("audio", a / RATE, b / RATE))
            for a, b in zip(ends, starts, strict=True)
            if b - a >= LEAST_S * RATE
        ]

    def widest(self, pipe: Any, value: Any) -> Mapping[str, Any] | None:
        return {"vad.kind": "off"} if pipe.plan.settings("vad").get("kind", "off") != "off" else None

    # -- how

    @staticmethod
    def _hearing(pipe: Any) -> Transcribe:
        return next(step for step in pipe.steps if isinstance(step, Transcribe))

    def _asked(self, pipe: Any, value: Any, answer: Outputs) -> list[Asked]:
        """A chunk that something was written of, each."""
        step, samples = self._hearing(pipe), samples_of(value)
        language = str(answer["language"][0])
        begin, plain = (step.tokens.prompt(language, step.task, times) for times in (True, False))
        told, counts, spans = answer["told"].row(0), answer["counts"].row(0), answer["spans"].row(0)
        with pipe.engines.lease(pipe.engine_settings) as engine:
            return [
                Asked(plain, tuple(ids), Prompt(decoder=begin, features=step.features(engine, heard)))
                for ids, heard in _chunks(told, counts, spans, samples)
            ]


def _chunks(
    told: np.ndarray, counts: np.ndarray, spans: np.ndarray, samples: np.ndarray
) -> Iterator[tuple[list[int], np.ndarray]]:
    ends = np.cumsum(counts)
    for at, count in enumerate(counts.tolist()):
        if count:
            parts = [samples[begin : begin + length] for chunk, _, begin, length in spans.tolist() if chunk == at]
            yield told[ends[at] - count : ends[at]].tolist(), np.concatenate(parts)
