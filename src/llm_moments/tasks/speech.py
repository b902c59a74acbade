"""Speech recognition: a Whisper model writes down what is said in sound files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineMissing, InputError, ModelError
from llm_moments.core import Change, Knob, Outputs, Plan, SampleSizes, Step
from llm_moments.core.usage import Usage, usages
from llm_moments.data.audio import Held, check, source_of
from llm_moments.models.generation_settings import asked_by, decoding_of
from llm_moments.steps.chunk import CHUNK, VAD
from llm_moments.steps.fallback import FALLBACK
from llm_moments.steps.features import FEATURES
from llm_moments.steps.speech_tokens import SpeechTokens
from llm_moments.steps.transcribe import Segment, Transcribe
from llm_moments.steps.vad import silero_file
from llm_moments.tasks.generation import engine_changes
from llm_moments.tasks.metrics import char_errors, word_errors
from llm_moments.tasks.speech_support import SpeechSupport

DRAWN = [0.2, 0.4, 0.6, 0.8, 1.0]  # Whisper's own
HEARING = ("transformers", "ctranslate2")  # engines that take speech
PRICED = ("decode.", "fallback.", "features.", "vad.", "chunk.", "speech.", "streams", "threads")
PROMPT = 4  # tokens that an answer begins with: start, language, task, no timestamps
NEW_TOKENS = 224
TOGETHER, LARGE = 8, 600 << 20  # chunks; bytes of weights: Whisper small in float16 is below, medium above
METRICS: dict[str, Callable[[str, str], tuple[int, int]]] = {"WER": word_errors, "CER": char_errors}


@dataclass(frozen=True, slots=True)
class SpeechAnswer:
    """text: all that is said. segments: {"start": s, "end": s, "text": …}, seconds into the sound, with "words" where the
    plan asks for them (speech.words). language: a code. usage: its bill, no part of the answer; "length" ends it where any
    chunk's text did so, whose end is missing then."""

    text: str
    language: str = ""
    segments: list[Segment] = field(default_factory=list)
    usage: Usage = field(default=Usage(), compare=False)


