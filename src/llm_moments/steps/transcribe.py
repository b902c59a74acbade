"""From sounds to transcripts: decode, resample, find speech, cut, hear, write down; a portion at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from llm_moments.base.errors import PlanError
from llm_moments.core import NULL, Batch, Knob, Recorder, one_of
from llm_moments.core.outputs import Outputs, texts
from llm_moments.core.usage import numbers
from llm_moments.data.audio import RATE
from llm_moments.engines.generator import Decoding, Generated, Prompt, settle
from llm_moments.models.generation_settings import tell
from llm_moments.steps.chunk import Chunk, Chunker
from llm_moments.steps.fallback import Ladder
from llm_moments.steps.features import FRAMES, HOP, LogMel
from llm_moments.steps.speech_tokens import SpeechTokens
from llm_moments.steps.words import as_dicts, words_of

PORTION_S = 600.0  # seconds of speech whose chunks are held, and decoded in groups of like length
SPEECH = (
    Knob("language", "", (), False, lambda v: isinstance(v, str), "a code such as en; '': found out from each sound's first chunk, where the model knows several"),
    Knob("task", "transcribe", (), False, one_of("transcribe", "translate"), "transcribe, or translate: into English"),
    Knob("timestamps", False, (False, True), False, one_of(False, True), "true: the model writes times, so that segments are phrases; false: segments are chunks"),
    Knob("words", False, (False, True), True, one_of(False, True), "true: each segment has its words with their times (one more pass of the decoder)"),
)  # fmt: skip
Segment = dict[str, Any]


def transcripts(said: Sequence[str], segments: Sequence[Sequence[Segment]], languages: Sequence[str]) -> Outputs:
    """text: all that is said. segments, as JSON: {"start": s, "end": s, "text": …} in seconds of the sound, and where
    they were asked for "words": [{"start": s, "end": s, "word": …}, …]. language: a code."""
    told = [json.dumps(list(some), default=float) for some in segments]  # numpy's numbers among them
    return texts(said, language=np.array(languages, np.str_), segments=np.array(told, np.str_))


class Transcribe:
    """Writes `outputs`: `text`, `language` and `segments` of each row (`transcripts`).

    Sound is read in blocks and chunks are gathered over rows until a portion is full, so that memory has a bound
    and short sounds share batches. The recorder is told the steps of every portion.
    """

    name = "transcribe"
    reads: tuple[str, ...] = ("input",)
    writes: tuple[str, ...] = ("outputs",)
    knobs: tuple[Knob, ...] = SPEECH

    def __init__(self, plan: Mapping[str, Any], engines: Any, tokens: SpeechTokens, bins: int | None):
        part = {
            name: dict(plan.get(name, {}))
            for name in ("vad", "chunk", "features", "forward", "decode", "fallback", "speech", "batch")
        }
        self.settings, self.engines, self.tokens = part["forward"], engines, tokens
        self.chunker = Chunker(part["vad"], part["chunk"])
        self.bins, self.margin = bins, float(part["features"].get("margin", 0.0))
        self.decoding = Decoding.of(part["decode"])
        if part["decode"].get("logprobs", -1) >= 0:
            raise PlanError("a transcript is told without log-probabilities of its tokens; take decode.logprobs back")
        self.ladder = Ladder(part["fallback"], self.decoding, self._plain)
        self.language, self.task = part["speech"].get("language", ""), part["speech"].get("task", "transcribe")
        self.timestamps, self.words = (bool(part["speech"].get(k)) for k in ("timestamps", "words"))
        if self.words and self.chunker.overlap:
            raise PlanError(
                "speech.words has no times for words that two chunks heard: take chunk.overlap or speech.words back"
            )
        self.by_length = part["batch"].get("order") == "length"

    @property
    def engine(self) -> Any:
        return self._able(self.engines.get(self.settings))

    def _able(self, engine: Any) -> Any:
        if self.margin and not engine.hears:
            raise PlanError(
                f"{engine.name} hears 30 s at a time and no less; take features.margin back or use ctranslate2"
            )
        return engine

    def __call__(self, batch: Batch, recorder: Recorder) -> Batch:
        asked = time.perf_counter()
        with self.engines.lease(self.settings, recorder) as engine:
            load_s = time.perf_counter() - asked
            return self._by(self._able(engine), batch, recorder).told(load_s=np.full(batch.size, load_s))

    def _by(self, engine: Any, batch: Batch, recorder: Recorder) -> Batch:
        settle(self.decoding, engine)
        tell(self.engines.model_for(self.settings), engine, self.decoding)
        found: list[list[tuple[Chunk, list[Segment]]]] = [[] for _ in range(batch.size)]
        spoken = [self.language or ("" if self.tokens.languages else "en")] * batch.size
        made: list[list[Generated]] = [[] for _ in range(batch.size)]
        for portion in self._portions(batch["input"], recorder):
            written, answers = self._written(portion, spoken, engine, recorder)
            for (row, chunk), segments, answer in zip(portion, written, answers, strict=True):
                found[row].append((chunk, segments))
                made[row].append(answer)
        with recorder.step("detokenize", items=batch.size):
            whole = [_whole(parts) for parts in found]
        said = [" ".join(s["text"] for s in segments if s["text"]) for segments in whole]
        ends = ["length" if any(one.finish == "length" for one in some) else "stop" for some in made]
        return batch.with_(outputs=transcripts(said, whole, spoken)).told(
            completion_tokens=numbers(sum(len(one.ids or ()) for one in some) for some in made),
            finish_reason=np.array(ends, np.str_),
        )

    def _portions(self, values: Sequence[Any], recorder: Recorder) -> Iterator[list[tuple[int, Chunk]]]:
        portion: list[tuple[int, Chunk]] = []
        seconds = 0.0
        for row, value in enumerate(values):
            for chunk in self.chunker(value, recorder):
                portion.append((row, chunk))
                seconds += len(chunk.samples) / RATE
                if seconds >= PORTION_S:
                    yield portion
                    portion, seconds = [], 0.0
        if portion:
            yield portion

    def _written(
        self, portion: Sequence[tuple[int, Chunk]], spoken: list[str], engine: Any, recorder: Recorder
    ) -> tuple[list[list[Segment]], list[Generated]]:
        """The segments of each chunk, and what the engine said of it."""
        order, prompts, answers = self._answers(portion, spoken, engine, recorder)
        starts = self._starts(prompts, answers, [portion[at] for at in order], spoken, engine, recorder)
        made: list[list[Segment]] = [[] for _ in portion]
        told: list[Any] = [None] * len(portion)
        with recorder.step("detokenize"):
            for at, answer, times in zip(order, answers, starts, strict=True):
                row, chunk = portion[at]
                made[at], told[at] = self._segments(chunk, answer, times, spoken[row]), answer
        return made, told

    def _answers(
        self, portion: Sequence[tuple[int, Chunk]], spoken: list[str], engine: Any, recorder: Recorder
    ) -> tuple[list[int], list[Prompt], list[Generated]]:
        """In the order in which chunks are heard: their places, what the engine is given, and what it writes."""
        with recorder.step("features", items=len(portion)):
            hear = LogMel(self.bins or engine.bins, self.margin)
            heard = [hear(chunk.samples) for _, chunk in portion]
            recorder.count(
                frames=sum(min(len(c.samples) // HOP, FRAMES) for _, c in portion),
                padded_frames=sum(f.shape[1] for f in heard),
            )
        self._find_languages(portion, heard, spoken, engine, recorder)
        order = list(range(len(portion)))
        if self.by_length:
            order.sort(key=lambda at: -len(portion[at][1].samples))
        prompts = [
            Prompt(decoder=self.tokens.prompt(spoken[portion[at][0]], self.task, self.timestamps), features=heard[at])
            for at in order
        ]
        with recorder.step("decode", items=len(prompts)):
            answers, again = self.ladder.climb(
                len(prompts), lambda rows, decoding: engine.generate([prompts[r] for r in rows], decoding, recorder)
            )
            recorder.count(asked_again=again)
        return order, prompts, answers

    def heard(self, value: Any) -> tuple[list[Chunk], list[Generated], str]:
        """Of one sound its chunks, what was written of each, silent ones as nothing, and the language."""
        portion = [(0, chunk) for chunk in self.chunker(value)]
        spoken = [self.language or ("" if self.tokens.languages else "en")]
        if not portion:
            return [], [], spoken[0]
        with self.engines.lease(self.settings) as leased:
            order, _, answers = self._answers(portion, spoken, self._able(leased), NULL)
        in_order = sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])
        silent = Generated([], "")
        return (
            [chunk for _, chunk in portion],
            [silent if self.ladder.silent(one) else one for _, one in in_order],
            spoken[0],
        )

    def features(self, engine: Any, samples: np.ndarray) -> np.ndarray:
        """float32 [bins, frames] of a chunk's samples, as the engine is given them."""
        return LogMel(self.bins or engine.bins, self.margin)(samples)

    def _starts(
        self, prompts: Sequence[Prompt], answers: Sequence[Generated], portion: Sequence[tuple[int, Chunk]],
        spoken: Sequence[str], engine: Any, recorder: Recorder,
    ) -> list[np.ndarray | None]:  # fmt: skip
        """When each token of an answer's text begins, in seconds of its chunk; None where nobody asked, or none was said."""
        found: list[np.ndarray | None] = [None] * len(answers)
        asked = [at for at, one in enumerate(answers) if self.words and one.ids and not self.ladder.silent(one)]
        if asked:
            with recorder.step("words", items=len(asked)):
                texts = [self.tokens.words(answers[at].ids or ()) for at in asked]
                frames = [min(len(portion[at][1].samples) // HOP, FRAMES) for at in asked]
                begun = [self.tokens.prompt(spoken[portion[at][0]], self.task, True) for at in asked]
                told = engine.align(
                    [replace(prompts[at], decoder=b) for at, b in zip(asked, begun, strict=True)], texts, frames
                )
            for at, times in zip(asked, told, strict=True):
                found[at] = times
        return found

    def _find_languages(
        self, portion: Sequence[tuple[int, Chunk]], heard: Sequence[Any], spoken: list[str], engine: Any, recorder: Recorder
    ) -> None:  # fmt: skip
        first = {row: at for at, (row, _) in reversed(list(enumerate(portion))) if not spoken[row]}
        if not first:
            return
        with recorder.step("language", items=len(first)):
            found = engine.languages([heard[at] for at in first.values()], self.tokens)
            for row, language in zip(first, found, strict=True):
                spoken[row] = language

    def _plain(self, one: Generated) -> str:
        return one.text if one.text is not None else self.tokens.text(one.ids or ())

    def _segments(self, chunk: Chunk, answer: Generated, starts: np.ndarray | None, language: str) -> list[Segment]:
        if self.ladder.silent(answer):
            return []
        if answer.ids is None:
            text = self._plain(answer).replace("\x00", "").strip()
            return [_segment(chunk.begin, chunk.end, text)] if text else []
        length = len(chunk.samples) / RATE
        parts = (
            self.tokens.timed(answer.ids, length) if self.timestamps else [(0.0, length, self.tokens.words(answer.ids))]
        )
        made, at = [], 0
        for begin, end, ids in parts:
            text = self.tokens.text(ids).replace("\x00", "")
            own = None if starts is None else starts[at : at + len(ids) + 1]
            at += len(ids)
            if not text:
                continue
            segment = _segment(chunk.time(begin), chunk.time(end) if self.timestamps else chunk.end, text)
            if own is not None:
                segment["words"] = as_dicts(words_of(ids, own, self.tokens.raw, language), chunk.time)
            made.append(segment)
        return made


def _segment(start: float, end: float, text: str) -> Segment:
    return {"start": round(start, 2), "end": round(end, 2), "text": text}


def _whole(parts: Sequence[tuple[Chunk, list[Segment]]]) -> list[Segment]:
    """The segments of all of a sound's chunks, in order; words that two chunks heard both are written once."""
    segments: list[Segment] = []
    for chunk, some in parts:
        if chunk.joined and segments and some:
            segments[-1], some = _merged(segments[-1], some)
        segments += some
    return segments


def _merged(last: Segment, some: list[Segment]) -> tuple[Segment, list[Segment]]:
    """The end of one text and the beginning of the next, cut at the middle of the longest run of words both have."""
    one, other = last["text"].split(), some[0]["text"].split()
    tail, head = one[-30:], other[:30]
    match = SequenceMatcher(
        None, [_bare(w) for w in tail], [_bare(w) for w in head], autojunk=False
    ).find_longest_match()
    if not match.size or (match.size == 1 and (match.b > 3 or len(tail) - match.a > 4)):
        return last, some
    kept = one[: len(one) - len(tail) + match.a + match.size]
    rest = other[match.b + match.size :]
    return {**last, "text": " ".join(kept)}, [{**some[0], "text": " ".join(rest)}, *some[1:]]


def _bare(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())
