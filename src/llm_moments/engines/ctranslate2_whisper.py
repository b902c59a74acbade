"""Whisper in CTranslate2: chunks are encoded and decoded together, several batches at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.alignment import PLACE_S, starts_of
from llm_moments.engines.ctranslate2_generate import CTranslate2Generate, opened, workers_of
from llm_moments.engines.ctranslate2_translate import STORED, converted
from llm_moments.engines.foreign import failing_as
from llm_moments.engines.generator import Decoding, Generated, OnText, Prompt
from llm_moments.engines.scoring import Asked, Scored
from llm_moments.models.generation_settings import asked_by

EARLIEST = 50  # ticks of 0.02 s: the first time is at most 1 s, as in Whisper's own decoding
ALIKE = 0.75  # of the longest chunk of a batch: all are filled up to that, and the encoder hears the filling, too
KEPT = 256 << 20  # bytes of what was encoded to find out languages
AT_ONCE = 3000  # frames that are encoded in one call on a CPU


@dataclass
class _Group:
    """What one batch made, how many places of each row its encoder computed, and the seconds of its two halves."""

    answers: list[Generated]
    places: list[int]
    encoding_s: float
    decoding_s: float


class CTranslate2Whisper(CTranslate2Generate):
    """forward.threads: of one batch; as many batches run at the same time as there are cores for."""

    decodes: ClassVar[tuple[str, ...]] = (
        "temperature", "top_k", "repetition_penalty", "beams", "length_penalty", "seed",
    )  # fmt: skip
    # what is suppressed lies in its own config.json
    rules: ClassVar[tuple[str, ...]] = ("suppress_tokens", "begin_suppress_tokens", "no_repeat_ngram_size")
    hears: ClassVar[bool] = True  # features shorter than 30 s, too

    def __init__(self, folder: Path, settings: Mapping[str, Any], device: str, asked: Mapping[str, Any] | None = None):
        self.workers = workers_of(settings)
        self.streams = int(settings.get("streams", 1))
        self.model: Any = opened("Whisper", folder, settings, device, self.workers)
        self.device, self.computes = str(self.model.device), str(self.model.compute_type)
        self.heard: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by the features' identity: these, and as encoded
        asked = asked or {}
        self.ruled = {
            "no_repeat_ngram_size": int(asked.get("no_repeat_ngram_size", 0)),
            "max_initial_timestamp_index": int(asked.get("max_initial_timestamp_index", EARLIEST)),
        }

    @classmethod
    def open(
        cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str
    ) -> CTranslate2Whisper:
        """A Hugging Face folder is converted first; that is kept in `store`."""
        folder = model.path
        if model.format == "transformers":
            folder = converted(model, store, STORED.get(settings.get("precision", "fp32"), "float32"))
        return cls(folder, settings, device, asked_by(model))

    @property
    def bins(self) -> int:
        return int(self.model.n_mels)

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        import ctranslate2

        if on_text is not None:
            raise EngineError("ctranslate2 gives a transcript when it is whole; it cannot be told piece by piece")
        if decoding.temperature > 0:
            ctranslate2.set_random_seed(decoding.seed)
        size = min(self.streams, -(-len(prompts) // self.workers)) or 1
        groups = grouped(prompts, size)
        start = time.perf_counter()
        made = self.at_once(lambda group: self._together(group, decoding), groups)
        self._tell(recorder, made, time.perf_counter() - start, prompts)
        return [answer for group in made for answer in group.answers]

    def _tell(self, recorder: Recorder, made: Sequence[_Group], seconds: float, prompts: Sequence[Prompt]) -> None:
        """Seconds of this process: where groups overlap, each half has its share of them."""
        encoding, decoding = sum(g.encoding_s for g in made), sum(g.decoding_s for g in made)
        share = encoding / ((encoding + decoding) or 1.0)
        frames = sum(p.features.shape[1] for p in prompts if p.features is not None)
        tokens = sum(len(a.ids or ()) for g in made for a in g.answers)
        places = [group.places for group in made]
        told = {"positions": sum(map(sum, places)), "squares": sum(n * n for some in places for n in some)}
        recorder.spent("encoder", seconds * share, len(made), frames=frames, **told)
        steps = sum(max(len(a.ids or ()) + (a.finish == "stop") for a in group.answers) for group in made)
        recorder.spent("decode", seconds * (1 - share), steps, tokens=tokens)
        recorder.count(prompt_tokens=sum(len(p.decoder) for p in prompts), new_tokens=tokens)

    def _encoded(self, features: Sequence[Any]) -> Any:
        """The encoder's outputs of one batch, all as long as its longest; shorter ones end in their last frame, silence.

        On a CPU few are encoded at a time: the attention of a whole batch, [rows, heads, 1500, 1500], leaves its cache.
        """
        import ctranslate2

        longest = max(f.shape[1] for f in features)
        if (kept := self._kept(features, longest)) is not None:
            return kept
        rows = np.stack([np.pad(f, ((0, 0), (0, longest - f.shape[1])), mode="edge") for f in features])
        size = max(AT_ONCE // longest, 1) if self.device == "cpu" and self.floats else len(rows)
        parts = [
            self.model.encode(
                ctranslate2.StorageView.from_array(np.ascontiguousarray(rows[at : at + size], np.float32))
            )
            for at in range(0, len(rows), size)
        ]
        if len(parts) == 1:
            return parts[0]
        return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(part) for part in parts]))

    def _kept(self, features: Sequence[Any], longest: int) -> Any:
        """What `languages` has encoded of just these features, which is not done again; None where it has not."""
        import ctranslate2

        held = [self.heard.get(id(f)) for f in features]
        if not all(
            one is not None and one[0] is f and 2 * len(one[1]) == longest
            for one, f in zip(held, features, strict=True)
        ):
            return None
        rows = [self.heard.pop(id(f))[1] for f in features]
        return ctranslate2.StorageView.from_array(np.stack(rows))

    @property
    def floats(self) -> bool:
        """Whether what lies between its layers is float32, which numpy can join."""
        return self.model.compute_type in ("float32", "int8", "int8_float32")

    def _together(self, prompts: Sequence[Prompt], decoding: Decoding) -> _Group:
        start, known = time.perf_counter(), id(prompts[0].features) in self.heard
        encoded = self._encoded([p.features for p in prompts])
        middle = time.perf_counter()
        drawn = decoding.temperature > 0
        results = self.model.generate(
            encoded, [list(p.decoder) for p in prompts], beam_size=1 if drawn else decoding.beams,
            length_penalty=decoding.length_penalty, repetition_penalty=decoding.repetition_penalty,
            max_length=_most(decoding.max_new_tokens, max(len(p.decoder) for p in prompts)), return_scores=True,
            return_no_speech_prob=True, sampling_topk=decoding.top_k if drawn else 1,
            sampling_temperature=decoding.temperature if drawn else 1.0, **self.ruled,
        )  # fmt: skip
        answers = [_answer(result, decoding) for result in results]
        longest = max(0 if p.features is None else p.features.shape[1] for p in prompts)
        reused = known and id(prompts[0].features) not in self.heard  # encoded before, to find out its language
        computed = 0 if reused else len(prompts)
        return _Group(answers, [longest // 2] * computed, middle - start, time.perf_counter() - middle)

    def align(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[int]], frames: Sequence[int]
    ) -> list[np.ndarray]:
        """As transformers' (engines/transformers_generate.py) does it."""
        found = []
        for prompt, text, heard in zip(prompts, texts, frames, strict=True):
            encoded = self._encoded([prompt.features])
            try:
                (told,) = self.model.align(encoded, list(prompt.decoder), [list(text)], heard)
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"ctranslate2 cannot tell the times of words: {error}") from error
            found.append(starts_of(told.alignments, len(text), max(heard // 2, 1) * PLACE_S))
        return found

    def scores(self, asked: Sequence[Asked], detailed: bool = False) -> list[Scored]:
        """By CTranslate2's alignment, which tells the tokens' probabilities among all that are no times."""
        found = []
        for one in asked:
            encoded = self._encoded([one.prompt.features])
            frames = one.prompt.features.shape[1]
            with failing_as("ctranslate2 failed"):
                (told,) = self.model.align(encoded, list(one.prompt.decoder), [list(one.told)], frames)
            shares = np.maximum(np.asarray(told.text_token_probs[: len(one.told)], np.float64), 1e-30)
            found.append(Scored(np.log(shares), None, len(one.told)))
        return found

    def languages(self, features: Sequence[np.ndarray], tokens: Any = None) -> list[str]:
        """The likeliest language of each, such as `en`, of those that `tokens` (a SpeechTokens) knows."""
        found: list[str] = []
        self.heard.clear()
        for at in range(0, len(features), self.streams):
            some = features[at : at + self.streams]
            encoded = self._encoded(some)
            found += [row[0][0].strip("<|>") for row in self._detected(encoded, tokens)]
            if self.device == "cpu" and self.floats and sum(row.nbytes for _, row in self.heard.values()) < KEPT:
                self.heard |= {id(f): (f, np.array(row)) for f, row in zip(some, np.asarray(encoded), strict=True)}
        return found

    def _detected(self, encoded: Any, tokens: Any) -> Any:
        try:
            return self.model.detect_language(encoded)
        except RuntimeError as error:
            known = ", ".join(sorted(getattr(tokens, "languages", {}))[:8])
            raise EngineError(
                f"ctranslate2 cannot find out the language with this model ({error}); say it: speech.language, one of {known} …"
            ) from error

    def forget(self) -> None:
        self.heard.clear()


def grouped(prompts: Sequence[Prompt], most: int) -> list[list[Prompt]]:
    """Runs of at most so many prompts whose lengths are alike: what is much shorter than the longest begins another."""
    groups: list[list[Prompt]] = []
    longest = 0
    for prompt in prompts:
        frames = 0 if prompt.features is None else prompt.features.shape[1]
        if not groups or len(groups[-1]) == most or min(frames, longest) < ALIKE * max(frames, longest):
            groups.append([])
            longest = 0
        groups[-1].append(prompt)
        longest = max(longest, frames)
    return groups


def _most(new: int, prompt: int) -> int:
    """The max_length that allows so many new tokens: ctranslate2 gives half of it to an answer, and what a prompt leaves."""
    return max(2 * new, new + prompt)


def _answer(result: Any, decoding: Decoding) -> Generated:
    ids = list(result.sequences_ids[0])
    total = result.scores[0] * max(len(ids), 1) ** decoding.length_penalty  # ctranslate2's score is penalised by length
    cut = len(ids) >= decoding.max_new_tokens
    score = float(total / max(len(ids) + (not cut), 1))  # the end is a token, too
    return Generated(ids, finish="length" if cut else "stop", score=score, silence=float(result.no_speech_prob))