class SpeechRecognition(SpeechSupport):
    """`automatic-speech-recognition`. Outputs: `text`, `language`, `segments` (steps/transcribe.py).

    An example's score is 1 - errors / mean errors there could be: word (or character) edits to the reference, over
    the mean words of all references. So the mean of the scores is exactly 1 - WER of the whole, as WER is usually
    given; a score of one example may be below 0. Texts are compared as Whisper's authors do: lower case, no
    punctuation, and in English contractions written out and numbers as digits.
    """

    name = "automatic-speech-recognition"
    default_metric = "WER"
    files = True
    timed_by: Mapping[str, Any] = {"speech.words": True}
    modality = "audio"
    agrees = ""
    # Eight clips at a time, since fewer do not show what hearing several together saves.
    sizes = SampleSizes(64, 8, 1, {"search": 24, "certify": 48}, {"calibrate": 32, "search": 200, "certify": 1000})

    def __init__(self, model: Any, metric: str | None = None):
        super().__init__(model)
        self.asked_metric = metric or ""
        chosen = (metric or self.default_metric).upper().removeprefix("1 - ")
        if chosen not in METRICS:
            raise InputError(f"unknown metric {metric!r}; speech is judged by {' or '.join(METRICS)}")
        self.kind, self.metric_name = chosen, f"1 - {chosen}"

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        return [Transcribe(plan, engines, tokens_of(self.model), bins_of(self.model))]

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        return {
            "vad": VAD, "chunk": CHUNK, "features": FEATURES, "fallback": FALLBACK, "speech": Transcribe.knobs,
            **self.base_knobs(),
        }  # fmt: skip

    def stock(self) -> dict[str, dict[str, Any]]:
        """CTranslate2: as faster-whisper has it (5 beams, drawn again where bad, no VAD), but chunks are heard apart:
        what was said before is not shown to the model, so that several are written down together. Others: transformers' `generate` (greedy, fp32, never again).
        Over both goes what the folder itself says."""
        fast = self.model.format == "ctranslate2"
        asked = asked_by(self.model)
        decode = {
            name: value
            for name, value in decoding_of(asked).items()
            if name in ("beams", "repetition_penalty", "length_penalty")
        }
        return {
            "chunk": {"length": 30.0}, "speech": spoken(self.model, asked),
            "forward": {"engine": "ctranslate2", "precision": "as-is", "streams": together(self.model)} if fast
            else {"engine": "transformers", "precision": "fp32"},
            "decode": {"beams": 5 if fast else 1, **decode, "max_new_tokens": new_tokens(self.model, asked)},
            "fallback": ({"temperatures": DRAWN} if fast else {}) | fallback_of(asked),
        }  # fmt: skip

    @property
    def speech_tokens(self) -> SpeechTokens:
        return tokens_of(self.model)

    def normalise(self, value: Any) -> Any:
        source = source_of(value)
        if source is None:
            return value
        check(source)
        return value if isinstance(source, Held) else str(source)

    # -- answers and scores

    def answers(self, outputs: Outputs) -> list[Any]:
        return [
            SpeechAnswer(str(text), str(language), json.loads(segments), bill)
            for text, language, segments, bill in zip(
                *(outputs[n] for n in ("text", "language", "segments")), usages(outputs), strict=True
            )
        ]

    def scores(self, outputs: Outputs, references: Sequence[Any]) -> np.ndarray:
        said = zip(outputs["text"], outputs["language"], references, strict=True)
        found = [self._errors(text, language, reference) for text, language, reference in said]
        errors, sizes = np.array(found, np.float64).reshape(-1, 2).T
        return 1 - errors / max(float(sizes.mean()) if len(sizes) else 1.0, 1e-9 if sizes.any() else 1.0)

    def _errors(self, answer: Any, language: Any, reference: Any) -> tuple[int, int]:
        plain = normaliser(str(language) or "en")
        return METRICS[self.kind](plain(str(answer)), plain(str(reference)))

    def bounds(self) -> tuple[float, float]:
        """A transcript may hold any number of words too many."""
        return (-math.inf, 1.0)

    def agreement(self, outputs: Outputs, baseline: Outputs) -> np.ndarray:
        """float64 [n]: the score with the baseline's transcripts as references."""
        return self.scores(outputs, baseline["text"].tolist())

    def divergence(self, outputs: Outputs, others: Outputs) -> np.ndarray:
        """float64 [n]: edits between both texts, over those of the longer one; 0 for the same, 1 for nothing shared."""
        pairs = zip(outputs["text"], outputs["language"], others["text"], others["language"], strict=True)
        return np.array([self._apart(*pair) for pair in pairs], np.float64)

    def _apart(self, one: Any, language: Any, other: Any, its: Any) -> float:
        (errors, size), (_, own) = self._errors(one, language, other), self._errors(other, its, one)
        return errors / max(size, own, 1)

    # -- what a search tries and weigh prices

    def changes(self, plan: Plan) -> list[Change]:
        fast = plan.get_choice("forward.engine") == "ctranslate2"
        found = [one for one in engine_changes(self.model) if one.choices["forward.engine"] in HEARING]
        # What brings most where sounds are short comes first: a search of little time looks at no more.
        if fast:
            found += [
                Change(f"{m:g} s of silence after a chunk, not up to 30 s", {"features.margin": m}, False)
                for m in (3.0, 5.0)
            ]
        found += self._search(plan)
        if fast:
            found.append(Change("one thread a batch, a batch a core", {"forward.threads": 1}, True))
        found += [
            Change(f"{n} chunks together, sorted by length", {"forward.streams": n, "batch.order": "length"}, True)
            for n in ((8, 16) if fast else (4, 8))
        ]
        if fast:
            found.append(
                Change("chunks of 20 s, 3 s of silence after", {"chunk.length": 20.0, "features.margin": 3.0}, False)
            )
        found += self._listening()
        return [one for one in found if any(plan.get_choice(k) != v for k, v in one.choices.items())]

    def alternatives(self, plan: Plan) -> list[Change]:
        found = self.changes(plan)
        beams = plan.get_choice("decode.beams") or 1
        found += [Change(f"{n} beams, not {beams}", {"decode.beams": n}, False) for n in (1, 2, 3, 5) if n != beams]
        found.append(
            Change("1 beam, 5 where unsure", {"decode.beams": 1, "fallback.beams": 5, "fallback.sure": -0.3}, False)
        )
        if not plan.get_choice("fallback.temperatures"):
            found.append(Change("bad answers drawn again", {"fallback.temperatures": DRAWN}, False))
        found += [
            Change("phrases with times", {"speech.timestamps": True}, False),
            Change("chunks share 2 s", {"chunk.overlap": 2.0}, False),
        ]
        # Where the time is short, how the answer is searched for is told before what is heard, and engines last.
        found.sort(
            key=lambda one: next((at for at, part in enumerate(PRICED) if part in next(iter(one.choices))), len(PRICED))
        )
        seen: dict[str, Change] = {}
        for one in found:
            seen.setdefault(json.dumps(one.choices, sort_keys=True), one)
        return list(seen.values())

    @staticmethod
    def _search(plan: Plan) -> list[Change]:
        """How an answer is searched for."""
        found: list[Change] = []
        if (plan.get_choice("decode.beams") or 1) > 1:
            found += [
                Change("1 beam", {"decode.beams": 1}, False),
                Change("3 beams", {"decode.beams": 3}, False),
                Change("2 beams", {"decode.beams": 2}, False),
            ]
        if plan.get_choice("fallback.temperatures"):
            found.append(Change("bad answers stay", {"fallback.temperatures": []}, False))
        return found

    @staticmethod
    def _listening() -> list[Change]:
        kinds = ["silero"] if silero_file() else []
        return [Change(f"silence left out ({kind})", {"vad.kind": kind}, False) for kind in [*kinds, "energy"]]


