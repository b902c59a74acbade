"""transformers' own `generate`: the reference that every other generating engine is held against."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder
from llm_moments.engines import transformers_scoring
from llm_moments.engines.constrained import Grammars
from llm_moments.engines.foreign import failing_as
from llm_moments.engines.generator import Decoding, Generated, Generator, OnText, Prompt
from llm_moments.engines.scoring import Asked, Scored
from llm_moments.engines.sharing import in_precision, shared
from llm_moments.engines.threads import compute_with
from llm_moments.engines.torch_eager import DTYPES, best_device
from llm_moments.engines.transformers_scoring import cache_word
from llm_moments.models.generation_settings import RULES


class TransformersGenerate(Generator):
    name: ClassVar[str] = "transformers"
    extra: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    takes: ClassVar[tuple[str, ...]] = ("threads", "streams", "skip_layers", "prefix_reuse", "draft")
    decodes: ClassVar[tuple[str, ...]] = (
        "temperature", "top_p", "top_k", "repetition_penalty", "beams", "length_penalty", "seed", "stop", "lookup",
        "json_schema",
    )  # fmt: skip
    rules: ClassVar[tuple[str, ...]] = tuple(RULES)  # they are its own
    formats: ClassVar[tuple[str, ...]] = ("transformers", "gguf")
    cpu_only: ClassVar[bool] = False
    builds: ClassVar[bool] = False

    def __init__(self, module: Any, tokenizer: Any, settings: Mapping[str, Any], device: str, draft: Any = None):
        import torch

        self.torch, self.module, self.tokenizer, self.device, self.draft = torch, module, tokenizer, device, draft
        self.streams, self.reuse = int(settings.get("streams", 1)), bool(settings.get("prefix_reuse"))
        self.threads = int(settings.get("threads", 0))
        self.speech = hasattr(module.config, "num_mel_bins")
        self.encodes = bool(getattr(module.config, "is_encoder_decoder", False))
        # 1 while it reads a prompt, 2 while it makes tokens, 3 in its encoder: for whoever watches its layers
        self.phase = 0
        self._grammars: Grammars | None = None
        self._cache: tuple[list[int], Any] | None = (
            None  # tokens of the last prompt and answer, and their keys and values
        )

    @classmethod
    def open(
        cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str
    ) -> TransformersGenerate:
        import torch

        device = best_device(device)
        dtype = getattr(torch, DTYPES[settings.get("precision", "fp32")])
        module = in_precision(shared(model, settings.get("skip_layers", ())), device, dtype)
        draft = None
        if settings.get("draft"):
            from llm_moments.models.open import open_model

            draft = in_precision(shared(open_model(settings["draft"])), device, dtype)
        tokenizer = None if "num_mel_bins" in model.config else model.tokenizer
        return cls(module, tokenizer, settings, device, draft)

    @classmethod
    def refuses(cls, model: Any, settings: Mapping[str, Any]) -> str:
        if model.format not in cls.formats:
            return f"transformers reads no {model.format} model; its own engine does"
        return ""

    # -- answers

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        if self.device == "cpu":
            compute_with(self.threads)
        made: list[Generated] = []
        size = self.streams if self.encodes or not self._asked("min_length") else 1  # it counts padding, too
        for start in range(0, len(prompts), size):
            told = partial(_further, on_text, start) if on_text else None
            with failing_as("transformers failed"):
                made += self._together(prompts[start : start + size], decoding, recorder, told)
        return made

    def _asked(self, *names: str) -> bool:
        """Whether the folder asks for one of these rules."""
        config = self.module.generation_config
        return any(getattr(config, name, None) not in (None, RULES[name][0]) for name in names)

    def _together(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder, on_text: OnText | None
    ) -> list[Generated]:
        torch = self.torch
        torch.manual_seed(decoding.seed)
        if self.speech:
            return self._heard(prompts, decoding, recorder, on_text)
        inputs, widths = self._inputs(prompts)
        if (decoding.lookup or self.draft is not None) and len(prompts) > 1:
            raise EngineError("transformers guesses tokens ahead for one prompt at a time; set forward.streams = 1")
        # Beams share one cache, and guesses leave it with other tokens than the answer's: neither can go on with it.
        guesses = bool(decoding.lookup) or self.draft is not None
        keeps = self.reuse and len(prompts) == 1 and not self.encodes and decoding.beams == 1 and not guesses
        reused = self._from_cache(prompts, inputs) if keeps else 0
        begun = inputs["decoder_input_ids"].shape[1] if "decoder_input_ids" in inputs else 1 if self.encodes else widths
        if prompts[0].decoder:
            inputs["decoder_start_token_id"] = prompts[0].decoder[0]  # else the model's own would be set before it
        watch = _Watch(self, begun, decoding.stop, on_text, [p.limit(decoding) for p in prompts])
        apart = self.encodes and self.draft is None and not decoding.lookup
        apart = apart and not self._asked("encoder_no_repeat_ngram_size", "encoder_repetition_penalty")  # they see ids
        options = self._options(decoding) | self._kept_to(decoding, len(prompts), begun)
        start = time.perf_counter()
        with torch.inference_mode():
            if apart:
                inputs = self._encoded(inputs)
            middle = time.perf_counter()
            self.phase = 1
            try:
                out = self.module.generate(**inputs, **options, stopping_criteria=[watch], return_dict_in_generate=True)
            except BaseException:
                if reused and watch.stopped is not None:  # by who reads the answer, between two tokens
                    self._cache = (watch.stopped, inputs[cache_word()])
                raise
        end = time.perf_counter()
        self.phase = 0
        rows = out.sequences[:, begun:].tolist()
        answers = [self._answer(row[: p.limit(decoding)], decoding) for row, p in zip(rows, prompts, strict=True)]
        first = (watch.times[0] if watch.times else end) - start
        for answer in answers:
            answer.first_s, answer.later_s, answer.reused = first, end - start - first, reused
            if decoding.lookup or self.draft is not None:  # each step made one token of its own
                answer.accepted = max(watch.steps - watch.calls, 0)
        if keeps and _kinds(getattr(out, cache_word(), None)) <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
            self._cache = (out.sequences[0].tolist(), getattr(out, cache_word()))
        read = sum(map(_length, prompts))
        if apart:
            places = inputs["attention_mask"].numel()
            told = {"tokens": read, "positions": places, "squares": places * widths}
            recorder.spent("encoder", middle - start, 1, **told)
            recorder.spent("prefill", first - (middle - start), len(prompts), tokens=begun * len(prompts))
        else:
            recorder.spent("prefill", first, len(prompts), tokens=read - reused, reused_tokens=reused)
        recorder.spent("decode", end - start - first, max(watch.steps - 1, 0), tokens=sum(map(_new, answers)))
        _tell_when(recorder, start, end, watch.times, answers)
        return answers

    def _heard(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder, on_text: OnText | None
    ) -> list[Generated]:
        from llm_moments.engines.transformers_speech import together

        if on_text is not None:
            raise EngineError("a transcript is given when it is whole; it cannot be told piece by piece")
        return together(self, prompts, decoding, recorder, _Watch(self, len(prompts[0].decoder), (), None))

    def languages(self, features: Sequence[np.ndarray], tokens: Any) -> list[str]:
        """The likeliest language of each chunk's features, such as `en`. tokens: a SpeechTokens."""
        from llm_moments.engines.transformers_speech import languages

        return languages(self, features, tokens)

    def align(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[int]], frames: Sequence[int]
    ) -> list[np.ndarray]:
        """Of each text's token ids the seconds into its chunk at which they begin, and the end: float64 [len + 1].

        frames: of each chunk's features those that are sound, not filling. The prompts are those with times.
        """
        from llm_moments.engines.alignment import aligned
        from llm_moments.engines.transformers_speech import encode

        return aligned(self, prompts, texts, frames, encode)

    def _inputs(self, prompts: Sequence[Prompt]) -> tuple[dict[str, Any], int]:
        torch = self.torch
        inputs: dict[str, Any] = {}
        width = 0
        if self.speech:
            from llm_moments.engines.transformers_speech import encode

            inputs["encoder_outputs"] = encode(self, [p.features for p in prompts])
        else:
            width = max(len(p.ids) for p in prompts)
            pad = self._pad()
            ids, mask = np.full((len(prompts), width), pad), np.zeros((len(prompts), width), np.int64)
            for row, prompt in enumerate(prompts):
                where = slice(0, len(prompt.ids)) if self.encodes else slice(width - len(prompt.ids), width)
                ids[row, where], mask[row, where] = prompt.ids, 1
            inputs = {
                "input_ids": torch.from_numpy(ids).to(self.device),
                "attention_mask": torch.from_numpy(mask).to(self.device),
            }
        if prompts[0].decoder:
            inputs["decoder_input_ids"] = torch.tensor([p.decoder for p in prompts], device=self.device)
        return inputs, width

    def _encoded(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The encoder's outputs in the place of the ids that it read."""
        self.phase = 3
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        made = self.module.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        return {**{k: v for k, v in inputs.items() if k != "input_ids"}, "encoder_outputs": made}

    def _pad(self) -> int:
        config = self.module.generation_config
        for value in (config.pad_token_id, getattr(self.module.config, "pad_token_id", None), *self.ends()):
            if isinstance(value, int) and value >= 0:
                return value
        return 0

    def ends(self) -> list[int]:
        found = self.module.generation_config.eos_token_id
        if found is None:
            found = getattr(self.module.config, "eos_token_id", None)
        return [] if found is None else [found] if isinstance(found, int) else list(found)

    def _options(self, decoding: Decoding) -> dict[str, Any]:
        drawn = decoding.temperature > 0
        chosen: dict[str, Any] = {
            "max_new_tokens": decoding.max_new_tokens, "do_sample": drawn, "num_beams": decoding.beams,
            "repetition_penalty": decoding.repetition_penalty, "pad_token_id": self._pad(), "max_length": None,
            "use_cache": True,
        }  # fmt: skip
        if drawn:
            chosen |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
        if decoding.beams > 1:
            chosen["length_penalty"] = decoding.length_penalty
        if decoding.lookup:
            chosen["prompt_lookup_num_tokens"] = decoding.lookup
        if self.draft is not None:
            chosen["assistant_model"] = self.draft
        return chosen

    def _kept_to(self, decoding: Decoding, rows: int, begun: int) -> dict[str, Any]:
        """What `generate` is given for answers that keep to a JSON schema."""
        if not decoding.json_schema:
            return {}
        if decoding.beams > 1 or decoding.lookup or self.draft is not None:
            raise EngineError(
                "transformers keeps to decode.json_schema a token at a time: unset decode.beams, decode.lookup and forward.draft"
            )
        if self._grammars is None:
            size = self.module.get_output_embeddings().weight.shape[0]
            self._grammars = Grammars(self.tokenizer, self.ends(), int(size))
        return {"logits_processor": [self._grammars.masks(decoding.json_schema, rows, begun)]}

    def _answer(self, ids: list[int], decoding: Decoding) -> Generated:
        ends = set(self.ends())
        at = next((i for i, token in enumerate(ids) if token in ends), None)
        return Generated(ids if at is None else ids[:at], finish="length" if at is None else "stop")

    def _from_cache(self, prompts: Sequence[Prompt], inputs: dict[str, Any]) -> int:
        """Tokens at the beginning that were read for the last prompt and need not be read again. What is kept is given
        away: it is there again when the answer is made, as it holds other tokens from now on."""
        if self._cache is None:
            return 0
        (known, cache), self._cache = self._cache, None
        ids = prompts[0].ids
        same = next((i for i, (a, b) in enumerate(zip(known, ids, strict=False)) if a != b), min(len(known), len(ids)))
        same = min(same, len(ids) - 1, cache.get_seq_length())
        if same < 1:
            return 0
        if over := cache.get_seq_length() - same:
            if _kinds(cache) != {"DynamicLayer"}:
                return 0  # what has left a sliding window cannot be had back
            cache.crop(-over)
        inputs[cache_word()] = cache
        return same

    # -- likelihood

    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        torch = self.torch
        if not 1 <= start < len(ids):
            raise EngineError(f"log-probabilities are told from the second token on, not from {start} of {len(ids)}")
        with torch.inference_mode(), failing_as("transformers failed"):
            tokens = torch.tensor([list(ids)], device=self.device)
            if self.encodes:
                inputs, _ = self._inputs([prompt or Prompt()])
                inputs.pop("decoder_input_ids", None)
                logits = self.module(**inputs, decoder_input_ids=tokens).logits
            else:
                logits = self.module(input_ids=tokens).logits
            told = torch.log_softmax(logits[0, start - 1 : len(ids) - 1].float(), dim=-1)
            return np.asarray(told.cpu().numpy())

    def scores(self, asked: Sequence[Asked], detailed: bool = False) -> list[Scored]:
        with failing_as("transformers failed"):
            return transformers_scoring.scores(self, asked, detailed)

    def forget(self) -> None:
        """What was kept of earlier prompts: a pass that is timed must not find its own prompts in it."""
        self._cache = None

    def close(self) -> None:
        self.module = self._cache = self.draft = None


def _further(on_text: OnText, start: int, at: int, piece: str) -> None:
    on_text(start + at, piece)


def _kinds(cache: Any) -> set[str]:
    """The classes of its layers; those of transformers that hold states of another kind cannot be cut."""
    return {type(layer).__name__ for layer in getattr(cache, "layers", None) or (cache,)}


def _length(prompt: Prompt) -> int:
    return len(prompt.ids) if prompt.features is None else prompt.features.shape[-1]


def _new(answer: Generated) -> int:
    return len(answer.ids or ())


def _tell_when(
    recorder: Recorder, start: float, end: float, times: Sequence[float], answers: Sequence[Generated]
) -> None:
    """Each prompt of a batch, its prefill, and each step of the decoder."""
    if not recorder.active:
        return
    for answer in answers:
        recorder.ran("prompt", start, end - start, first_s=answer.first_s or 0.0, tokens=_new(answer))
    recorder.ran("prefill", start, (times[0] if times else end) - start, prompts=len(answers))
    for before, now in itertools.pairwise(times):
        recorder.ran("decode step", before, now - before, prompts=len(answers))


class _Watch:
    """Called after every token: notes the time, tells new text, and ends rows that wrote a stop string."""

    def __init__(
        self, engine: TransformersGenerate, begun: int, stop: Sequence[str], on_text: OnText | None,
        most: Sequence[int] = (),
    ):  # fmt: skip
        """most: new tokens of each row, where some may have fewer than the others."""
        self.engine, self.begun, self.stop, self.on_text, self.most = engine, begun, stop, on_text, most
        self.times: list[float] = []
        self.steps = self.calls = 0
        self.told: dict[int, str] = {}
        self.stopped: list[int] | None = None  # all tokens of the first row, where whoever reads them wanted no more

    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        try:
            return self._seen(ids)
        except BaseException:
            self.stopped = ids[0].tolist()
            raise

    def _seen(self, ids: Any) -> Any:
        torch = self.engine.torch
        if not self.times:
            self.engine.phase = 2
        self.calls += 1
        self.times.append(time.perf_counter())
        self.steps = ids.shape[1] - self.begun
        done = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        if self.most and self.steps >= min(self.most):
            each = ids.shape[0] // len(self.most)  # rows of one answer: its beams
            done |= torch.tensor([self.steps >= n for n in self.most for _ in range(each)], device=ids.device)
        if (self.stop or self.on_text) and self.engine.tokenizer is not None:
            if self.most and ids.shape[0] != len(self.most):
                self.on_text = None  # of several beams none is the answer before the end
            for row in range(ids.shape[0]):
                done[row] |= self._looked_at(row, ids[row, self.begun :].tolist())
        return done

    def _looked_at(self, row: int, ids: list[int]) -> bool:
        text = self.engine.tokenizer.decode(self.engine._answer(ids, Decoding()).ids, skip_special_tokens=True)
        at = min((at for word in self.stop if (at := text.find(word)) >= 0), default=-1)
        shown = text[:at] if at >= 0 else text
        if self.on_text is not None and not shown.endswith("\ufffd"):  # half a character: the rest comes
            piece = shown[len(self.told.get(row, "")) :]
            if piece:
                self.on_text(row, piece)
                self.told[row] = shown
        return at >= 0