def together(model: Any) -> int:
    """Chunks that are decoded in one batch: each holds keys and values of 30 s, which are large where the model is."""
    size = sum(file.stat().st_size for file in model.weight_files)
    return TOGETHER if size < LARGE else 2


def spoken(model: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Choices of `speech` that a folder makes: language and task by their names or, as older ones do, by tokens that
    every answer begins with (forced_decoder_ids); ModelError for what this model does not know."""
    times = asked.get("return_timestamps")
    found: dict[str, Any] = {"words": True} if times == "word" else {"timestamps": True} if times else {}
    forced = [token for _, token in sorted(asked.get("forced_decoder_ids", ())) if token is not None]
    if not ({"language", "task"} & set(asked) or forced):
        return found
    tokens = tokens_of(model)
    if not tokens.languages:
        return found  # it writes down English and nothing else
    if "language" in asked:
        found["language"] = tokens.code(asked["language"])
    if "task" in asked:
        found["task"] = asked["task"]
    if not {"language", "task"} & set(asked):
        told = [("language", code, at) for code, at in tokens.languages.items()]
        told += [("task", task, tokens.id(f"<|{task}|>") or 0) for task in ("transcribe", "translate")]
        found |= {name: value for name, value, at in told if at in forced}
    return {name: value for name, value in found.items() if value != "transcribe"}


def new_tokens(model: Any, asked: Mapping[str, Any]) -> int:
    """As the folder says (max_length counts the prompt, too), else 224, as Whisper's authors have it; never more than
    its decoder has places for."""
    most = model.config.get("max_target_positions")
    room = int(most) - PROMPT if isinstance(most, int) else NEW_TOKENS
    told = asked.get("max_new_tokens") or asked.get("max_length", NEW_TOKENS + PROMPT) - PROMPT
    return max(min(int(told), max(room, 1)), 1)


def fallback_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Whisper's ladder, where the folder gives temperatures and the bounds of a bad answer."""
    names = {
        "logprob_threshold": "logprob",
        "no_speech_threshold": "silence",
        "compression_ratio_threshold": "compression",
    }
    found: dict[str, Any] = {knob: float(asked[name]) for name, knob in names.items() if name in asked}
    if isinstance(heats := asked.get("temperature"), list):
        found["temperatures"] = sorted(float(t) for t in heats if t > 0)
    return found


def tokens_of(model: Any) -> SpeechTokens:
    """One for each model: a tokenizer takes a moment to open."""
    if "_speech_tokens" not in model.__dict__:
        model.__dict__["_speech_tokens"] = SpeechTokens(model)
    return model.__dict__["_speech_tokens"]  # type: ignore[no-any-return]


def bins_of(model: Any) -> int | None:
    """Mel bins that the encoder takes; None where the folder does not say (the engine knows)."""
    if isinstance(model.config.get("num_mel_bins"), int):
        return int(model.config["num_mel_bins"])
    file = model.path / "preprocessor_config.json"
    if file.is_file():
        try:
            return int(json.loads(file.read_text(encoding="utf-8"))["feature_size"])
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
    return None


def normaliser(language: str) -> Callable[[str], str]:
    """Whisper's own, as transformers has it (Apache-2.0); for English without its list of British spellings."""
    if language not in _NORMALISERS:
        try:
            from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
        except ImportError as error:
            raise EngineMissing("transformers (its normaliser of transcripts)", "speech") from error
        _NORMALISERS[language] = EnglishTextNormalizer({}) if language == "en" else BasicTextNormalizer()
    return _NORMALISERS[language]


_NORMALISERS: dict[str, Callable[[str], str]] = {}
